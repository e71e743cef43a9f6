# SPDX-License-Identifier: Apache-2.0
"""Load: takes a job, then weights, base values and column parameters (section 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_RELU, FLAG_WEIGHTS, FLAG_WIDE
from rtl.lib.blocks import Blocks
from rtl.lib.fixed_point import PARAMETERS
from rtl.lib.loading import Beats, accept, take_job
from rtl.lib.widths import index_bits
from rtl.xnor.layout import JOB, base_bits, job_layout, weights_layout

_BASE_BITS = 16
"""Bits of a base value on `i_c`."""


class Load(wiring.Component):
    """The job that runs, and what it loads.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    i_job, i_w, i_c, i_e : In(stream)
        As the array's; what `i_w` carries goes from there to the weight memory.
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
    weights_write, weights_end : Out(1), In(1)
        A tile comes; it would be the last one.
    base_write, base_address, base : Out(1), Out, Out(array of P, base_bits)
        Base values of a class and fold.
    column_write, column_address, columns : Out(1), Out, Out(array of P, PARAMETERS)
        Parameters of a fold.
    """

    i_job: stream.Interface
    i_w: stream.Interface
    i_c: stream.Interface
    i_e: stream.Interface
    start: Signal
    job: Any
    running: Signal
    loaded: Signal
    finished: Signal
    weights_write: Signal
    weights_end: Signal
    base_write: Signal
    base_address: Signal
    base: Any
    column_write: Signal
    column_address: Signal
    columns: Any

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                **input_streams(spec),
                "start": Out(1),
                "job": Out(job_layout(spec)),
                "running": Out(1),
                "loaded": Out(1),
                "finished": In(1),
                "weights_write": Out(1),
                "weights_end": In(1),
                "base_write": Out(1),
                "base_address": Out(index_bits(spec.base_depth)),
                "base": Out(data.ArrayLayout(base_bits(spec), spec.pe)),
                "column_write": Out(1),
                "column_address": Out(index_bits(spec.output_folds_max)),
                "columns": Out(data.ArrayLayout(PARAMETERS, spec.pe)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        flags = {"relu": FLAG_RELU, "wide": FLAG_WIDE}
        take_job(
            m, self.i_job, start=self.start, job=self.job, running=self.running,
            finished=self.finished, flags=flags,
        )  # fmt: skip
        # Beats come only before `loaded`, and it is said here too: a tool then sees that no word is
        # written while one is read, and needs no logic for it.
        streams = [self._weights(m), self._base(m), self._columns(m)]
        wanted = self.i_job.payload.flags & (FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS)
        # A register, since a step waits for it.
        with m.If(self.start):
            m.d.sync += self.loaded.eq(~wanted.any())
        with m.Elif(self.running):
            m.d.sync += self.loaded.eq(~Cat(beats.remain for beats in streams).any())
        return m

    def _accept(self, m: Module, name: str, flag: int) -> Beats:
        """Be ready for the beats of a stream that a job loads."""
        wanted = (self.i_job.payload.flags & flag).any()
        return accept(m, getattr(self, name), start=self.start, wanted=wanted, name=name)

    def _weights(self, m: Module) -> Beats:
        beats = self._accept(m, "i_w", FLAG_WEIGHTS)
        m.d.comb += [
            self.weights_write.eq(beats.step & ~self.loaded),
            beats.end.eq(beats.step & self.weights_end),
        ]
        return beats

    def _base(self, m: Module) -> Beats:
        """Take folds of a class, class after class; classes lie apart as far as NF can be."""
        spec, job = self._spec, self.job
        beats = self._accept(m, "i_c", FLAG_BASE)
        folds = Blocks(spec.pe, len(job.n), "base_folds")
        left, next_class = Signal(len(job.classes)), Signal(len(self.base_address))
        m.d.comb += [
            self.base_write.eq(beats.step & ~self.loaded),
            *(self.base[lane].eq(self.i_c.payload[lane]) for lane in range(spec.pe)),
        ]
        with m.If(beats.step):
            m.d.sync += [*folds.step(), self.base_address.eq(self.base_address + 1)]
            with m.If(~folds.more):
                m.d.sync += [
                    *folds.load(job.n), left.eq(left - 1), self.base_address.eq(next_class),
                    next_class.eq(next_class + spec.output_folds_max),
                ]  # fmt: skip
                m.d.comb += beats.end.eq(left == 1)
        with m.If(self.start):
            m.d.sync += [
                *folds.load(job.n), left.eq(job.classes), self.base_address.eq(0),
                next_class.eq(spec.output_folds_max),
            ]  # fmt: skip
        return beats

    def _columns(self, m: Module) -> Beats:
        spec, job = self._spec, self.job
        beats = self._accept(m, "i_e", FLAG_COLUMNS)
        folds = Blocks(spec.pe, len(job.n), "column_folds")
        m.d.comb += [
            self.column_write.eq(beats.step & ~self.loaded),
            self.columns.eq(self.i_e.payload),
        ]
        with m.If(beats.step):
            m.d.sync += [*folds.step(), self.column_address.eq(self.column_address + 1)]
            m.d.comb += beats.end.eq(~folds.more)
        with m.If(self.start):
            m.d.sync += [*folds.load(job.n), self.column_address.eq(0)]
        return beats


def input_streams(spec: XnorSpec) -> dict[str, Any]:
    """Return the streams that `Load` accepts, as members of the array."""
    streams: dict[str, Any] = {
        "i_job": JOB,
        "i_w": weights_layout(spec),
        "i_c": data.ArrayLayout(_BASE_BITS, spec.pe),
        "i_e": data.ArrayLayout(PARAMETERS, spec.pe),
    }
    return {name: In(stream.Signature(shape)) for name, shape in streams.items()}
