# SPDX-License-Identifier: Apache-2.0
"""Quick-select with two FIFOs, as SpAtten publishes it (section 4.3)."""

from __future__ import annotations

import operator
from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.lib.lanes import count_below, lanes_below
from rtl.lib.lfsr import Lfsr
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.topk.layout import balance, keys_layout, lane_bits, order_code, row_bits
from rtl.topk.selector import Selector
from rtl.topk.side import DRAW_BITS, Side


class SelectQuick(Selector):
    """Divides the keys at a random pivot until the cut lies among those equal to it.

    Nothing waits for an addition: a side's count, its distance to the need and the pivot's place in
    it, a product, grow with every row, so that a pass begins with a choice of registers.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    need : In(count_bits)
        Comes with `task`; of no account where that is trivial.
    compared : Out(range(P + 1))
        Keys compared with the pivot, for monitors. The other ports are those of `Selector`.
    """

    need: Signal
    compared: Signal

    def __init__(self, spec: TopkSpec) -> None:
        super().__init__(
            spec, {"need": In(spec.count_bits), "compared": Out(range(spec.lanes + 1))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, held, cut = self._spec, self.held, self.cut
        m.submodules.lfsr = lfsr = Lfsr(spec.seed)
        m.submodules.larger = larger = Side(spec)
        m.submodules.smaller = smaller = Side(spec)
        draw = lfsr.value[-DRAW_BITS:]
        starts = Signal()
        self._hold(m, starts)
        opens = Signal()  # the next pass is the job's first, on the bank
        whole = Signal(spec.count_bits + DRAW_BITS)  # n times the draw, for that pass
        # Minus the need; larger keys, and keys that are not smaller, minus the need.
        short, above, reached = (Signal(balance(spec)) for _ in range(3))
        next_short = Signal(balance(spec))
        to_larger = Signal()
        m.d.comb += [
            to_larger.eq(~above[-1]),
            self.first.eq(starts & Mux(opens, held.trivial, above[-1] & ~reached[-1])),
            lfsr.draw.eq(self.passes),
            next_short.eq(Mux(opens | to_larger, short, reached)),
            cut.mask.eq((~held.trivial).replicate(spec.key_bits)),
            cut.ties.eq(Mux(held.trivial, held.kept, -above)),
            self.written.eq(larger.count + smaller.count),
        ]
        for side in (larger, smaller):
            m.d.comb += [side.draw.eq(draw), side.restart.eq(self.passes)]
        entering = register(m, Const(1), self.compared, name="entering", stages=2)
        with m.If(self.passes):
            m.d.sync += [
                opens.eq(0), short.eq(next_short), above.eq(next_short), reached.eq(next_short),
            ]  # fmt: skip
        with m.Else():
            m.d.sync += [
                above.eq(above + larger.count),
                reached.eq(reached + (entering - smaller.count)),
            ]
        with m.If(self.hand):
            m.d.sync += [opens.eq(1), short.eq(-self.need), whole.eq(draw * self.task.n)]
        ended = self._read(m, larger, smaller, starts, opens, to_larger, whole)
        m.d.sync += starts.eq(self.hand | ended)
        return m

    def _read(
        self,
        m: Module,
        larger: Side,
        smaller: Side,
        starts: Signal,
        opens: Signal,
        to_larger: Signal,
        whole: Signal,
    ) -> Signal:
        """Read the pivot's row and then the sequence; return the strobe a cycle before a START."""
        spec = self._spec
        place = whole[DRAW_BITS:]
        runs, last = Signal(), Signal()
        left = Signal(spec.count_bits)
        row = Signal(row_bits(spec))
        lane = Signal(index_bits(spec.lanes))
        from_bank, from_larger = Signal(), Signal()
        lanes = Signal(spec.lanes)
        m.d.comb += [
            # At a START every memory reads its own pivot's row; one of them is looked at.
            self.row.eq(Mux(starts, place[lane_bits(spec) :], row)),
            larger.row.eq(Mux(starts, larger.pivot_row, row)),
            smaller.row.eq(Mux(starts, smaller.pivot_row, row)),
            last.eq(runs & (left <= spec.lanes)),
            self.compared.eq(Mux(runs, count_below(left, spec.lanes), 0)),
            self.read_bank.eq(Mux(starts, self.passes & opens, runs & from_bank)),
            self.read_memory.eq(Mux(starts, self.passes & ~opens, runs & ~from_bank)),
        ]
        m.d.sync += lanes.eq(lanes_below(left, spec.lanes) & runs.replicate(spec.lanes))
        with m.If(runs):
            m.d.sync += [runs.eq(~last), left.eq(left - spec.lanes), row.eq(row + 1)]
        with m.If(self.passes):
            m.d.sync += [runs.eq(1), row.eq(0), from_bank.eq(opens), from_larger.eq(to_larger)]
            with m.If(opens):
                m.d.sync += [left.eq(self.held.n), lane.eq(place[: lane_bits(spec)])]
            with m.Elif(to_larger):
                m.d.sync += [left.eq(larger.size), lane.eq(larger.pivot_lane)]
            with m.Else():
                m.d.sync += [left.eq(smaller.size), lane.eq(smaller.pivot_lane)]
        source = Mux(from_larger, larger.o.as_value(), smaller.o.as_value())
        stored = data.View(keys_layout(spec), source)
        codes: Any = Signal(keys_layout(spec))
        m.d.comb += [
            codes[number].eq(Mux(from_bank, order_code(spec, self.i[number]), stored[number]))
            for number in range(spec.lanes)
        ]
        self._divide(m, larger, smaller, codes, lanes, lane)
        return self._ended(m, last, before=1)

    def _divide(
        self, m: Module, larger: Side, smaller: Side, codes: Any, lanes: Signal, lane: Signal
    ) -> None:
        """Take the pivot from a pass's first row, and give every later key to its side."""
        spec = self._spec
        pivot = Signal(spec.key_bits)
        pivot_there = Signal()
        m.d.sync += pivot_there.eq(self.passes)
        with m.If(pivot_there):
            m.d.sync += pivot.eq(codes[lane] if spec.lanes > 1 else codes[0])
        m.d.comb += self.cut.prefix.eq(Mux(self.held.trivial, 0, pivot))
        for side, belongs in ((larger, operator.gt), (smaller, operator.lt)):
            m.d.comb += side.i.eq(codes)
            m.d.comb += [
                side.keep[number].eq(lanes[number] & belongs(codes[number], pivot))
                for number in range(spec.lanes)
            ]
