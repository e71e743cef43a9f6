# SPDX-License-Identifier: Apache-2.0
"""Output stage: a row's accumulators scaled, rounded and sent (section 5.5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import EPILOGUE_LATENCY, AttentionSpec
from rtl.attention.layout import output_beat_layout, output_layout
from rtl.lib.fixed_point import FixedPointLane
from rtl.lib.pipeline import register


class Output(wiring.Component):
    """Scales a row of sums, out_lanes columns a cycle.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    claim, row : In(1), In(output_layout)
        The last value beat of a row is launched in this cycle; only where `busy` is 0.
    load, acc : In(1), In(array of D)
        Its accumulators are there.
    busy : Out(1)
        From the cycle after `claim` until that of the row's last transfer.
    done : Out(1)
        The row's last beat is transferred in this cycle.
    head : Out
        Head of the row.
    o : Out(stream(output_beat_layout))
    """

    claim: Signal
    row: Any
    load: Signal
    acc: Any
    busy: Signal
    done: Signal
    head: Signal
    o: stream.Interface

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._acc = data.ArrayLayout(signed(spec.acc_bits), spec.head_dim)
        super().__init__(
            {
                "claim": In(1),
                "row": In(output_layout(spec)),
                "load": In(1),
                "acc": In(self._acc),
                "busy": Out(1),
                "done": Out(1),
                "head": Out(output_layout(spec)["head"].width),
                "o": Out(stream.Signature(output_beat_layout(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, beats = self._spec, self._spec.out_beats
        row: Any = Signal(output_layout(spec))
        acc: Any = register(m, self.load, self.acc, name="row_acc")
        en = Signal()
        m.d.comb += [
            en.eq(~self.o.valid | self.o.ready),
            self.done.eq(self.o.valid & self.o.ready & self.o.payload.last),
            self.head.eq(row.head),
            self.o.payload.tag.eq(row.tag),
        ]
        with m.If(self.claim):
            m.d.sync += [row.eq(self.row), self.busy.eq(1)]
        with m.Elif(self.done):
            m.d.sync += self.busy.eq(0)

        step, issues = Signal(range(beats)), Signal()
        last = Signal()
        m.d.comb += last.eq(step == beats - 1)
        with m.If(self.load):
            m.d.sync += [issues.eq(1), step.eq(0)]
        with m.Elif(issues & en):
            m.d.sync += [step.eq(step + 1), issues.eq(~last)]
        valid, ends = Signal(EPILOGUE_LATENCY), Signal(EPILOGUE_LATENCY)
        with m.If(en):
            m.d.sync += [
                valid.eq((valid << 1) | issues),
                ends.eq((ends << 1) | (issues & last)),
            ]
        m.d.comb += [self.o.valid.eq(valid[-1]), self.o.payload.last.eq(ends[-1])]

        lanes = spec.out_lanes
        for lane in range(lanes):
            choices = [Value.cast(acc[first + lane]) for first in range(0, spec.head_dim, lanes)]
            chosen = Signal(signed(spec.acc_bits), name=f"chosen_{lane}")
            m.d.comb += chosen.eq(Array(choices)[step])
            m.submodules[f"lane_{lane}"] = part = FixedPointLane(spec.acc_bits)
            m.d.comb += [
                part.en.eq(en),
                part.acc.eq(register(m, en, chosen, name=f"chosen_reg_{lane}")),
                part.column.mult.eq(row.out_mult),
                part.column.shift.eq(row.out_shift),
                part.wide.eq(1),
                self.o.payload.data[lane].eq(part.y),
            ]
        return m
