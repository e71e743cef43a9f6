# SPDX-License-Identifier: Apache-2.0
"""The steps of a job, one a cycle (section 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.lib.blocks import Blocks
from rtl.lib.widths import index_bits
from rtl.xnor.layout import TAG, job_layout


class Sequencer(wiring.Component):
    """Walks through the tiles of every vector, and before that while weights are loaded.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    start, job : In(1), In(job_layout)
        The job that is taken in this cycle or runs.
    loaded, usable, en : In(1)
        What a step waits for; `usable` only in the first fold of a vector.
    write : In(1)
        A tile of weights is written.
    tile : Out
        Address of the tile that is written or taken by the next step.
    tiles_end : Out(1)
        It is the last one.
    issue, take : Out(1)
        A step is issued; it takes a beat from the queue.
    tag : Out(TAG)
        The step that is issued.
    inputs : Out
        Lanes below K of the next step.
    tail, tail_outputs : Out(P), Out
        Lanes below n of a vector's last fold, and their number, from the cycle after that fold's
        first step on.
    starved, remain : Out(1)
        The next step waits for a beat; there is one.
    """

    start: Signal
    job: Any
    loaded: Signal
    usable: Signal
    en: Signal
    write: Signal
    tile: Signal
    tiles_end: Signal
    issue: Signal
    take: Signal
    tag: Any
    inputs: Signal
    tail: Signal
    tail_outputs: Signal
    starved: Signal
    remain: Signal

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(spec)),
                "loaded": In(1),
                "usable": In(1),
                "en": In(1),
                "write": In(1),
                "tile": Out(index_bits(spec.weight_depth)),
                "tiles_end": Out(1),
                "issue": Out(1),
                "take": Out(1),
                "tag": Out(TAG),
                "inputs": Out(range(spec.simd + 1)),
                "tail": Out(spec.pe),
                "tail_outputs": Out(range(spec.pe + 1)),
                "starved": Out(1),
                "remain": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, tag = self._spec, self.tag
        inputs = Blocks(spec.simd, len(self.job.k), "inputs")
        outputs = Blocks(spec.pe, len(self.job.n), "outputs")
        fold_ends, first, fresh = Signal(), Signal(), Signal()
        m.d.comb += [
            fold_ends.eq(~inputs.more),
            self.tiles_end.eq(~inputs.more & ~outputs.more),
            self.issue.eq(self.loaded & self.remain & (self.usable | ~fresh) & self.en),
            self.take.eq(self.issue & fresh),
            self.starved.eq(self.remain & fresh & ~self.usable),
            self.inputs.eq(inputs.part),
            tag.valid.eq(self.issue),
            tag.first.eq(first),
            tag.last.eq(fold_ends),
            tag.fresh.eq(fresh),
            tag.final.eq(~outputs.more),
        ]
        with m.If(self.issue | self.write):
            m.d.sync += [*inputs.step(), first.eq(fold_ends), self.tile.eq(self.tile + 1)]
            with m.If(fold_ends):
                m.d.sync += [*inputs.load(self.job.k), *outputs.step(), fresh.eq(self.tiles_end)]
            with m.If(self.tiles_end):
                m.d.sync += [*outputs.load(self.job.n), self.tile.eq(0)]
        with m.If(self.start):
            m.d.sync += [*inputs.load(self.job.k), *outputs.load(self.job.n), self.tile.eq(0)]
            m.d.sync += [first.eq(1), fresh.eq(1)]
        with m.If(self.issue & ~outputs.more):
            m.d.sync += [
                self.tail.eq(Cat(outputs.part > lane for lane in range(spec.pe))),
                self.tail_outputs.eq(outputs.part),
            ]
        self._vectors(m)
        return m

    def _vectors(self, m: Module) -> None:
        """Count vectors, and those of a pool window."""
        job, tag = self.job, self.tag
        left, last, done = Signal(32), Signal(), Signal()
        m.d.comb += [done.eq(self.issue & self.tiles_end), tag.end.eq(self.tiles_end & last)]
        with m.If(done):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2), self.remain.eq(~last)]
        with m.If(self.start):
            m.d.sync += [left.eq(job.m), last.eq(job.m == 1), self.remain.eq(1)]
        if self._spec.epilogue == "fixed":
            m.d.comb += [tag.opens.eq(1), tag.closes.eq(1)]
            return
        window = Blocks(1, len(job.pool), "window")
        opens = Signal()
        m.d.comb += [tag.opens.eq(opens), tag.closes.eq(~window.more)]
        with m.If(done):
            m.d.sync += [*window.step(), opens.eq(~window.more)]
            with m.If(~window.more):
                m.d.sync += window.load(job.pool)
        with m.If(self.start):
            m.d.sync += [*window.load(job.pool), opens.eq(1)]
