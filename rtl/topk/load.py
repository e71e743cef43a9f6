# SPDX-License-Identifier: Apache-2.0
"""Load: takes a job and its rows; radix counts the first digit on the way (section 4.1)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import LOAD_LATENCY, TopkSpec
from rtl.lib.histogram import CumulativeHistogram
from rtl.lib.lanes import count_below, lanes_below
from rtl.topk.layout import (
    JOB,
    balance,
    choice_layout,
    digits_of,
    keys_layout,
    order_code,
    row_bits,
    task_layout,
)


class Load(wiring.Component):
    """Fills a bank with the rows of a job.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    free : In(1)
        A bank is free.
    i_job, i_keys : In(stream)
        As the engine's.
    write, row : Out(1), Out
        The row on `i_keys` is written in this cycle.
    accept : Out(1)
        A job is taken.
    hand : In(1)
        The job goes to select in this cycle; `complete` is 1.
    complete : Out(1)
        A register: the job is loaded.
    task : Out(task_layout)
        The job that is loaded.
    need : Out(count_bits)
        k; what it shows matters where `task.trivial` is 0.
    choice : Out(choice_layout)
        Radix: choice of the first digit, combinational.
    counted : Out(range(P + 1))
        Keys that enter the histogram in this cycle.
    """

    free: Signal
    i_job: stream.Interface
    i_keys: stream.Interface
    write: Signal
    row: Signal
    accept: Signal
    hand: Signal
    complete: Signal
    task: Any
    need: Signal
    choice: Any
    counted: Signal

    def __init__(self, spec: TopkSpec) -> None:
        self._spec = spec
        self._radix = spec.architecture == "radix"
        members: dict[str, Any] = {
            "free": In(1),
            "i_job": In(stream.Signature(JOB)),
            "i_keys": In(stream.Signature(keys_layout(spec))),
            "write": Out(1),
            "row": Out(row_bits(spec)),
            "accept": Out(1),
            "hand": In(1),
            "complete": Out(1),
            "task": Out(task_layout(spec)),
            "need": Out(spec.count_bits),
        }
        if self._radix:
            members |= {"choice": Out(choice_layout(spec)), "counted": Out(range(spec.lanes + 1))}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job, task = self._spec, self.i_job, self.task
        idle, waits = Signal(init=1), Signal()
        left = Signal(spec.count_bits)
        last = Signal()
        wanted = Signal(32)
        accepted = Signal()
        # The bits of k beyond a count only say that k is more than n.
        m.d.comb += [
            job.ready.eq(idle & self.free),
            self.accept.eq(job.valid & job.ready),
            self.i_keys.ready.eq(waits),
            self.write.eq(self.i_keys.valid & waits),
            last.eq(self.write & (left <= spec.lanes)),
            self.need.eq(wanted),
        ]
        m.d.sync += accepted.eq(self.accept)
        with m.If(accepted):
            m.d.sync += [
                task.trivial.eq((wanted == 0) | (wanted >= task.n)),
                task.kept.eq(Mux(wanted >= task.n, task.n, wanted)),
            ]
        with m.If(self.accept):
            m.d.sync += [
                idle.eq(0),
                waits.eq(1),
                task.n.eq(job.payload.n),
                left.eq(job.payload.n),
                wanted.eq(job.payload.k),
                self.row.eq(0),
            ]
        with m.If(self.write):
            m.d.sync += [left.eq(left - spec.lanes), self.row.eq(self.row + 1), waits.eq(~last)]
        loaded = last
        for stage in range(LOAD_LATENCY[spec.architecture] - 1):
            delayed = Signal(name=f"last_{stage}")
            m.d.sync += delayed.eq(loaded)
            loaded = delayed
        with m.If(loaded):
            m.d.sync += self.complete.eq(1)
        with m.If(self.hand):
            m.d.sync += [self.complete.eq(0), idle.eq(1)]
        if self._radix:
            self._count(m, accepted, left)
        return m

    def _count(self, m: Module, accepted: Signal, left: Signal) -> None:
        """Register the first digits of a row, 0 where there is no key, and count them."""
        spec, choice = self._spec, self.choice
        width = spec.digit_widths[0]
        m.submodules.histogram = histogram = CumulativeHistogram(spec.lanes, width, spec.count_bits)
        short, spare = Signal(balance(spec)), Signal(balance(spec))
        start = Signal()
        lanes = Signal(spec.lanes)
        m.d.comb += lanes.eq(lanes_below(left, spec.lanes) & self.write.replicate(spec.lanes))
        digits: Any = Signal(data.ArrayLayout(width, spec.lanes))
        for lane in range(spec.lanes):
            first = digits_of(spec, order_code(spec, self.i_keys.payload[lane]))[0]
            m.d.sync += digits[lane].eq(first & lanes[lane].replicate(width))
        m.d.sync += [
            short.eq(-self.need),
            spare.eq(self.task.n - self.need),
            # The counters start when the first row can be in the register.
            start.eq(accepted),
        ]
        m.d.comb += [
            histogram.start.eq(start),
            histogram.short.eq(short),
            histogram.spare.eq(spare),
            histogram.digits.eq(digits),
            choice.digit.eq(histogram.digit),
            choice.short.eq(histogram.short_next),
            choice.spare.eq(histogram.spare_next),
            self.counted.eq(Mux(self.write, count_below(left, spec.lanes), 0)),
        ]
