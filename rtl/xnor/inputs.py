# SPDX-License-Identifier: Apache-2.0
"""Inputs: the queue of beats, and the buffer of those that later folds take again (section 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import pending, tally
from rtl.lib.widths import index_bits
from rtl.xnor.layout import border_bits, inputs_layout, job_layout

QUEUE_BEATS = 4


class Inputs(wiring.Component):
    """Queue and input buffer in one memory, a ring.

    A beat that is taken stays where it is until its vector is done: taking it moves a pointer, and
    nothing is copied. What the vector in work has taken, and four beats more, are in the ring.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    i_x : In(stream(inputs_layout))
        As the array's.
    start, job : In(1), In(job_layout)
        The job that is taken in this cycle or runs.
    usable : Out(1)
        A register: there is a beat in the queue.
    issue, take : In(1)
        A step takes a beat; it is one of the queue.
    fold_ends, vector_ends : In(1)
        With `issue`: it is the last one of its fold, of its vector.
    bits, border : Out(simd), Out
        What the last step took: activations, 0 in lanes at or above K, and the class.
    """

    i_x: stream.Interface
    start: Signal
    job: Any
    usable: Signal
    issue: Signal
    take: Signal
    fold_ends: Signal
    vector_ends: Signal
    bits: Signal
    border: Signal

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        again = spec.input_folds_max if spec.output_folds_max > 1 else 0
        self._depth = QUEUE_BEATS + again
        super().__init__(
            {
                "i_x": In(stream.Signature(inputs_layout(spec))),
                "start": In(1),
                "job": In(job_layout(spec)),
                "usable": Out(1),
                "issue": In(1),
                "take": In(1),
                "fold_ends": In(1),
                "vector_ends": In(1),
                "bits": Out(spec.simd),
                "border": Out(max(1, border_bits(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = data.StructLayout({"bits": self._spec.simd, "border": border_bits(self._spec)})
        m.submodules.ring = ring = Memory(shape=shape, depth=self._depth, init=[])
        write, read = ring.write_port(), ring.read_port()
        step, used = self._accept(m)
        tail = Signal(index_bits(self._depth))
        with m.If(step):
            m.d.sync += tail.eq(self._after(tail))
        m.d.comb += [
            write.en.eq(step),
            write.addr.eq(tail),
            write.data.bits.eq(self.i_x.payload.bits & used),
            write.data.border.eq(self.i_x.payload.border),
            read.en.eq(self.issue),
            read.addr.eq(self._place(m)),
            self.bits.eq(read.data.bits),
            self.border.eq(read.data.border),
            self.usable.eq(pending(m, "ahead", QUEUE_BEATS, step, self.take)),
        ]
        return m

    def _accept(self, m: Module) -> tuple[Signal, Signal]:
        """Accept a beat while the queue has room; return the strobe, and the lanes below K."""
        spec, job = self._spec, self.job
        waits, ready = Signal(), Signal()
        left, last_vector = Signal(32), Signal()
        beats = Blocks(spec.simd, len(job.k), "beats")
        step, end, room, used = Signal(), Signal(), Signal(), Signal(spec.simd)
        count = tally(m, "count", QUEUE_BEATS, step, self.take)
        m.d.comb += [
            self.i_x.ready.eq(ready),
            step.eq(self.i_x.valid & ready),
            end.eq(step & ~beats.more & last_vector),
            room.eq(self.take | ~(count[-1] | ((count == QUEUE_BEATS - 1) & step))),
            used.eq(Cat(beats.part > lane for lane in range(spec.simd))),
        ]
        m.d.sync += ready.eq(waits & ~end & room)
        with m.If(step):
            m.d.sync += beats.step()
            with m.If(~beats.more):
                m.d.sync += [*beats.load(job.k), left.eq(left - 1), last_vector.eq(left == 2)]
        with m.If(end):
            m.d.sync += waits.eq(0)
        with m.If(self.start):
            m.d.sync += [*beats.load(job.k), left.eq(job.m), last_vector.eq(job.m == 1)]
            m.d.sync += [waits.eq(1), ready.eq(1)]
        return step, used

    def _place(self, m: Module) -> Signal:
        """Return where the next step's beat is: it goes back at the end of a fold but the last."""
        place, begin = (Signal(index_bits(self._depth), name=name) for name in ("place", "begin"))
        after = self._after(place)
        with m.If(self.issue):
            m.d.sync += place.eq(Mux(self.fold_ends & ~self.vector_ends, begin, after))
            with m.If(self.vector_ends):
                m.d.sync += begin.eq(after)
        return place

    def _after(self, place: Signal) -> Value:
        if self._depth & (self._depth - 1) == 0:
            return (place + 1)[: len(place)]
        return Mux(place == self._depth - 1, 0, place + 1)
