# SPDX-License-Identifier: Apache-2.0
"""Radix select: one digit per pass, most significant first (section 4.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import PASS_LATENCY, TopkSpec
from rtl.lib.histogram import CumulativeHistogram
from rtl.lib.lanes import lanes_below
from rtl.lib.prefix import ones
from rtl.topk.candidates import Candidates
from rtl.topk.layout import (
    choice_layout,
    cut_layout,
    keys_layout,
    row_bits,
    task_layout,
)


class SelectRadix(wiring.Component):
    """Finds the cut digit by digit among the keys that agree with the digits chosen so far.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    hand, task, choice : In(1), In(task_layout), In(choice_layout)
        A job begins with the choice of its first digit; only while `idle`.
    idle : Out(1)
        A register: the stage is free.
    known, cut : Out(1), Out(cut_layout)
        The cut is decided; it stays until `take`.
    first : Out(1)
        In this cycle it is decided.
    take : In(1)
        The job leaves in this cycle.
    held : Out(task_layout)
        The job.
    row, i : Out, In(keys_layout)
        Row of the bank to read, and the row of the cycle before.
    passes, read_bank, read_memory, matched, written : Out
        Strobes and amounts for monitors.
    """

    hand: Signal
    task: Any
    choice: Any
    idle: Signal
    known: Signal
    first: Signal
    cut: Any
    take: Signal
    held: Any
    row: Signal
    i: Any
    passes: Signal
    read_bank: Signal
    read_memory: Signal
    matched: Signal
    written: Signal

    def __init__(self, spec: TopkSpec) -> None:
        self._spec = spec
        amount = range(spec.lanes + 1)
        super().__init__(
            {
                "hand": In(1),
                "task": In(task_layout(spec)),
                "choice": In(choice_layout(spec)),
                "idle": Out(1),
                "known": Out(1),
                "first": Out(1),
                "cut": Out(cut_layout(spec)),
                "take": In(1),
                "held": Out(task_layout(spec)),
                "row": Out(row_bits(spec)),
                "i": In(keys_layout(spec)),
                "passes": Out(1),
                "read_bank": Out(1),
                "read_memory": Out(1),
                "matched": Out(amount),
                "written": Out(amount),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, held = self._spec, self.held
        idle = Signal(init=1)
        chosen = Signal()  # the registers show a choice in this cycle
        waits = Signal()  # decided, and the filter is not free
        choice: Any = Signal(choice_layout(spec))
        # Bit j: digit j is chosen.
        level = Signal(spec.digits)
        m.d.comb += [
            self.idle.eq(idle),
            self.first.eq(chosen & (held.trivial | (choice.spare == 0) | level[-1])),
            self.known.eq(self.first | waits),
            self.passes.eq(chosen & ~self.first),
        ]
        next_choice: Any = Signal(choice_layout(spec))
        counted = Signal()  # `next_choice` is the choice of the pass that ends
        if spec.digits > 1:
            self._pass(m, choice, level, next_choice, counted)
        m.d.sync += [chosen.eq(self.hand | counted), waits.eq(self.known & ~self.take)]
        with m.If(self.hand):
            m.d.sync += [
                held.eq(self.task), choice.eq(self.choice), level.eq(1), idle.eq(0),
            ]  # fmt: skip
        with m.Elif(counted):
            m.d.sync += [choice.eq(next_choice), level.eq(Cat(1, level))]
        with m.If(self.take):
            m.d.sync += idle.eq(1)
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
        ended = last
        for stage in range(PASS_LATENCY["radix"]):
            delayed = Signal(name=f"last_{stage}")
            m.d.sync += delayed.eq(ended)
            ended = delayed
        m.d.comb += counted.eq(ended)
