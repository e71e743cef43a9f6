# SPDX-License-Identifier: Apache-2.0
"""Energy of the XNOR array: what single actions cost, and a measured binary chip."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cosil.engines.xnor import XnorSpec
from energy_models.lib.scaling import energy_factor
from energy_models.lib.tables import read_table
from energy_models.lib.technology import TECHNOLOGIES, load_technology
from energy_models.xnor import MODEL


def test_one_input_is_a_full_adder_and_a_half_and_its_flip_flops() -> None:
    """64 inputs: after three levels 8 counts of 4 bits, after six one of 7: 39 flip-flops."""
    pj = MODEL.energy(XnorSpec(simd=64), {"xnor": 64}).total_pj
    assert pj == pytest.approx(64 * 1.5 * 0.002103 / 4 + 39 * 0.0011)


@pytest.mark.parametrize("technology", TECHNOLOGIES)
def test_ternary_weights_cost_a_gate_and_wider_memories(technology: str) -> None:
    """The AND is less than a full adder; a second plane doubles what is brought.

    It makes the memory twice as wide and twice as large, each of which an access costs less than
    twice.
    """
    specs = (XnorSpec(), XnorSpec(weights="ternary"))
    binary, ternary = (
        MODEL.energy(
            spec, {"xnor": 1000, "weight_reads": 1, "w_beats": 1}, technology=technology
        ).components
        for spec in specs
    )
    assert 1 < ternary["XNOR and tree"] / binary["XNOR and tree"] < 1.25
    assert 1.5 < ternary["weight memory"] / binary["weight memory"] < 3
    assert ternary["memory (lpddr4)"] == 2 * binary["memory (lpddr4)"]


def test_a_fixed_point_output_costs_more_than_a_bit() -> None:
    """A product of 16 bits against a comparison; 16 bits leave instead of one."""
    bit, fixed = (
        MODEL.energy(XnorSpec(epilogue=epilogue), {"results": 1, "y_beats": 1})
        for epilogue in ("threshold", "fixed")
    )
    assert fixed.actions["results"] > 5 * bit.actions["results"]
    assert fixed.components["memory (lpddr4)"] == 16 * bit.components["memory (lpddr4)"]


def test_a_beat_of_activations_moves_its_bits() -> None:
    """64 bits of LPDDR4 at 8 pJ; the class of a vector is made beside the memory."""
    assert MODEL.energy(XnorSpec(), {"x_beats": 3}).components["memory (lpddr4)"] == 3 * 64 * 8.0


def test_longer_weight_memories_cost_more_to_read_and_more_area() -> None:
    """Four times the outputs: an access as CACTI's size exponent says, more than twice the area."""
    small, large = XnorSpec(max_outputs=512), XnorSpec(max_outputs=2048)
    read = [MODEL.energy(spec, {"weight_reads": 1}).total_pj for spec in (small, large)]
    assert read[1] / read[0] == pytest.approx(4**0.5527)
    area = [MODEL.area(spec)["weight memory"].value for spec in (small, large)]
    assert area[1] > 2 * area[0]
    assert MODEL.area(small)["XNOR and tree"] == MODEL.area(large)["XNOR and tree"]


def test_xnorbin_against_digital_prices() -> None:
    """65 nm, 0.8 V: 95 TOp/s/W are 21 fJ for an XNOR with all that the chip has around it.

    Gates, tree and accumulators at our 45 nm prices, scaled, are half of it to all of it.
    """
    chip, spec = read_table("silicon")["xnorbin"], XnorSpec()
    measured_fj = 2e3 / chip["tops_per_w"]
    assert measured_fj == pytest.approx(21.05, abs=0.01)
    counts = {"xnor": spec.simd, "accumulates": 1}
    priced = MODEL.energy(spec, counts, technology="horowitz45").total_pj / spec.simd * 1e3
    tech = load_technology("horowitz45")
    priced *= energy_factor(
        "stillmaker2017", tech.node_nm, tech.voltage_v, chip["node_nm"], chip["voltage_v"]
    )
    assert 0.5 < priced / measured_fj < 1


def test_pe_multiplies_what_every_output_has() -> None:
    """Twice the outputs at once: twice the array, the same input buffer."""
    spec = XnorSpec(pe=16, max_outputs=512)
    one, two = MODEL.area(spec), MODEL.area(replace(spec, pe=32, max_outputs=1024))
    for part in ("XNOR and tree", "weight memory", "parameter memories", "accumulators"):
        assert two[part].value == pytest.approx(2 * one[part].value)
    assert two["input buffer"] == one["input buffer"]
