# SPDX-License-Identifier: Apache-2.0
"""Filter: reads the bank again and lets pass what the cut keeps (section 4.4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.lib.compaction import CompactionBuffer
from rtl.lib.concentrate import ZeroEliminator
from rtl.lib.lanes import lanes_below
from rtl.lib.pipeline import register
from rtl.lib.prefix import PrefixSum
from rtl.topk.layout import (
    cut_layout,
    items_layout,
    keys_layout,
    lane_bits,
    order_code,
    row_bits,
    task_layout,
)


class Filter(wiring.Component):
    """Emits the kept keys of a bank with their indices, packed, in input order.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    take : In(1)
        `task` and `cut` are the next job's; only while `idle`.
    task, cut : In(task_layout), In(cut_layout)
    idle : Out(1)
        A register: the stage is free.
    done : Out(1)
        The last beat is transferred in this cycle: the bank is free from the next on.
    en : Out(1)
        The pipeline advances; the bank's read port holds its data otherwise.
    issue, row : Out(1), Out
        A row is read in this cycle.
    i : In(keys_layout)
        The row that was issued last.
    o_items : Out(stream(items_layout))
    """

    take: Signal
    task: Any
    cut: Any
    idle: Signal
    done: Signal
    en: Signal
    issue: Signal
    row: Signal
    i: Any
    o_items: stream.Interface

    def __init__(self, spec: TopkSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "take": In(1),
                "task": In(task_layout(spec)),
                "cut": In(cut_layout(spec)),
                "idle": Out(1),
                "done": Out(1),
                "en": Out(1),
                "issue": Out(1),
                "row": Out(row_bits(spec)),
                "i": In(keys_layout(spec)),
                "o_items": Out(stream.Signature(items_layout(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        bits = spec.key_bits + lane_bits(spec)
        m.submodules.eliminator = eliminator = ZeroEliminator(spec.lanes, bits, registered=True)
        m.submodules.buffer = buffer = CompactionBuffer(spec.lanes, spec.key_bits + spec.index_bits)
        wide: Any = buffer.o.payload
        items: Any = self.o_items.payload
        idle = Signal(init=1)
        m.d.comb += [
            self.idle.eq(idle),
            self.en.eq(buffer.en),
            buffer.o.ready.eq(self.o_items.ready),
            self.o_items.valid.eq(buffer.o.valid),
            items.keep.eq(wide.keep),
            items.last.eq(wide.last),
            self.done.eq(buffer.o.valid & buffer.o.ready & wide.last),
        ]
        for lane in range(spec.lanes):
            m.d.comb += Cat(items.key[lane], items.index[lane]).eq(wide["items"][lane])
        with m.If(self.take):
            m.d.sync += idle.eq(0)
        with m.Elif(self.done):
            m.d.sync += idle.eq(1)
        self._gather(m, eliminator, buffer, self._keep(m, eliminator, self._issue(m)))
        return m

    def _issue(self, m: Module) -> Signal:
        """Read row after row; return which lanes of the row that is issued hold a key."""
        spec = self._spec
        runs = Signal()
        left = Signal(spec.count_bits)
        lanes = Signal(spec.lanes)
        m.d.comb += [
            self.issue.eq(runs & self.en),
            lanes.eq(lanes_below(left, spec.lanes) & runs.replicate(spec.lanes)),
        ]
        with m.If(self.issue):
            m.d.sync += [
                runs.eq(left > spec.lanes),
                left.eq(left - spec.lanes),
                self.row.eq(self.row + 1),
            ]
        with m.If(self.take):
            m.d.sync += [runs.eq(1), left.eq(self.task.n), self.row.eq(0)]
        with m.If(self.done):
            m.d.sync += runs.eq(0)
        return lanes

    def _keep(self, m: Module, eliminator: ZeroEliminator, lanes: Signal) -> Signal:
        """Compare with the cut, then let pass the first ties; return the row's number."""
        spec, P = self._spec, self._spec.lanes
        cut: Any = Signal(cut_layout(spec))
        ties = Signal(spec.count_bits)
        held = Signal(P)
        above, equal, kept = Signal(P), Signal(P), Signal(P)
        m.submodules.prefix = prefix = PrefixSum(P)
        spare = Signal(spec.count_bits + 1)
        m.d.comb += [
            prefix.i.eq(equal),
            spare.eq(ties - prefix.total),
        ]
        first = [
            equal[lane] & (ties[lane_bits(spec) :].any() | (prefix.ranks[lane] < _low(spec, ties)))
            for lane in range(P)
        ]
        with m.If(self.en):
            m.d.sync += [
                held.eq(lanes),
                kept.eq(above | Cat(first)),
                ties.eq(Mux(spare[-1], 0, spare)),
            ]
            for lane in range(P):
                masked = order_code(spec, self.i[lane]) & cut.mask
                m.d.sync += [
                    above[lane].eq(held[lane] & (masked > cut.prefix)),
                    equal[lane].eq(held[lane] & (masked == cut.prefix)),
                ]
        with m.If(self.take):
            m.d.sync += [cut.eq(self.cut), ties.eq(self.cut.ties)]
        with m.If(self.done):
            # Rows behind the last kept key must not meet the next job's cut.
            m.d.sync += [held.eq(0), above.eq(0), equal.eq(0)]
        keys: Any = register(m, self.en, self.i, name="keys", stages=2)
        m.d.comb += [
            eliminator.en.eq(self.en),
            eliminator.restart.eq(self.take),
            eliminator.keep.eq(kept),
            *(
                eliminator.i[lane].eq(Cat(keys[lane], Const(lane, lane_bits(spec))))
                for lane in range(P)
            ),
        ]
        return register(m, self.en, self.row, name="row", stages=5)

    def _gather(
        self, m: Module, eliminator: ZeroEliminator, buffer: CompactionBuffer, row: Signal
    ) -> None:
        """Count what is still to come and put the rows together."""
        spec = self._spec
        left = Signal(spec.count_bits)
        ended, end = Signal(), Signal()
        completes = Signal()
        # Whether a row is in a stage, kept keys or not: without any, the first row ends the job.
        there = self.issue
        for stage in range(4):
            delayed = Signal(name=f"there_{stage}")
            with m.If(self.en):
                m.d.sync += delayed.eq(there)
            with m.If(self.done):
                m.d.sync += delayed.eq(0)
            there = delayed
        m.d.comb += completes.eq(there & (left == eliminator.count) & ~ended)
        with m.If(self.en):
            m.d.sync += [
                left.eq(left - eliminator.count),
                end.eq(completes),
                ended.eq(ended | completes),
            ]
        with m.If(self.take):
            m.d.sync += [left.eq(self.task.kept), ended.eq(0)]
        m.d.comb += [
            buffer.filled.eq(eliminator.filled),
            buffer.wraps.eq(eliminator.wraps),
            buffer.full.eq(eliminator.full),
            buffer.end.eq(end),
        ]
        for lane in range(spec.lanes):
            m.d.comb += buffer.i[lane].eq(Cat(eliminator.o[lane], row))


def _low(spec: TopkSpec, count: Value) -> Value:
    """Return a count modulo the lanes."""
    return count[: lane_bits(spec)]
