# SPDX-License-Identifier: Apache-2.0
"""What both select stages have in common: ports, and how a job comes, is decided and leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from cosil.engines.topk import PASS_LATENCY, TopkSpec
from rtl.lib.pipeline import register
from rtl.topk.layout import cut_layout, keys_layout, row_bits, task_layout


class Selector(wiring.Component):
    """A stage that finds the cut of one job after the other in passes over its keys.

    Parameters
    ----------
    spec : TopkSpec
    members : mapping of str to Member
        Ports of one architecture only.

    Members
    -------
    hand, task : In(1), In(task_layout)
        A job begins; only while `idle`.
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
    passes, read_bank, read_memory : Out(1)
        Strobes for monitors: a pass begins; a row of the bank, of the stage's own memory is read.
    written : Out(range(P + 1))
        Keys written to the stage's own memory, for monitors.
    """

    hand: Signal
    task: Any
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
    written: Signal

    def __init__(self, spec: TopkSpec, members: Mapping[str, Member]) -> None:
        self._spec = spec
        super().__init__(
            {
                "hand": In(1),
                "task": In(task_layout(spec)),
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
                "written": Out(range(spec.lanes + 1)),
                **members,
            }
        )

    def _hold(self, m: Module, judged: Signal) -> None:
        """Hold a job from `hand` to `take`.

        In a cycle with `judged`, the job is either decided (`first`) or needs another pass.
        """
        idle, waits = Signal(init=1), Signal()
        m.d.comb += [
            self.idle.eq(idle),
            self.known.eq(self.first | waits),
            self.passes.eq(judged & ~self.first),
        ]
        m.d.sync += waits.eq(self.known & ~self.take)
        with m.If(self.hand):
            m.d.sync += [self.held.eq(self.task), idle.eq(0)]
        with m.If(self.take):
            m.d.sync += idle.eq(1)

    def _ended(self, m: Module, last: Signal, before: int = 0) -> Signal:
        """Return a strobe `before` cycles before the end of the pass whose row `last` issues."""
        stages = PASS_LATENCY[self._spec.architecture] - before
        return register(m, 1, last, name="ended", stages=stages, reset=True)
