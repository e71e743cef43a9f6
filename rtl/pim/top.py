# SPDX-License-Identifier: Apache-2.0
"""The engine: a macro and its digital periphery (docs/engines/pim.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring

from cosil.engines.pim import PimSpec
from rtl.pim.load import input_streams
from rtl.pim.macro import Macro
from rtl.pim.periphery import Periphery, engine_members


class Pim(wiring.Component):
    """Matrix products in memory, read by low-resolution ADCs.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    i_job : In(stream(JOB))
        Jobs; ready while idle.
    i_w, i_t, i_n, i_e : In(stream)
        Cells, transfer tables, noise and states (with noise hardware), column parameters.
    i_x : In(stream(codes_layout))
        Codes of a row group.
    o_y : Out(stream(results_layout))
        Results.
    o_events : Out(events_layout)
        For monitors (sections 5 and 6).
    """

    i_job: stream.Interface
    i_w: stream.Interface
    i_t: stream.Interface
    i_n: stream.Interface
    i_e: stream.Interface
    i_x: stream.Interface
    o_y: stream.Interface
    o_events: Any

    def __init__(self, spec: PimSpec) -> None:
        self.spec = spec
        super().__init__(engine_members(spec))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.periphery = periphery = Periphery(self.spec)
        m.submodules.macro = macro = Macro(self.spec)
        wiring.connect(m, periphery.macro, macro)
        for name in (*input_streams(self.spec), "i_x", "o_y"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(periphery, name))
        m.d.comb += self.o_events.eq(periphery.o_events)
        return m
