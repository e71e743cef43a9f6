# SPDX-License-Identifier: Apache-2.0
"""Output: the result store, and the lanes that rescale its sums (sections 1 and 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.common import FIXED_EPILOGUE_LATENCY
from cosil.engines.pim import PimSpec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import pending
from rtl.lib.fixed_point import FRACTION_BITS, PARAMETERS, FixedPointLane
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.pim.layout import job_layout, results_layout, sums_layout


class Lane(wiring.Component):
    """Every E-th output: its sums of all stored vectors, its parameters, and one rescaler.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    write, write_vector, sums : In(1), In, In(array of steps, acc_bits)
        Sums of a vector are stored.
    parameter_write, parameter_step, parameters : In(1), In, In(PARAMETERS)
        Parameters of a step are stored.
    en : In(1)
        All that follows advances.
    vector, step : In
        What is issued.
    relu, wide : In(1)
        Flags of the job.
    y : Out(16)
        `FIXED_EPILOGUE_LATENCY` enabled cycles later; a register.
    """

    write: Signal
    write_vector: Signal
    sums: Any
    parameter_write: Signal
    parameter_step: Signal
    parameters: Any
    en: Signal
    vector: Signal
    step: Signal
    relu: Signal
    wide: Signal
    y: Signal

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        vector, step = index_bits(spec.result_depth), index_bits(spec.output_steps)
        super().__init__(
            {
                "write": In(1),
                "write_vector": In(vector),
                "sums": In(data.ArrayLayout(spec.acc_bits, spec.output_steps)),
                "parameter_write": In(1),
                "parameter_step": In(step),
                "parameters": In(PARAMETERS),
                "en": In(1),
                "vector": In(vector),
                "step": In(step),
                "relu": In(1),
                "wide": In(1),
                "y": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        m.submodules.sums = sums = Memory(shape=self.sums.shape(), depth=spec.result_depth, init=[])
        m.submodules.parameters = parameters = Memory(
            shape=PARAMETERS, depth=spec.output_steps, init=[]
        )
        m.submodules.lane = lane = FixedPointLane(spec.acc_bits + FRACTION_BITS, negates=True)
        writes, reads = sums.write_port(), sums.read_port()
        stores, takes = parameters.write_port(), parameters.read_port()
        step = register(m, self.en, self.step, name="step_reg")
        chosen = Array(reads.data[number] for number in range(spec.output_steps))[step]
        column = takes.data
        m.d.comb += [
            writes.en.eq(self.write),
            writes.addr.eq(self.write_vector),
            writes.data.eq(self.sums),
            stores.en.eq(self.parameter_write),
            stores.addr.eq(self.parameter_step),
            stores.data.eq(self.parameters),
            reads.en.eq(self.en),
            reads.addr.eq(self.vector),
            takes.en.eq(self.en),
            takes.addr.eq(self.step),
            lane.en.eq(self.en),
            lane.acc.eq(Cat(Const(0, FRACTION_BITS), chosen)),
            *(lane.column[name].eq(column[name]) for name in ("bias", "mult", "shift")),
            lane.negate.eq(column.negate),
            lane.relu.eq(self.relu),
            lane.wide.eq(self.wide),
            self.y.eq(lane.y),
        ]
        return m


class Outputs(wiring.Component):
    """Stores the sums of vectors and sends their results, E a cycle.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    start, job : In(1), In(job_layout)
        The job that is taken in this cycle or runs.
    write, sums : In(1), In(sums_layout)
        A vector is complete (f).
    parameter_write, parameter_step, parameters, keep : In
        As of `Load`.
    issue, vector_issued : Out(1)
        A step is issued, the last one of its vector.
    finished : Out(1)
        The job's last result is transferred in this cycle.
    o_y : Out(stream(results_layout))
        As the engine's.
    """

    start: Signal
    job: Any
    write: Signal
    sums: Any
    parameter_write: Signal
    parameter_step: Signal
    parameters: Any
    keep: Signal
    issue: Signal
    vector_issued: Signal
    finished: Signal
    o_y: stream.Interface

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(spec)),
                "write": In(1),
                "sums": In(sums_layout(spec)),
                "parameter_write": In(1),
                "parameter_step": In(index_bits(spec.output_steps)),
                "parameters": In(data.ArrayLayout(PARAMETERS, spec.epilogue_lanes)),
                "keep": In(spec.epilogue_lanes),
                "issue": Out(1),
                "vector_issued": Out(1),
                "finished": Out(1),
                "o_y": Out(stream.Signature(results_layout(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job, y = self._spec, self.job, self.o_y.payload
        en, ends = Signal(), Signal()
        step = Signal(index_bits(spec.output_steps))
        steps = Blocks(spec.epilogue_lanes, len(job.n), "outputs")
        vectors = Signal(32)
        written, read = self._places(m)
        stored = pending(m, "stored", spec.result_depth, self.write, self.vector_issued)
        m.d.comb += [
            en.eq(~self.o_y.valid | self.o_y.ready),
            self.issue.eq(stored & en),
            self.vector_issued.eq(self.issue & ~steps.more),
            ends.eq(self.vector_issued & (vectors == 1)),
            self.finished.eq(self.o_y.valid & self.o_y.ready & y.last),
        ]
        with m.If(self.issue):
            m.d.sync += [*steps.step(), step.eq(step + 1)]
        with m.If(self.vector_issued):
            m.d.sync += [*steps.load(job.n), step.eq(0), vectors.eq(vectors - 1)]
        with m.If(self.start):
            m.d.sync += [*steps.load(job.n), step.eq(0), vectors.eq(job.m)]

        early = FIXED_EPILOGUE_LATENCY - 1
        valid = register(m, en, self.issue, name="valid", stages=early + 1, reset=True)
        last = register(m, en, ends, name="last", stages=early + 1)
        part = register(m, en, ~steps.more, name="part", stages=early)
        keep = Mux(part, self.keep, (1 << spec.epilogue_lanes) - 1)
        m.d.comb += [
            self.o_y.valid.eq(valid),
            y.last.eq(last),
            y.keep.eq(register(m, en, keep, name="keep_reg")),
        ]
        for number in range(spec.epilogue_lanes):
            m.submodules[f"lane_{number}"] = lane = Lane(spec)
            m.d.comb += [
                lane.write.eq(self.write),
                lane.write_vector.eq(written),
                lane.parameter_write.eq(self.parameter_write),
                lane.parameter_step.eq(self.parameter_step),
                lane.parameters.eq(self.parameters[number]),
                lane.en.eq(en),
                lane.vector.eq(read),
                lane.step.eq(step),
                lane.relu.eq(job.relu),
                lane.wide.eq(job.wide),
                y.data[number].eq(lane.y),
            ]
            for at, output in enumerate(range(number, spec.outputs, spec.epilogue_lanes)):
                m.d.comb += lane.sums[at].eq(self.sums[output])
        return m

    def _places(self, m: Module) -> tuple[Signal, Signal]:
        """Return where the next vector is written, and where the next one is read."""
        places: list[Signal] = []
        for name, moves in (("written", self.write), ("read", self.vector_issued)):
            place = Signal(index_bits(self._spec.result_depth), name=name)
            with m.If(moves):
                m.d.sync += place.eq(place + 1)
            places.append(place)
        return places[0], places[1]
