# SPDX-License-Identifier: Apache-2.0
"""Load: takes a job, then cells, tables, generator states and column parameters (section 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_NOISE, FLAG_RELU, FLAG_TRANSFER, FLAG_WEIGHTS, FLAG_WIDE
from rtl.lib.blocks import Blocks
from rtl.lib.fixed_point import PARAMETERS
from rtl.lib.loading import Beats, accept, take_job
from rtl.lib.widths import index_bits
from rtl.pim.layout import JOB, WORD_BITS, MacroSignature, job_layout


class Load(wiring.Component):
    """The job that runs, and what it loads.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    i_job, i_w, i_t, i_n, i_e : In(stream)
        As the engine's; `i_n` with noise hardware only.
    start : Out(1)
        A job is taken in this cycle.
    job : Out(job_layout)
        The job that is taken or runs.
    running : Out(1)
        A register: a job was taken and is not `finished`.
    loaded : Out(1)
        A register: all beats of the job that runs have come.
    finished : In(1)
        The job's last result is transferred in this cycle.
    cells, tables : Out
        Of `MacroSignature`.
    parameter_write, parameter_step, parameters : Out(1), Out, Out(array of E, PARAMETERS)
        Parameters of an output step; 0 where the job has no output.
    keep : Out(E)
        Lanes that the last output step of a vector fills.
    """

    i_job: stream.Interface
    i_w: stream.Interface
    i_t: stream.Interface
    i_n: stream.Interface
    i_e: stream.Interface
    start: Signal
    job: Any
    running: Signal
    loaded: Signal
    finished: Signal
    cells: Any
    tables: Any
    parameter_write: Signal
    parameter_step: Signal
    parameters: Any
    keep: Signal

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        macro = MacroSignature(spec).members
        super().__init__(
            {
                **input_streams(spec),
                "start": Out(1),
                "job": Out(job_layout(spec)),
                "running": Out(1),
                "loaded": Out(1),
                "finished": In(1),
                "cells": macro["cells"],
                "tables": macro["tables"],
                "parameter_write": Out(1),
                "parameter_step": Out(index_bits(spec.output_steps)),
                "parameters": Out(ArrayLayout(PARAMETERS, spec.epilogue_lanes)),
                "keep": Out(spec.epilogue_lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take_job(
            m, self.i_job, start=self.start, job=self.job, running=self.running,
            finished=self.finished, flags={"relu": FLAG_RELU, "wide": FLAG_WIDE},
        )  # fmt: skip
        streams = [self._cells(m), self._transfer(m), self._parameters(m)]
        if self._spec.noise_bits:
            streams.append(self._noise(m))
        # A register, since a launch waits for it.
        with m.If(self.start):
            m.d.sync += self.loaded.eq(0)
        with m.Elif(self.running):
            m.d.sync += self.loaded.eq(~Cat(beats.remain for beats in streams).any())
        return m

    def _accept(self, m: Module, name: str, wanted: Value | int) -> Beats:
        """Be ready for the beats of a stream that a job needs."""
        return accept(m, getattr(self, name), start=self.start, wanted=wanted, name=name)

    def _cells(self, m: Module) -> Beats:
        """Take cells by output, plane, group and word, the innermost."""
        spec, job, cells = self._spec, self.job, self.cells
        beats = self._accept(m, "i_w", self._flag(FLAG_WEIGHTS))
        words = Blocks(WORD_BITS, len(job.rows), "words")
        groups = Blocks(job.rows, len(job.k), "groups", most=spec.rows)
        outputs = Signal(len(job.n))
        plane = Signal(range(spec.planes))
        m.d.comb += [cells.write.eq(beats.step), cells.data.eq(self.i_w.payload)]
        with m.If(beats.step):
            m.d.sync += [*words.step(), cells.word.eq(cells.word + 1)]
            with m.If(~words.more):
                m.d.sync += [*words.load(job.rows), cells.word.eq(0)]
                m.d.sync += [*groups.step(), cells.group.eq(cells.group + 1)]
                with m.If(~groups.more):
                    m.d.sync += [*groups.load(job.k), cells.group.eq(0)]
                    m.d.sync += cells.bit.eq(cells.bit + 1)
                    with m.If(cells.bit == spec.cell_bits - 1):
                        m.d.sync += [cells.bit.eq(0), cells.column.eq(cells.column + 1)]
                        m.d.sync += plane.eq(plane + 1)
                        with m.If(plane == spec.planes - 1):
                            m.d.sync += [plane.eq(0), outputs.eq(outputs - 1)]
                            m.d.comb += beats.end.eq(outputs == 1)
        with m.If(self.start):
            m.d.sync += [
                *words.load(job.rows), *groups.load(job.k), outputs.eq(job.n),
                cells.word.eq(0), cells.group.eq(0), cells.bit.eq(0), cells.column.eq(0),
                plane.eq(0),
            ]  # fmt: skip
        return beats

    def _transfer(self, m: Module) -> Beats:
        """Take entries in the order of their addresses."""
        tables = self.tables
        beats = self._accept(m, "i_t", self._flag(FLAG_TRANSFER))
        m.d.comb += [tables.transfer_write.eq(beats.step), tables.transfer.eq(self.i_t.payload)]
        with m.If(beats.step):
            m.d.sync += tables.transfer_entry.eq(tables.transfer_entry + 1)
            last = self._spec.mux * self._spec.entries - 1
            m.d.comb += beats.end.eq(tables.transfer_entry == last)
        with m.If(self.start):
            m.d.sync += tables.transfer_entry.eq(0)
        return beats

    def _noise(self, m: Module) -> Beats:
        """Take the noise table, then the states."""
        tables, payload = self.tables, self.i_n.payload
        beats = self._accept(m, "i_n", self._flag(FLAG_NOISE))
        states = Signal()
        m.d.comb += [
            tables.noise_write.eq(beats.step & ~states),
            tables.state_write.eq(beats.step & states),
            tables.noise.eq(payload[:16]),
            tables.state.eq(payload),
        ]
        with m.If(tables.noise_write):
            m.d.sync += tables.noise_entry.eq(tables.noise_entry + 1)
            m.d.sync += states.eq(tables.noise_entry.all())
        with m.If(tables.state_write):
            m.d.sync += tables.state_adc.eq(tables.state_adc + 1)
            m.d.comb += beats.end.eq(tables.state_adc == self._spec.adcs - 1)
        with m.If(self.start):
            m.d.sync += [tables.noise_entry.eq(0), tables.state_adc.eq(0), states.eq(0)]
        return beats

    def _parameters(self, m: Module) -> Beats:
        """Take steps of E outputs; parameters beyond n become 0, and so do the results there."""
        spec, job = self._spec, self.job
        beats = self._accept(m, "i_e", 1)
        outputs = Blocks(spec.epilogue_lanes, len(job.n), "outputs")
        m.d.comb += self.parameter_write.eq(beats.step)
        for lane in range(spec.epilogue_lanes):
            with m.If(outputs.part > lane):
                m.d.comb += self.parameters[lane].eq(self.i_e.payload[lane])
            with m.If(beats.step):
                m.d.sync += self.keep[lane].eq(outputs.part > lane)
        with m.If(beats.step):
            m.d.sync += [*outputs.step(), self.parameter_step.eq(self.parameter_step + 1)]
            m.d.comb += beats.end.eq(~outputs.more)
        with m.If(self.start):
            m.d.sync += [*outputs.load(job.n), self.parameter_step.eq(0)]
        return beats

    def _flag(self, flag: int) -> Value:
        return (self.i_job.payload.flags & flag).any()


def input_streams(spec: PimSpec) -> dict[str, Any]:
    """Return the streams that `Load` accepts, as members of the engine."""
    streams: dict[str, Any] = {
        "i_job": JOB,
        "i_w": WORD_BITS,
        "i_t": MacroSignature(spec).members["tables"].signature.members["transfer"].shape,
        "i_n": 32,
        "i_e": ArrayLayout(PARAMETERS, spec.epilogue_lanes),
    }
    if not spec.noise_bits:
        del streams["i_n"]
    return {name: In(stream.Signature(shape)) for name, shape in streams.items()}
