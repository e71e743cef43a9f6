# SPDX-License-Identifier: Apache-2.0
"""Unbounded proofs of the XNOR array's result stream, and one that has to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Module

from cosil.engines.xnor import XnorSpec
from rtl.xnor.outputs import Outputs
from verif.lib.formal import prove_stream_rules

pytestmark = pytest.mark.synth

TINY = XnorSpec(pe=2, simd=2, max_inputs=2, max_outputs=3, border_classes=1)


@pytest.mark.parametrize("spec", [TINY, replace(TINY, epilogue="fixed")], ids=["bits", "fixed"])
def test_results_hold_until_taken(spec: XnorSpec) -> None:
    """A beat of results that is not taken stays, unchanged, whatever is written or computed."""
    proof = prove_stream_rules(Outputs(spec))
    assert proof.proved, proof.log[-2000:]


class _Leaking(Outputs):
    """The keep bits are not registered with the data."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.o_y.payload.keep.eq(self.tail)
        return m


def test_results_that_change_are_refuted() -> None:
    """Lanes that follow the steps while a beat waits give a counterexample."""
    proof = prove_stream_rules(_Leaking(TINY))
    assert proof.refuted
    assert not proof.proved
