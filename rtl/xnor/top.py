# SPDX-License-Identifier: Apache-2.0
"""The array with its streams (docs/engines/xnor.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.xnor.array import ProcessingArray
from rtl.xnor.inputs import Inputs
from rtl.xnor.layout import events_layout, inputs_layout, results_layout
from rtl.xnor.load import Load, input_streams
from rtl.xnor.outputs import Outputs
from rtl.xnor.sequence import Sequencer


class Xnor(wiring.Component):
    """Products of a matrix of signs with vectors of signs.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    i_job : In(stream(JOB))
        Jobs; ready while idle.
    i_w, i_c, i_e : In(stream)
        Tiles of weights, base values, column parameters.
    i_x : In(stream(inputs_layout))
        Activation bits.
    o_y : Out(stream(results_layout))
        Results.
    o_events : Out(events_layout)
        For monitors (sections 5 and 6).
    """

    i_job: stream.Interface
    i_w: stream.Interface
    i_c: stream.Interface
    i_e: stream.Interface
    i_x: stream.Interface
    o_y: stream.Interface
    o_events: Any

    def __init__(self, spec: XnorSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                **input_streams(spec),
                "i_x": In(stream.Signature(inputs_layout(spec))),
                "o_y": Out(stream.Signature(results_layout(spec))),
                "o_events": Out(events_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.load = load = Load(self.spec)
        m.submodules.inputs = inputs = Inputs(self.spec)
        m.submodules.sequencer = sequencer = Sequencer(self.spec)
        m.submodules.array = array = ProcessingArray(self.spec)
        m.submodules.outputs = outputs = Outputs(self.spec)
        for name in input_streams(self.spec):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(load, name))
        wiring.connect(m, wiring.flipped(self.i_x), inputs.i_x)
        wiring.connect(m, wiring.flipped(self.o_y), outputs.o_y)
        for part in (inputs, sequencer):
            m.d.comb += [part.start.eq(load.start), part.job.eq(load.job)]
        m.d.comb += [
            load.finished.eq(outputs.finished),
            load.weights_end.eq(sequencer.tiles_end),
            sequencer.loaded.eq(load.loaded),
            sequencer.usable.eq(inputs.usable),
            sequencer.en.eq(outputs.en),
            sequencer.write.eq(load.weights_write),
            inputs.issue.eq(sequencer.issue),
            inputs.take.eq(sequencer.take),
            inputs.fold_ends.eq(sequencer.tag.last),
            inputs.vector_ends.eq(sequencer.tiles_end),
            array.en.eq(outputs.en),
            array.loaded.eq(load.loaded),
            array.tile.eq(sequencer.tile),
            array.write.eq(load.weights_write),
            array.weights.eq(self.i_w.payload),
            array.base_write.eq(load.base_write),
            array.base_address.eq(load.base_address),
            array.base.eq(load.base),
            array.tag.eq(sequencer.tag),
            array.bits.eq(inputs.bits),
            array.border.eq(inputs.border),
            outputs.job.eq(load.job),
            outputs.loaded.eq(load.loaded),
            outputs.column_write.eq(load.column_write),
            outputs.column_address.eq(load.column_address),
            outputs.columns.eq(load.columns),
            outputs.tag.eq(array.counted),
            outputs.sums.eq(array.sums),
            outputs.tail.eq(sequencer.tail),
        ]
        self._events(m, load, sequencer, array, outputs)
        return m

    def _events(
        self, m: Module, load: Load, sequencer: Sequencer, array: ProcessingArray, outputs: Outputs
    ) -> None:
        """Show what happens in this cycle."""
        events, counted = self.o_events, array.counted
        add = outputs.en & counted.valid
        tail = sequencer.tail_outputs
        m.d.comb += [
            events.load.eq(load.start | (load.running & ~load.loaded)),
            *(
                events[name].eq(getattr(sequencer, name))
                for name in ("starved", "remain", "issue", "take")
            ),
            events.base.eq(array.base_read),
            events.column.eq(outputs.column_read),
            events.inputs.eq(Mux(sequencer.issue, sequencer.inputs, 0)),
            events.accumulates.eq(Mux(add, Mux(counted.final, tail, self.spec.pe), 0)),
            events.results.eq(Mux(outputs.summed, Mux(outputs.final, tail, self.spec.pe), 0)),
        ]
