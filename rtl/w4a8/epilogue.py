# SPDX-License-Identifier: Apache-2.0
"""Epilogue: parameter buffers, the choice of E columns, and one lane each (section 5.4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.fixed_point import FixedPointLane
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.w4a8.edge import async_memory
from rtl.w4a8.epilogue_fp16 import EpilogueFp16Lane
from rtl.w4a8.layout import PARAMETER_BEATS
from rtl.w4a8.operand import beat_write


class Epilogue(wiring.Component):
    """Scales E results per cycle.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    en : In(1)
        Every register advances, or holds: `ready` or not `valid`.
    ready : In(1)
        The result is taken if it is valid.
    e_write, r_write : In(beat_write)
        Arriving beats of column parameters, of row scales (fp16 only).
    issue : In(1)
        A drain step issues in this cycle (d).
    group, e_slot, r_slot, r_row : In
        At d: group of E columns; where its parameters lie.
    relu, wide : In(1), fixed only
        Flags of the job.
    acc : In(array of C, acc_bits)
        At d + 1 in enabled cycles: the result word of every column.
    valid, y : Out(1), Out(array of E, 16)
        At d + epilogue_latency in enabled cycles: registers.
    """

    en: Signal
    ready: Signal
    e_write: Any
    r_write: Any
    issue: Signal
    group: Signal
    e_slot: Signal
    r_slot: Signal
    r_row: Signal
    relu: Signal
    wide: Signal
    acc: Any
    valid: Signal
    y: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        self._fp16 = spec.epilogue == "fp16"
        self._groups = -(-spec.array_cols // spec.epilogue_lanes)
        slot = index_bits(PARAMETER_BEATS)
        ports = {
            "en": In(1),
            "ready": In(1),
            "e_write": In(beat_write(spec.e_bits * spec.array_cols, PARAMETER_BEATS)),
            "issue": In(1),
            "group": In(index_bits(self._groups)),
            "e_slot": In(slot),
            "acc": In(data.ArrayLayout(spec.acc_bits, spec.array_cols)),
            "valid": Out(1),
            "y": Out(data.ArrayLayout(16, spec.epilogue_lanes)),
        }
        if self._fp16:
            ports |= {
                "r_write": In(beat_write(32 * spec.array_rows, PARAMETER_BEATS)),
                "r_slot": In(slot),
                "r_row": In(index_bits(spec.array_rows)),
            }
        else:
            ports |= {"relu": In(1), "wide": In(1)}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, en = self._spec, self.en
        columns = async_memory(
            m, "columns", PARAMETER_BEATS, self._stored(self.e_write), self.e_slot
        )
        group = register(m, en, self.group, name="group_reg")
        row_scale = self._row_scale(m) if self._fp16 else Const(0, 32)
        stages = Signal(spec.epilogue_latency)
        with m.If(en):
            m.d.sync += stages.eq(Cat(self.issue, stages))
        m.d.comb += self.valid.eq(stages[-1])
        for lane in range(spec.epilogue_lanes):
            chosen = self._choose(columns, spec.e_bits, lane, self.group)
            column = register(m, en, chosen, name=f"column_{lane}")
            acc = self._choose(self.acc.as_value(), spec.acc_bits, lane, group)
            part = EpilogueFp16Lane(spec) if self._fp16 else FixedPointLane(spec.acc_bits)
            m.submodules[f"lane_{lane}"] = part
            m.d.comb += [part.acc.eq(acc), self.y[lane].eq(part.y)]
            if isinstance(part, EpilogueFp16Lane):
                # `en` from a valid bit of its own, so that no lane waits for a wire from afar.
                valid, lane_en = Signal(name=f"valid_{lane}"), Signal(name=f"en_{lane}")
                m.d.comb += lane_en.eq(~valid | self.ready)
                with m.If(lane_en):
                    m.d.sync += valid.eq(stages[-2])
                m.d.comb += [part.en.eq(lane_en), part.s_ch.eq(column), part.a_s.eq(row_scale)]
            else:
                m.d.comb += [
                    part.en.eq(en),
                    part.column.eq(column),
                    part.relu.eq(self.relu),
                    part.wide.eq(self.wide),
                ]
        return m

    def _stored(self, write: Any) -> tuple[Value, Value, Value]:
        return write.en, write.slot, write.beat

    def _choose(self, words: Value, bits: int, lane: int, group: Value) -> Value:
        """Return column group * E + lane; what lies beyond C is not kept, so anything does."""
        E, C = self._spec.epilogue_lanes, self._spec.array_cols
        choices = [words.word_select(min(first + lane, C - 1), bits) for first in range(0, C, E)]
        return choices[0] if len(choices) == 1 else Array(choices)[group]

    def _row_scale(self, m: Module) -> Value:
        beat = async_memory(m, "rows", PARAMETER_BEATS, self._stored(self.r_write), self.r_slot)
        chosen = beat.word_select(self.r_row, 32) if self._spec.array_rows > 1 else beat
        return register(m, self.en, chosen, name="row_scale")
