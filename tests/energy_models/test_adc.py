# SPDX-License-Identifier: Apache-2.0
"""ADC models against the numbers that their authors' tools print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy_models.lib.adc import (
    AREA_MODELS,
    MODELS,
    Converter,
    area_of_all_um2,
    area_um2,
    energy_of_all_pj,
    energy_pj,
)
from energy_models.lib.tables import read_table

# pJ and um2 of 4 to 10 bits, to the last digit given: the authors' own programs, run apart from
# this project (the plug-in of arXiv 2404.06553; ZigZag-IMC; NeuroSim V1.4 with 100 kohm columns).
PRINTED_PJ = [
    ("survey_regression", 32, 0.9, 1e9, "0.924 0.936 1.065 1.312 1.714 4.697 13.95"),
    ("survey_regression", 32, 0.9, 1e7, "0.924 0.936 1.065 1.312 1.714 2.340 3.310"),
    ("survey_regression", 22, 0.9, 1e8, "0.457 0.463 0.527 0.649 0.847 1.157 1.636"),
    ("closed_form", 28, 0.9, 1e9, "0.324 0.406 0.489 0.580 0.701 0.941 1.659"),
    ("isaac", 32, 1.0, 1e9, "0.79 0.99 1.20 1.42 1.67 1.97 2.38"),
    ("neurosim_sar", 32, 0.9, 1e9, "0.071 0.092 0.115 0.141 0.169 0.199 0.231"),
    ("survey_envelope", 32, 0.9, 1e9, "0.267 0.267 0.268 0.269 0.276 0.305 0.419"),
]
PRINTED_UM2 = [
    ("survey_regression", 32, 0.9, 1e9, "4964 4984 5180 5513 5972 8074 11180"),
    ("survey_regression", 32, 0.9, 1e7, "2160 2168 2254 2399 2598 2852 3163"),
    ("survey_regression", 22, 0.9, 1e8, "1828 1835 1907 2030 2199 2414 2678"),
    ("closed_form", 28, 0.9, 1e9, "183 336 618 1135 2085 3830 7036"),
    ("isaac", 32, 1.0, 1e9, "361 477 627 845 1200 1828 3002"),
]
CONVERTERS = st.builds(
    Converter,
    st.integers(2, 9),
    st.floats(1e6, 1e10),
    st.sampled_from([7.0, 28.0, 45.0, 65.0]),
    st.floats(0.6, 1.2),
)


def half_of_last_digit(text: str) -> float:
    return 0.5001 * 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize(("model", "nm", "volt", "rate", "printed"), PRINTED_PJ)
def test_energies_that_the_authors_tools_print(
    model: str, nm: float, volt: float, rate: float, printed: str
) -> None:
    """Every model at its own node gives what its source gives, 4 to 10 bits."""
    for bits, text in enumerate(printed.split(), start=4):
        found = energy_pj(model, Converter(bits, rate, nm, volt)).value
        assert found == pytest.approx(float(text), abs=half_of_last_digit(text))


@pytest.mark.parametrize(("model", "nm", "volt", "rate", "printed"), PRINTED_UM2)
def test_areas_that_the_authors_tools_print(
    model: str, nm: float, volt: float, rate: float, printed: str
) -> None:
    """As the energies; NeuroSim's and the envelope's areas are not given."""
    for bits, text in enumerate(printed.split(), start=4):
        found = area_um2(model, Converter(bits, rate, nm, volt)).value
        assert found == pytest.approx(float(text), rel=1e-4, abs=half_of_last_digit(text))


def test_isaac_converter_from_its_power() -> None:
    """16 mW for eight converters of 1.2 GS/s are 1.667 pJ, the table's 8 bits."""
    table = read_table("adc")["isaac"]
    pj = table["power_w"] / (table["power_adcs"] * table["rate_hz"]) * 1e12
    assert pj == pytest.approx(1.667, abs=5e-4)
    assert table["energy_pj"][table["power_bits"]] == pytest.approx(pj, abs=5e-3)


@pytest.mark.parametrize(
    ("bits", "corner_hz"), [(4, 95e9), (6, 10e9), (8, 1.07e9), (9, 349e6), (10, 114e6), (12, 12e6)]
)
def test_speed_costs_energy_above_a_corner_only(bits: int, corner_hz: float) -> None:
    """The regression's figure of merit is flat up to a rate that falls with resolution."""
    slow, below, above = (
        energy_pj("survey_regression", Converter(bits, rate, 32, 0.9)).value
        for rate in (1e5, 0.94 * corner_hz, 1.06 * corner_hz)
    )
    assert slow == below < above


@given(CONVERTERS)
def test_the_range_covers_every_model(adc: Converter) -> None:
    """A bit more costs no model less, and what is given for all of them hides none."""
    finer = Converter(adc.bits + 1, adc.rate_hz, adc.node_nm, adc.voltage_v)
    for models, one, joined in (
        (MODELS, energy_pj, energy_of_all_pj(adc)),
        (AREA_MODELS, area_um2, area_of_all_um2(adc)),
    ):
        found = [one(model, adc) for model in models]
        assert joined.low == min(each.low for each in found)
        assert joined.high == max(each.high for each in found)
        low, high = min(each.value for each in found), max(each.value for each in found)
        assert low < joined.value < high
        for model, each in zip(models, found, strict=True):
            assert each.low < each.value < each.high
            assert one(model, finer).value >= each.value


def test_unknown_models_are_refused() -> None:
    """A model without an area does not give one."""
    adc = Converter(8, 1e9, 32, 0.9)
    with pytest.raises(ValueError, match=r"^ADC model must be one of survey_.*, not 'walden'$"):
        energy_pj("walden", adc)
    with pytest.raises(ValueError, match=r"must be one of .*, isaac, not 'neurosim_sar'$"):
        area_um2("neurosim_sar", adc)
