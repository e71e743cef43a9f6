# SPDX-License-Identifier: Apache-2.0
"""Sequencer: which step is driven, sampled and converted, and when (section 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import pending, tally
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.pim.layout import add_layout, job_layout, passes, unit_outputs

_TAG = data.StructLayout({"first": 1, "fresh": 1, "last": 1})
"""A step: the first of its vector, the first of its slice, the last of its vector."""

_CODE_STAGES = 2
"""Cycles from the last one of a conversion until the macro shows the codes."""


class Sequencer(wiring.Component):
    """Steps of a job by vector, slice and group, from the launch to the last conversion.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    start, job : In(1), In(job_layout)
        The job that is taken in this cycle or runs.
    loaded : In(1)
        Launches may begin.
    available : In(1)
        The beat of the next group is there (`Inputs.available`).
    vector_issued : In(1)
        The last output step of a vector is issued in this cycle.
    launch : Out(1)
        A step is launched (d), with bank, group and slice of its codes, the rows that it drives,
        and whether it is of its vector's first slice, or its vector's last step.
    bank, group, slice, rows, launch_first, launch_last : Out
    drive, sample, sample_bank, convert, convert_bank, position, strobe : Out
        As in `MacroSignature`.
    place : Out
        In q: which of an ADC's outputs is converted.
    number : Out(passes)
        At q + 2: which conversion of its output the codes are.
    add : Out(add_layout)
        At q + 3: what becomes of the term.
    starved, full, remain : Out(1)
        The next step's beat is not usable; a sample waits for the result store, converter free;
        launches or conversions remain.
    """

    start: Signal
    job: Any
    loaded: Signal
    available: Signal
    vector_issued: Signal
    launch: Signal
    bank: Signal
    group: Signal
    slice: Signal
    rows: Signal
    launch_first: Signal
    launch_last: Signal
    drive: Signal
    sample: Signal
    sample_bank: Signal
    convert: Signal
    convert_bank: Signal
    position: Signal
    strobe: Signal
    place: Signal
    number: Signal
    add: Any
    starved: Signal
    full: Signal
    remain: Signal

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(spec)),
                "loaded": In(1),
                "available": In(1),
                "vector_issued": In(1),
                "launch": Out(1),
                "bank": Out(1),
                "group": Out(index_bits(spec.groups)),
                "slice": Out(index_bits(spec.slices)),
                "rows": Out(range(spec.rows + 1)),
                "launch_first": Out(1),
                "launch_last": Out(1),
                "drive": Out(1),
                "sample": Out(1),
                "sample_bank": Out(1),
                "convert": Out(1),
                "convert_bank": Out(1),
                "position": Out(index_bits(spec.mux)),
                "strobe": Out(1),
                "place": Out(index_bits(unit_outputs(spec))),
                "number": Out(index_bits(passes(spec))),
                "add": Out(add_layout(spec)),
                "starved": Out(1),
                "full": Out(1),
                "remain": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ended = Signal()
        tag = self._launch(m, ended)
        self._drive(m)
        self._convert(m, self._sampled(m, tag), ended)
        return m

    def _launch(self, m: Module, ended: Signal) -> Any:
        """Launch the next step as soon as rows and a bank for its sample are free."""
        spec, job = self._spec, self.job
        banks = 1 + spec.double_buffer
        more, vectors = Signal(), Signal(32)
        groups = Blocks(job.rows, len(job.k), "groups", most=spec.rows)
        last_slice, usable, rows_free, bank_free = Signal(), Signal(), Signal(), Signal()
        held = tally(m, "held", banks, self.launch, ended)
        tag: Any = Signal(_TAG)
        m.d.comb += [
            self.launch_first.eq(self.slice == 0),
            last_slice.eq(self.slice == spec.slices - 1),
            self.launch_last.eq(last_slice & ~groups.more),
            self.rows.eq(groups.part),
            tag.fresh.eq(self.group == 0),
            tag.first.eq(tag.fresh & self.launch_first),
            tag.last.eq(self.launch_last),
            usable.eq(~self.launch_first | self.available),
            rows_free.eq(~self.drive | self.sample),
            bank_free.eq((held != banks) | ended),
            self.launch.eq(more & self.loaded & usable & rows_free & bank_free),
            self.starved.eq(more & ~usable),
            self.remain.eq(more | held.any()),
        ]
        with m.If(self.launch):
            m.d.sync += [*groups.step(), self.group.eq(self.group + 1)]
            with m.If(~groups.more):
                m.d.sync += [*groups.load(job.k), self.group.eq(0), self.slice.eq(self.slice + 1)]
                with m.If(last_slice):
                    m.d.sync += [self.slice.eq(0), self.bank.eq(~self.bank)]
                    m.d.sync += [vectors.eq(vectors - 1), more.eq(vectors != 1)]
        with m.If(self.start):
            m.d.sync += [*groups.load(job.k), self.group.eq(0), self.slice.eq(0)]
            m.d.sync += [vectors.eq(job.m), more.eq(1)]
        return tag

    def _drive(self, m: Module) -> None:
        """Drive the rows for t_row cycles, and sample in the last of them."""
        cycles = self._spec.row_cycles
        left = Signal(range(cycles))
        with m.If(self.launch):
            m.d.sync += [self.drive.eq(1), self.sample.eq(cycles == 1), left.eq(cycles - 1)]
        with m.Elif(self.drive):
            m.d.sync += [self.drive.eq(~self.sample), self.sample.eq(left == 1)]
            m.d.sync += left.eq(left - 1)

    def _sampled(self, m: Module, launched: Any) -> Any:
        """Return the step that is in the bank which is converted next or being converted."""
        driven: Any = register(m, self.launch, launched, name="driven")
        if not self._spec.double_buffer:
            return register(m, self.sample, driven, name="sampled")
        held = [
            register(m, self.sample & (self.sample_bank == bank), driven, name=f"sampled_{bank}")
            for bank in range(2)
        ]
        with m.If(self.sample):
            m.d.sync += self.sample_bank.eq(~self.sample_bank)
        tag: Any = Signal(_TAG)
        m.d.comb += tag.eq(Mux(self.convert_bank, held[1].as_value(), held[0].as_value()))
        return tag

    def _convert(self, m: Module, tag: Any, ended: Signal) -> None:
        """Convert position after position, t_conv cycles each."""
        spec = self._spec
        depth, cycles = spec.result_depth, spec.conversion_cycles
        busy, begin, no_room = Signal(), Signal(), Signal()
        waiting = pending(m, "waiting", 2, self.sample, begin)
        reserved = tally(m, "reserved", depth, begin & tag.first, self.vector_issued)
        phase = Signal(range(cycles))
        # Registers: a launch waits for the end of a conversion.
        last_phase, last = Signal(init=cycles == 1), Signal(init=spec.mux == 1)
        m.d.comb += [
            no_room.eq(tag.first & reserved[-1]),  # the depth is a power of two
            begin.eq(waiting & ~busy & ~no_room),
            self.full.eq(waiting & ~busy & no_room),
            self.convert.eq(busy | begin),
            self.strobe.eq(self.convert & last_phase),
            # The cycle in which a step begins is its last only if it is its only one.
            ended.eq((self.convert if spec.convert_cycles == 1 else busy) & last_phase & last),
        ]
        m.d.sync += busy.eq(self.convert & ~ended)
        with m.If(self.convert):
            m.d.sync += [phase.eq(phase + 1), last_phase.eq(phase == cycles - 2)]
        with m.If(self.strobe):
            m.d.sync += [phase.eq(0), last_phase.eq(cycles == 1)]
            m.d.sync += [
                self.position.eq(self.position + 1),
                last.eq(self.position == spec.mux - 2),
            ]
        with m.If(ended):
            m.d.sync += [self.position.eq(0), last.eq(spec.mux == 1)]
            if spec.double_buffer:
                m.d.sync += self.convert_bank.eq(~self.convert_bank)
        self._follow(m, tag, ended)

    def _follow(self, m: Module, tag: Any, ended: Value) -> None:
        """Let what the term needs travel with the conversion."""
        spec = self._spec
        number, place = Signal(range(passes(spec))), self.place
        add: Any = Signal(add_layout(spec))
        final = Signal()
        m.d.comb += [
            final.eq(number == passes(spec) - 1),
            add.valid.eq(self.strobe),
            add.clear.eq(tag.first & (number == 0)),
            add.shift.eq(tag.fresh & (number == 0)),
            add.rotate.eq(final),
            add.write.eq(ended & tag.last),
            add.place.eq(place),
        ]
        with m.If(self.strobe):
            m.d.sync += number.eq(Mux(final, 0, number + 1))
            with m.If(final):
                m.d.sync += place.eq(Mux(place == unit_outputs(spec) - 1, 0, place + 1))
        early: Any = register(m, 1, add, name="add_early", stages=_CODE_STAGES + 1, reset=True)
        m.d.comb += [
            self.number.eq(register(m, 1, number, name="number_early", stages=_CODE_STAGES)),
            self.add.eq(early),
        ]
