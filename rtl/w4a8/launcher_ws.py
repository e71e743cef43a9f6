# SPDX-License-Identifier: Apache-2.0
"""Loader and launcher of the weight-stationary array (section 5.3)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import pending
from rtl.lib.widths import index_bits
from rtl.w4a8.layout import (
    a_choices,
    a_slots,
    column_layout,
    result_layout,
    row_layout,
    scale_slots,
    w_codes,
)
from rtl.w4a8.loops import TileLoop, k_bits, spacing, tile_sizes

WRITE_BACK = 3
"""Cycles from the launch of a wave to the first launch that reads what it wrote."""


class LoaderWs(wiring.Component):
    """Issues the R load steps of each pass, one per cycle at most.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, job : In(1), In(m, n, k, group)
        A job begins; `job` stays.
    w_usable, s_usable : In(1)
        The next k-tile of weights is complete; the next scale beat is there.
    first_wave, last_wave : In(1)
        The launcher launches the first, or last, wave of a pass in this cycle.
    column_wave : Out(column_layout)
        Where the weights of this cycle's step lie.
    release : Out(1)
        This cycle's step is the last of its pass.
    loaded : Out(1)
        `release`, Q cycles later: from the next cycle on wave 0 finds its weights.
    rows : Out(R)
        Rows whose load chain shifts, Q cycles after the step: those that codes up to this one
        reach.
    load, load_cols, load_step, scale_pop : Out
        A step is issued, its tile's columns, its number, and whether it takes a scale beat.
    """

    start: Signal
    job: Any
    w_usable: Signal
    s_usable: Signal
    first_wave: Signal
    last_wave: Signal
    column_wave: Any
    release: Signal
    loaded: Signal
    rows: Signal
    load: Signal
    load_cols: Signal
    load_step: Signal
    scale_pop: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        self._group = spec.scales == "group"
        names = ("m", "n", "k", "group") if self._group else ("m", "n", "k")
        ports = {
            "start": In(1),
            "job": In(data.StructLayout(dict.fromkeys(names, 32))),
            "w_usable": In(1),
            "column_wave": Out(column_layout(spec)),
            "release": Out(1),
            "loaded": Out(1),
            "rows": Out(spec.array_rows),
            "load": Out(1),
            "load_cols": Out(range(spec.array_cols + 1)),
            "load_step": Out(index_bits(spec.array_rows)),
            "scale_pop": Out(1),
        }
        ports["first_wave" if spec.double_buffer else "last_wave"] = In(1)
        if self._group:
            ports["s_usable"] = In(1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job, load = self._spec, self.job, self.load
        R = spec.array_rows
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(spec))
        active, zero = Signal(), Signal()
        step = Signal(range(R))
        left = Signal(k_bits(spec))  # codes of the tile that are not loaded yet
        slot = Signal(range(spec.prefetch_chunks))
        last_step, tile_ends = Signal(), Signal()
        begins = Signal(init=1)
        m.d.comb += [
            last_step.eq(step == R - 1),
            tile_ends.eq(last_step & (left <= 1)),
            zero.eq(left == 0),
            self.release.eq(load & last_step),
        ]
        ready = ~begins | (self.w_usable & self._gate(m))
        scales = self._scales(m, begins, zero, tile_ends) if self._group else Const(1)
        m.d.comb += load.eq(active & ready & scales)

        with m.If(self.start):
            m.d.sync += [active.eq(1), left.eq(job.k)]
        with m.Elif(load):
            m.d.sync += [
                step.eq(Mux(last_step, 0, step + 1)),
                begins.eq(last_step),
                slot.eq(slot + last_step),
            ]
            with m.If(tile_ends):
                m.d.sync += [left.eq(job.k), active.eq(tiles.m_more | tiles.n_more)]
            with m.Elif(~zero):
                m.d.sync += left.eq(left - 1)

        index: Value = step
        if R < w_codes(spec):
            part = Signal(range(w_codes(spec) // R))
            index = Cat(step, part)
            with m.If(load & last_step):
                m.d.sync += part.eq(Mux(tile_ends, 0, part + 1))
        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.m.eq(job.m),
            tiles.n.eq(job.n),
            tiles.n_again.eq(job.n),
            tiles.next.eq(load & tile_ends),
            self.column_wave.slot.eq(slot),
            self.column_wave.index.eq(index),
            self.column_wave.zero.eq(zero),
            self.load_cols.eq(tiles.cols),
            self.load_step.eq(step),
        ]
        self._delayed(m, step)
        return m

    def _gate(self, m: Module) -> Value:
        """Return 1 where the pass before has left the load chain (no overlap: the array)."""
        opened = Signal(init=1)
        event = self.first_wave if self._spec.double_buffer else self.last_wave
        with m.If(self.release):
            m.d.sync += opened.eq(0)
        with m.Elif(event):
            m.d.sync += opened.eq(1)
        return opened | event if self._spec.double_buffer else opened

    def _scales(self, m: Module, begins: Value, zero: Value, tile_ends: Value) -> Value:
        """Count the codes of a group; return 1 where the step needs no scale beat or has one."""
        left = Signal(k_bits(self._spec), name="group_left")
        group_begins = Signal()
        slot = Signal(range(scale_slots(self._spec)), name="scale_slot")
        with m.If(self.start | (self.load & (tile_ends | (left == 1)))):
            m.d.sync += [left.eq(self.job.group), group_begins.eq(1)]
        with m.Elif(self.load):
            m.d.sync += [left.eq(left - 1), group_begins.eq(0)]
        with m.If(self.scale_pop):
            m.d.sync += slot.eq(slot + 1)
        needed = (begins | group_begins) & ~zero
        m.d.comb += [
            self.scale_pop.eq(self.load & needed),
            self.column_wave.pop.eq(self.scale_pop),
            self.column_wave.scale_slot.eq(slot),
        ]
        return ~needed | self.s_usable

    def _delayed(self, m: Module, step: Value) -> None:
        """Let the row enables and `loaded` wait for the requantiser."""
        rows: Value = Cat(self.load & (step >= row) for row in range(self._spec.array_rows))
        loaded: Value = self.release
        for stage in range(self._spec.requant_stages):
            rows_reg = Signal(self._spec.array_rows, name=f"rows_{stage}")
            loaded_reg = Signal(name=f"loaded_{stage}")
            m.d.sync += [rows_reg.eq(rows), loaded_reg.eq(loaded)]
            rows, loaded = rows_reg, loaded_reg
        m.d.comb += [self.rows.eq(rows), self.loaded.eq(loaded)]


class LauncherWs(wiring.Component):
    """Decides when row m of a pass starts into the array.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, job : In(1), In(m, n, k)
        A job begins; `job` stays.
    a_usable : In(1)
        The next activation beat is there.
    loaded : In(1)
        The weights of the next pass are complete from the next cycle.
    give : In(1)
        The drain returns a result row.
    row_wave, result : Out(row_layout), Out(result_layout)
        Control of the wave of this cycle.
    last_wave : Out(1)
        The wave of this cycle is the last of its pass.
    pass_first : Out(1)
        The wave of this cycle is the first of its pass.
    wave, wave_first, wave_rows, wave_cols : Out
        A wave is launched, it belongs to the first k-tile, codes of its k-tile, columns of its
        tile.
    """

    start: Signal
    job: Any
    a_usable: Signal
    loaded: Signal
    give: Signal
    row_wave: Any
    result: Any
    pass_first: Signal
    last_wave: Signal
    wave: Signal
    wave_first: Signal
    wave_rows: Signal
    wave_cols: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "job": In(data.StructLayout(dict.fromkeys(("m", "n", "k"), 32))),
                "a_usable": In(1),
                "loaded": In(1),
                "give": In(1),
                "row_wave": Out(row_layout(spec)),
                "result": Out(result_layout(spec)),
                "pass_first": Out(1),
                "last_wave": Out(1),
                "wave": Out(1),
                "wave_first": Out(1),
                "wave_rows": Out(range(spec.array_rows + 1)),
                "wave_cols": Out(range(spec.array_cols + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job, wave = self._spec, self.job, self.wave
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(spec))
        k_tiles = Blocks(spec.array_rows, k_bits(spec), "k")
        active, first_row, last_row, first_tile = Signal(), Signal(), Signal(), Signal()
        row = Signal(range(spec.acc_rows))
        tile_ends = Signal()

        # What the drain returns is counted a cycle late, and so it counts by itself in that cycle.
        takes, given = wave & first_tile, Signal()
        m.d.sync += given.eq(self.give)
        free = given | pending(m, "free", spec.result_rows, given, takes, init=spec.result_rows)
        far_first = spacing(m, "since_first", spec.period_min, self.pass_first, clear=self.start)
        far_last = spacing(m, "since_last", WRITE_BACK, self.last_wave, clear=self.start)
        loaded = Signal()
        with m.If(self.loaded):
            m.d.sync += loaded.eq(1)
        with m.Elif(self.pass_first):
            m.d.sync += loaded.eq(0)
        m.d.comb += [
            wave.eq(
                active
                & self.a_usable
                & (~first_row | (far_first & loaded))
                & (~last_row | far_last)
                & (~first_tile | free)
            ),
            self.pass_first.eq(wave & first_row),
            self.last_wave.eq(wave & last_row),
            tile_ends.eq(self.last_wave & ~k_tiles.more),
        ]
        with m.If(self.start):
            m.d.sync += [*k_tiles.load(job.k), active.eq(1), first_row.eq(1), first_tile.eq(1)]
            m.d.sync += last_row.eq(tiles.single)
        with m.Elif(wave):
            again = Mux(tile_ends, tiles.single, tiles.rows == 1)
            m.d.sync += [row.eq(Mux(last_row, 0, row + 1)), first_row.eq(last_row)]
            m.d.sync += last_row.eq(Mux(last_row, again, row + 2 == tiles.rows))
            with m.If(tile_ends):
                m.d.sync += [*k_tiles.load(job.k), first_tile.eq(1)]
                m.d.sync += active.eq(tiles.m_more | tiles.n_more)
            with m.Elif(last_row):
                m.d.sync += [*k_tiles.step(), first_tile.eq(0)]
        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.m.eq(job.m),
            tiles.n.eq(job.n),
            tiles.n_again.eq(job.n),
            tiles.next.eq(tile_ends),
            self.wave_first.eq(takes),
            self.wave_rows.eq(k_tiles.part),
            self.wave_cols.eq(tiles.cols),
        ]
        self._operand(m, tile_ends)
        self._result(m, first_tile, k_tiles.more, tile_ends)
        return m

    def _operand(self, m: Module, tile_ends: Value) -> None:
        slot = Signal(range(a_slots(self._spec)))
        part = Signal(range(a_choices(self._spec)))
        with m.If(self.wave):
            m.d.sync += slot.eq(slot + 1)
        with m.If(tile_ends):
            m.d.sync += part.eq(0)
        with m.Elif(self.last_wave):
            m.d.sync += part.eq(part + 1)
        m.d.comb += [
            self.row_wave.first.eq(self.pass_first),
            self.row_wave.slot.eq(slot),
            self.row_wave.index.eq(part),
        ]

    def _result(self, m: Module, first_tile: Value, more: Value, tile_ends: Value) -> None:
        """Count result words: every k-tile of a tile goes through the same ones."""
        bits = index_bits(self._spec.result_rows)
        addr, base = Signal(bits), Signal(bits)
        with m.If(tile_ends):
            m.d.sync += [addr.eq(addr + 1), base.eq(addr + 1)]
        with m.Elif(self.last_wave):
            m.d.sync += addr.eq(base)
        with m.Elif(self.wave):
            m.d.sync += addr.eq(addr + 1)
        m.d.comb += [
            self.result.en.eq(self.wave),
            self.result.add.eq(~first_tile),
            self.result.done.eq(~more),
            self.result.addr.eq(addr),
        ]
