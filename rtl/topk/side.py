# SPDX-License-Identifier: Apache-2.0
"""One of quick-select's two sequences (section 4.3)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.lib.banked import BankedRows
from rtl.lib.concentrate import ZeroEliminator
from rtl.lib.widths import index_bits
from rtl.topk.layout import keys_layout, lane_bits, row_bits

DRAW_BITS = 16
"""Bits of a draw that choose the pivot: its upper half."""


class Side(wiring.Component):
    """FIFO of the keys on one side of the pivot, with their number and the next pivot's place.

    The sequence that a pass reads is written back in place: keys only leave it.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    restart : In(1)
        A pass begins: the sequence is empty; it can still be read until it is overwritten.
    keep, i : In(P), In(keys_layout)
        Codes of a row, and which belong here; the FIFO has them two cycles later.
    draw : In(DRAW_BITS)
        What chooses the next pivot; constant from a `restart` to the next.
    row : In
        Row to read.
    o : Out(keys_layout)
        The row of the cycle before.
    count : Out(range(P + 1))
        Keys that are written in this cycle.
    size : Out(count_bits)
        Keys written before.
    pivot_row, pivot_lane : Out
        Where key number (draw * size) >> DRAW_BITS is; the product grows with the size.
    """

    restart: Signal
    keep: Signal
    i: Any
    draw: Signal
    row: Signal
    o: Any
    count: Signal
    size: Signal
    pivot_row: Signal
    pivot_lane: Signal

    def __init__(self, spec: TopkSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "restart": In(1),
                "keep": In(spec.lanes),
                "i": In(keys_layout(spec)),
                "draw": In(DRAW_BITS),
                "row": In(row_bits(spec)),
                "o": Out(keys_layout(spec)),
                "count": Out(range(spec.lanes + 1)),
                "size": Out(spec.count_bits),
                "pivot_row": Out(row_bits(spec)),
                "pivot_lane": Out(index_bits(spec.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        m.submodules.eliminator = eliminator = ZeroEliminator(
            spec.lanes, spec.key_bits, registered=False
        )
        m.submodules.fifo = fifo = BankedRows(spec.lanes, spec.key_bits, spec.memory_depth)
        product = Signal(spec.count_bits + DRAW_BITS)
        place = product[DRAW_BITS:]
        m.d.comb += [
            eliminator.en.eq(1),
            eliminator.restart.eq(self.restart),
            eliminator.keep.eq(self.keep),
            eliminator.i.eq(self.i),
            self.count.eq(eliminator.count),
            fifo.restart.eq(self.restart),
            fifo.filled.eq(eliminator.filled),
            fifo.wraps.eq(eliminator.wraps),
            fifo.full.eq(eliminator.full),
            fifo.i.eq(eliminator.o),
            fifo.row.eq(self.row),
            self.o.eq(fifo.o),
            self.pivot_lane.eq(place[: lane_bits(spec)]),
            self.pivot_row.eq(place[lane_bits(spec) :]),
        ]
        with m.If(self.restart):
            m.d.sync += [self.size.eq(0), product.eq(0)]
        with m.Else():
            m.d.sync += [
                self.size.eq(self.size + self.count),
                product.eq(product + self.draw * self.count),
            ]
        return m
