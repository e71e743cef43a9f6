# SPDX-License-Identifier: Apache-2.0
"""A memory of rows with one bank per lane, written by what a zero eliminator puts out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.lib.widths import index_bits


class BankedRows(wiring.Component):
    """Rows of lanes, filled lane after lane from row 0 on.

    Every lane has a bank with an address of its own, so that one write can complete a row and
    begin the next. Rows may be read while the same sequence, with lanes dropped, is written back in
    place: what has been written never exceeds what has been read.

    Parameters
    ----------
    lanes, bits : int
        Lanes of a row and width of a lane.
    depth : int
        Rows.

    Members
    -------
    restart : In(1)
        The next write goes to row 0; nothing is written in this cycle.
    filled, wraps, full, i : In
        A concentrated row (`rtl.lib.concentrate.ZeroEliminator`), written in this cycle.
    row : In(range(depth))
        Row to read.
    o : Out(array of lanes, bits)
        The row of the cycle before, with all writes up to two cycles before.
    """

    restart: Signal
    filled: Signal
    wraps: Signal
    full: Signal
    i: Any
    row: Signal
    o: Any

    def __init__(self, lanes: int, bits: int, depth: int) -> None:
        self._lanes, self._bits, self._depth = lanes, bits, depth
        super().__init__(
            {
                "restart": In(1),
                "filled": In(lanes),
                "wraps": In(lanes),
                "full": In(1),
                "i": In(data.ArrayLayout(bits, lanes)),
                "row": In(index_bits(depth)),
                "o": Out(data.ArrayLayout(bits, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Both addresses are registers, so that a bank's address is behind one multiplexer.
        this, after = Signal(index_bits(self._depth)), Signal(index_bits(self._depth), init=1)
        with m.If(self.restart):
            m.d.sync += [this.eq(0), after.eq(1)]
        with m.Elif(self.full):
            m.d.sync += [this.eq(after), after.eq(after + 1)]
        for lane in range(self._lanes):
            memory = Memory(shape=self._bits, depth=self._depth, init=[])
            m.submodules[f"bank_{lane}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.filled[lane]),
                write.addr.eq(Mux(self.wraps[lane], after, this)),
                write.data.eq(self.i[lane]),
                read.addr.eq(self.row),
                self.o[lane].eq(read.data),
            ]
        return m
