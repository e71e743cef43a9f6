# SPDX-License-Identifier: Apache-2.0
"""Energy of the PIM macro: what single actions cost, and the ADC models beside each other."""

from __future__ import annotations

import pytest

from cosil.engines.pim import PimSpec
from energy_models.lib.adc import AREA_MODELS, MODELS, Converter, area_um2, energy_pj
from energy_models.lib.tables import read_table
from energy_models.lib.technology import TECHNOLOGIES, load_technology
from energy_models.pim import MODEL

COUNTS = {"conversions": 1000, "cell_ops": 100_000}


def test_a_run_has_an_energy_under_each_adc_model() -> None:
    """Only the converters' part differs, and total, low and high have all of them inside."""
    spec = PimSpec(conversion_cycles=8)
    run = MODEL.energy(spec, COUNTS, technology="horowitz45", clock_hz=8e8)
    assert tuple(run.alternatives) == MODELS
    totals: list[float] = []
    for model, components in run.alternatives.items():
        one = energy_pj(model, Converter(spec.adc_bits, 1e8, 45, 0.9)).value
        assert components["ADC"] == pytest.approx(1000 * one)
        others = {name: pj for name, pj in components.items() if name != "ADC"}
        assert others == {name: pj for name, pj in run.components.items() if name != "ADC"}
        totals.append(sum(components.values()))
    assert run.low_pj < min(totals) < run.total_pj < max(totals) < run.high_pj
    assert max(totals) > 2 * min(totals)


def test_a_slower_converter_is_cheaper() -> None:
    """Rate is clock over conversion cycles: 10 bits at 1 GHz lie above the regression's corner."""
    fast, slow = (
        MODEL.energy(
            PimSpec(adc_bits=10, conversion_cycles=cycles),
            COUNTS,
            technology="horowitz45",
            clock_hz=1e9,
        ).alternatives["survey_regression"]["ADC"]
        for cycles in (1, 11)
    )
    assert fast > 3 * slow


def test_physics_costs_nothing() -> None:
    """Transfer tables and noise stand for the analog part, products for what its cells do."""
    free = {"mac", "draws", "t_beats", "n_beats"}
    assert {name for name, action in MODEL.actions.items() if action.free} == free


def test_a_row_drive_grows_with_the_slice() -> None:
    """A slice of 4 bits takes four times the driver of one bit, and the same register."""
    tech = load_technology("asap7")
    one, four = (
        MODEL.energy(PimSpec(slice_bits=bits), {"row_drives": 1}).total_pj
        - tech.register_pj(4).value
        for bits in (1, 4)
    )
    assert four == pytest.approx(4 * one)


def test_a_beat_of_inputs_is_its_flip_flops_and_its_bytes() -> None:
    """128 codes of 4 bits: 512 registers of 0.0011 pJ, and 512 bits of LPDDR4 at 8 pJ."""
    found = MODEL.energy(PimSpec(), {"x_beats": 1}).components
    assert found["streams"] == pytest.approx(512 * 0.0011)
    assert found["memory (lpddr4)"] == pytest.approx(512 * 8.0)


def test_area_of_the_converters_covers_the_models() -> None:
    """256 columns, 8 to an ADC: 32 of them, between the models that give an area."""
    tech = load_technology("horowitz45")
    area = MODEL.area(PimSpec(), technology="horowitz45")["ADC"]
    adc = Converter(7, tech.clock_hz, tech.node_nm, tech.voltage_v)
    found = [32 * area_um2(model, adc).value for model in AREA_MODELS]
    assert area.low < min(found) < area.value < max(found) < area.high
    cells = MODEL.area(PimSpec(groups=1), technology="horowitz45")["cells"].value
    assert MODEL.area(PimSpec(), technology="horowitz45")["cells"].value == pytest.approx(8 * cells)


@pytest.mark.parametrize("technology", TECHNOLOGIES)
def test_share_of_the_converters_against_published_macros(technology: str) -> None:
    """ResNet-20's first stage, bit-serial: the models span the 16 to 61 % of 14 macros.

    Two of them lie inside it, so that the other parts of the macro are priced on the same scale.
    """
    m, k, n, slices, planes = 1024, 144, 16, 4, 4
    spec = PimSpec(rows=k, columns=n * planes, groups=1)
    counts = {
        "row_drives": m * slices * k,
        "cell_ops": m * slices * k * n * planes,
        **dict.fromkeys(("samples", "conversions", "accumulates"), m * slices * n * planes),
        "results": m * n,
    }
    shares = sorted(
        parts["ADC"] / sum(parts.values())
        for parts in MODEL.energy(spec, counts, technology=technology).alternatives.values()
    )
    published = read_table("silicon")["adc_share"]
    assert shares[0] < published["low"]
    assert published["high"] < shares[-1]
    assert sum(published["low"] < share < published["high"] for share in shares) >= 2
