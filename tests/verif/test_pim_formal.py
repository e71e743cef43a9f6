# SPDX-License-Identifier: Apache-2.0
"""An unbounded proof of the PIM macro's result stream, and one that has to fail."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module

from cosil.engines.pim import PimSpec
from rtl.pim import outputs
from rtl.pim.outputs import Outputs
from verif.lib.formal import prove_stream_rules

pytestmark = pytest.mark.synth

TINY = PimSpec(
    "native", rows=1, columns=3, groups=1, weight_bits=2, activation_bits=1, adc_bits=2, mux=1,
    noise_bits=0, epilogue_lanes=2,
)  # fmt: skip


def test_results_hold_until_taken() -> None:
    """A beat of results that is not taken stays, unchanged, whatever is written or loaded."""
    proof = prove_stream_rules(Outputs(TINY))
    assert proof.proved, proof.log[-2000:]


class _Leaking(Outputs):
    """The keep bits are not registered with the data."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.o_y.payload.keep.eq(self.keep)
        return m


def test_results_that_change_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that follow the job's parameters while a beat waits give a counterexample."""
    # A counterexample is as long as the way to the first beat.
    monkeypatch.setattr(outputs, "FIXED_EPILOGUE_LATENCY", 2)
    proof = prove_stream_rules(_Leaking(TINY))
    assert proof.refuted
    assert not proof.proved
