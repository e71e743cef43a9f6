# SPDX-License-Identifier: Apache-2.0
"""Costs of one technology, against the numbers that their sources print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy_models.lib.scaling import area_factor, energy_factor
from energy_models.lib.technology import TECHNOLOGIES, Estimate, load_technology


def test_points_are_met_exactly() -> None:
    """Interpolation goes through the tabulated widths."""
    horowitz = load_technology("horowitz45")
    # Horowitz, ISSCC 2014, 45 nm: int8 and int32 multiply and add, float32 multiply.
    assert horowitz.multiply_pj(8, 8).value == pytest.approx(0.2)
    assert horowitz.multiply_pj(32, 32).value == pytest.approx(3.1)
    assert horowitz.add_pj(32).value == pytest.approx(0.1)
    assert horowitz.float32_multiply_pj().value == pytest.approx(3.7)


def test_seven_nanometres_agree_with_an_independent_source() -> None:
    """Jouppi et al. (ISCA 2021) print 0.07 pJ for an int8 product: inside the estimate's range."""
    product = load_technology("asap7").multiply_pj(8, 8)
    assert product.low <= 0.07 <= product.high


# Read energies of single CACTI runs (itrs-lop, 64 bits): (technology's own node, KB, pJ).
@pytest.mark.parametrize(("kilobytes", "pj"), [(1, 0.79), (8, 2.65), (64, 8.92), (1024, 32.1)])
def test_sram_fit_against_cacti(kilobytes: int, pj: float) -> None:
    """The fit lies within the error that its entry states, 1.83."""
    fitted = load_technology("horowitz45").sram_read_pj(kilobytes * 1024, 64).value
    assert 1 / 1.83 <= fitted / pj <= 1.83


@pytest.mark.parametrize("name", TECHNOLOGIES)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(64, 1 << 20), st.integers(8, 256))
def test_costs_grow_with_size(name: str, a: int, b: int, capacity: int, width: int) -> None:
    """One more bit, byte or port never makes an action cheaper."""
    tech = load_technology(name)
    assert tech.multiply_pj(a, b).value == tech.multiply_pj(b, a).value
    for cost in (tech.multiply_pj, tech.multiply_um2):
        assert cost(a, b).value < cost(a + 1, b).value
    for cost in (tech.add_pj, tech.shift_pj, tech.register_pj, tech.add_um2, tech.register_um2):
        assert cost(a).value < cost(a + 1).value
    for cost in (tech.sram_read_pj, tech.sram_write_pj, tech.sram_um2):
        assert cost(capacity, width).value < cost(capacity + 1, width).value
        assert cost(capacity, width).value < cost(capacity, width + 1).value


def test_scaling_follows_the_published_fit() -> None:
    """45 nm at 1.0 V to 7 nm at 0.7 V: 18 times less energy, and 17 times less area."""
    assert 1 / energy_factor("stillmaker2017", 45, 1.0, 7, 0.7) == pytest.approx(18, rel=0.02)
    assert 1 / area_factor("stillmaker2017", 45, 7) == pytest.approx(17, rel=0.02)
    assert energy_factor("stillmaker2017", 45, 0.9, 45, 0.9) == 1
    with pytest.raises(ValueError, match=r"^scaling must be one of stillmaker2017, not 'moore'$"):
        energy_factor("moore", 45, 1.0, 7, 0.7)


def test_estimates_add_and_multiply() -> None:
    """Ranges add like values: errors of one table share their sign."""
    total = Estimate(2, 1, 4) + 3 * Estimate(1, 0.5, 2)
    assert Estimate(5, 2.5, 10) == total


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_every_number_names_unit_node_source_and_uncertainty(name: str) -> None:
    """A cost without a source is not a cost."""
    tech = load_technology(name)
    for entry in (*tech.costs.values(), *tech.areas.values()):
        assert {"unit", "node_nm", "source", "uncertainty"} <= entry.keys()
        assert entry["uncertainty"] >= 1
        assert ("points" in entry) != ("value" in entry)
        # What was measured at another node says by which model it is carried over.
        assert (entry["node_nm"] == tech.node_nm) != ("scaling" in entry)
