# SPDX-License-Identifier: Apache-2.0
"""Loop counters of tiles, and distances between events."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.blocks import Blocks


def k_bits(spec: W4A8Spec) -> int:
    """Bits of a counter that holds 0..max_k."""
    return spec.max_k.bit_length()


def tile_sizes(spec: W4A8Spec) -> tuple[int, int]:
    """Rows and columns of a tile (os), or of an m-chunk and an n-tile (ws)."""
    rows = spec.array_rows if spec.dataflow == "os" else spec.acc_rows
    return rows, spec.array_cols


def spacing(m: Module, name: str, cycles: int, event: Value, *, clear: Value) -> Value:
    """Return 1 where `event` was not high in any of the last `cycles` - 1 cycles since `clear`."""
    if cycles < 2:
        return Const(1)
    left = Signal(range(cycles), name=name)
    far = Signal(name=f"{name}_far", init=1)
    with m.If(clear):
        m.d.sync += [left.eq(0), far.eq(1)]
    with m.Elif(event):
        m.d.sync += [left.eq(cycles - 1), far.eq(0)]
    with m.Elif(~far):
        m.d.sync += [left.eq(left - 1), far.eq(left == 1)]
    return far


class TileLoop(wiring.Component):
    """The tiles of a job, m outer and n inner.

    Parameters
    ----------
    m_tile, n_tile : int
        Largest tile.

    Members
    -------
    start : In(1)
        Loads `m` and `n`; the first tile shows in the next cycle.
    m, n : In(32)
        Dimensions, sampled with `start`.
    n_again : In(32)
        `n` of the running job, read when a new row of tiles begins.
    next : In(1)
        Goes to the next tile; ignored after the last.
    rows, cols : Out
        Extent of the present tile, registers.
    m_more, n_more : Out(1)
        Tiles follow in this dimension, registers.
    single : Out(1)
        With `start` or `next`: the tile that shows in the next cycle has one row.
    """

    start: Signal
    m: Signal
    n: Signal
    n_again: Signal
    next: Signal
    rows: Signal
    cols: Signal
    m_more: Signal
    n_more: Signal
    single: Signal

    def __init__(self, m_tile: int, n_tile: int) -> None:
        self._m_tile, self._n_tile = m_tile, n_tile
        super().__init__(
            {
                "start": In(1),
                "m": In(32),
                "n": In(32),
                "n_again": In(32),
                "next": In(1),
                "rows": Out(range(m_tile + 1)),
                "cols": Out(range(n_tile + 1)),
                "m_more": Out(1),
                "n_more": Out(1),
                "single": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        outer = Blocks(self._m_tile, 32, "m")
        inner = Blocks(self._n_tile, 32, "n")
        with m.If(self.start):
            m.d.sync += [*outer.load(self.m), *inner.load(self.n)]
        with m.Elif(self.next):
            with m.If(inner.more):
                m.d.sync += inner.step()
            with m.Else():
                m.d.sync += [*inner.load(self.n_again), *outer.step()]
        single = Mux(inner.more, outer.part == 1, outer.left == self._m_tile + 1)
        m.d.comb += [
            self.single.eq(Mux(self.start, self.m == 1, single) if self._m_tile > 1 else 1),
            self.rows.eq(outer.part),
            self.cols.eq(inner.part),
            self.m_more.eq(outer.more),
            self.n_more.eq(inner.more),
        ]
        return m
