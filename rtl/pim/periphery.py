# SPDX-License-Identifier: Apache-2.0
"""The digital periphery: all of the engine but the macro (docs/engines/pim.md, section 8)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from rtl.pim.inputs import Inputs
from rtl.pim.layout import (
    MacroSignature,
    codes_layout,
    events_layout,
    results_layout,
    unit_adcs,
    unit_outputs,
)
from rtl.pim.load import Load, input_streams
from rtl.pim.outputs import Outputs
from rtl.pim.sequence import Sequencer
from rtl.pim.shift_add import ShiftAdd


class Periphery(wiring.Component):
    """Runs jobs on a macro.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    i_job, i_w, i_t, i_n, i_e, i_x, o_y, o_events
        As `rtl.pim.top.Pim`.
    macro : Out(MacroSignature)
    """

    i_x: stream.Interface
    o_y: stream.Interface
    o_events: Any
    macro: Any

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__({**engine_members(spec), "macro": Out(MacroSignature(spec))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, macro = self._spec, self.macro
        m.submodules.load = load = Load(spec)
        m.submodules.inputs = inputs = Inputs(spec)
        m.submodules.sequencer = sequencer = Sequencer(spec)
        m.submodules.shift_add = shift_add = ShiftAdd(spec)
        m.submodules.outputs = outputs = Outputs(spec)
        for name in input_streams(spec):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(load, name))
        wiring.connect(m, wiring.flipped(self.i_x), inputs.i_x)
        wiring.connect(m, wiring.flipped(self.o_y), outputs.o_y)
        wiring.connect(m, wiring.flipped(macro.cells), load.cells)
        wiring.connect(m, wiring.flipped(macro.tables), load.tables)
        for part in (inputs, sequencer, outputs):
            m.d.comb += [part.start.eq(load.start), part.job.eq(load.job)]
        for name in ("launch", "bank", "group", "slice", "launch_first", "launch_last"):
            m.d.comb += getattr(inputs, name).eq(getattr(sequencer, name))
        for name in (
            "group", "drive", "sample", "sample_bank", "convert", "convert_bank", "position",
            "strobe",
        ):  # fmt: skip
            m.d.comb += getattr(macro, name).eq(getattr(sequencer, name))
        m.d.comb += [
            load.finished.eq(outputs.finished),
            sequencer.loaded.eq(load.loaded),
            sequencer.available.eq(inputs.available),
            sequencer.vector_issued.eq(outputs.vector_issued),
            macro.select.eq(sequencer.launch),
            macro.rows.eq(inputs.rows),
            shift_add.codes.eq(macro.codes),
            shift_add.number.eq(sequencer.number),
            shift_add.add.eq(sequencer.add),
            outputs.write.eq(shift_add.write),
            outputs.sums.eq(shift_add.sums),
            outputs.parameter_write.eq(load.parameter_write),
            outputs.parameter_step.eq(load.parameter_step),
            outputs.parameters.eq(load.parameters),
            outputs.keep.eq(load.keep),
        ]
        self._events(m, load, sequencer, outputs)
        return m

    def _events(self, m: Module, load: Load, sequencer: Sequencer, outputs: Outputs) -> None:
        """Show what happens in this cycle."""
        spec, events, n = self._spec, self.o_events, load.job.n
        add = sequencer.add
        converted = unit_adcs(spec) * self._outputs_at(sequencer.place, n)
        written = self._outputs_at(add.place, n)
        m.d.comb += [
            events.load.eq(load.start | (load.running & ~load.loaded)),
            *(
                events[name].eq(getattr(sequencer, name))
                for name in ("drive", "convert", "starved", "remain", "launch", "sample")
            ),
            events.result.eq(sequencer.full),
            events.write.eq(outputs.write),
            events.issue.eq(outputs.issue),
            events.rows.eq(Mux(sequencer.launch, sequencer.rows, 0)),
            events.samples.eq(Mux(sequencer.sample, n * spec.planes, 0)),
            events.conversions.eq(Mux(sequencer.strobe, converted, 0)),
            events.draws.eq(Mux(sequencer.strobe, spec.adcs if spec.noise_bits else 0, 0)),
            events.accumulates.eq(Mux(add.valid, written, 0)),
        ]

    def _outputs_at(self, place: Value, n: Value) -> Value:
        """Return how many units have an output of the job at this place among theirs."""
        spec, count = self._spec, unit_outputs(self._spec)
        used = [n > first + place for first in range(0, spec.outputs, count)]
        return sum(used[1:], start=used[0])


def engine_members(spec: PimSpec) -> dict[str, Any]:
    """Return the members of the engine."""
    return {
        **input_streams(spec),
        "i_x": In(stream.Signature(codes_layout(spec))),
        "o_y": Out(stream.Signature(results_layout(spec))),
        "o_events": Out(events_layout(spec)),
    }
