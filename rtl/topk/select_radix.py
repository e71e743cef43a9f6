# SPDX-License-Identifier: Apache-2.0
"""Radix select: one digit per pass, most significant first (section 4.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.lib.histogram import CumulativeHistogram
from rtl.lib.lanes import lanes_below
from rtl.lib.prefix import ones
from rtl.topk.candidates import Candidates
from rtl.topk.layout import choice_layout
from rtl.topk.selector import Selector


class SelectRadix(Selector):
    """Finds the cut digit by digit among the keys that agree with the digits chosen so far.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    choice : In(choice_layout)
        Comes with `task`: the job's first digit.
    matched : Out(range(P + 1))
        Keys that the histogram counts, for monitors. The other ports are those of `Selector`.
    """

    choice: Any
    matched: Signal

    def __init__(self, spec: TopkSpec) -> None:
        super().__init__(
            spec, {"choice": In(choice_layout(spec)), "matched": Out(range(spec.lanes + 1))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, held = self._spec, self.held
        chosen = Signal()  # the registers show a choice in this cycle
        self._hold(m, chosen)
        choice: Any = Signal(choice_layout(spec))
        # Bit j: digit j is chosen.
        level = Signal(spec.digits)
        m.d.comb += self.first.eq(chosen & (held.trivial | (choice.spare == 0) | level[-1]))
        next_choice: Any = Signal(choice_layout(spec))
        counted = Signal()  # `next_choice` is the choice of the pass that ends
        if spec.digits > 1:
            self._pass(m, choice, level, next_choice, counted)
        m.d.sync += chosen.eq(self.hand | counted)
        with m.If(self.hand):
            m.d.sync += [choice.eq(self.choice), level.eq(1)]
        with m.Elif(counted):
            m.d.sync += [choice.eq(next_choice), level.eq(Cat(1, level))]
        self._cut(m, choice, level, counted, next_choice)
        return m

    def _cut(
        self, m: Module, choice: Any, level: Signal, counted: Signal, next_choice: Any
    ) -> None:
        """Keep the digits as they are chosen; show them as a prefix."""
        spec, cut = self._spec, self.cut
        prefix: list[Value] = []
        mask: list[Value] = []
        for number, width in enumerate(spec.digit_widths):
            digit = Signal(width, name=f"digit_{number}")
            if number == 0:
                with m.If(self.hand):
                    m.d.sync += digit.eq(self.choice.digit)
            else:
                with m.If(counted & level[number - 1] & ~level[number]):
                    m.d.sync += digit.eq(next_choice.digit)
            counts = level[number] & ~self.held.trivial
            prefix.insert(0, digit & counts.replicate(width))
            mask.insert(0, counts.replicate(width))
        m.d.comb += [
            cut.prefix.eq(Cat(prefix)),
            cut.mask.eq(Cat(mask)),
            # Of a trivial job every key ties: none or all of them are kept.
            cut.ties.eq(Mux(self.held.trivial, self.held.kept, -choice.short)),
        ]

    def _pass(
        self, m: Module, choice: Any, level: Signal, next_choice: Any, counted: Signal
    ) -> None:
        """Read the candidates, match the last digit, count the next one."""
        spec, P = self._spec, self._spec.lanes
        m.submodules.candidates = candidates = Candidates(spec)
        m.submodules.histogram = histogram = CumulativeHistogram(
            P, spec.digit_widths[1], spec.count_bits
        )
        issue, runs, last = Signal(), Signal(), Signal()
        left = Signal(spec.count_bits)
        matched = Signal(spec.count_bits)  # keys that this pass matches and the next one reads
        from_bank = Signal()
        lanes = Signal(P)
        m.d.comb += [
            issue.eq(self.passes | runs),
            last.eq(issue & (left <= P)),
            self.read_bank.eq(issue & from_bank),
            self.read_memory.eq(issue & ~from_bank),
            candidates.restart.eq(self.passes),
            candidates.row.eq(self.row),
            candidates.i.eq(self.i),
            candidates.from_bank.eq(from_bank),
            candidates.lanes.eq(lanes),
            candidates.digit.eq(choice.digit),
            # The pass for the last digit has none after it.
            candidates.keep.eq(~level[-2]),
            histogram.start.eq(self.passes),
            histogram.short.eq(choice.short),
            histogram.spare.eq(choice.spare),
            histogram.digits.eq(candidates.digits),
            next_choice.digit.eq(histogram.digit),
            next_choice.short.eq(histogram.short_next),
            next_choice.spare.eq(histogram.spare_next),
            self.matched.eq(ones(candidates.match)),
            self.written.eq(candidates.written),
        ]
        m.d.sync += lanes.eq(lanes_below(left, spec.lanes) & issue.replicate(P))
        with m.If(issue):
            m.d.sync += [runs.eq(~last), left.eq(left - P), self.row.eq(self.row + 1)]
        with m.If(self.passes):
            m.d.sync += matched.eq(choice.spare - choice.short)
        with m.If(counted):
            m.d.sync += [from_bank.eq(0), left.eq(matched), self.row.eq(0)]
        with m.If(self.hand):
            m.d.sync += [from_bank.eq(1), left.eq(self.task.n), self.row.eq(0)]
        m.d.comb += counted.eq(self._ended(m, last))
