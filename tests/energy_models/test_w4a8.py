# SPDX-License-Identifier: Apache-2.0
"""Energy of the W4A8 array: the actions that it prices, and their sum."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.engines.w4a8 import W4A8Spec
from energy_models.lib.pricing import MEMORIES
from energy_models.lib.technology import TECHNOLOGIES, load_technology
from energy_models.w4a8 import ACTIONS, MODEL
from sim.w4a8.counts import NAMES

COUNTS = st.dictionaries(st.sampled_from(sorted(ACTIONS)), st.integers(0, 10**12))


def test_actions_are_those_that_the_simulator_counts() -> None:
    """Every counted action has a price and nothing else has one."""
    assert set(NAMES) == set(ACTIONS)


@given(COUNTS, st.sampled_from(TECHNOLOGIES), st.sampled_from(MEMORIES))
def test_components_and_actions_sum_to_the_total(
    counts: dict[str, int], technology: str, memory: str
) -> None:
    """No energy is lost between the two views, and the estimate lies in its range."""
    result = MODEL.energy(W4A8Spec(), counts, technology=technology, memory=memory)
    assert result.total_pj == pytest.approx(sum(result.components.values()))
    assert result.total_pj == pytest.approx(sum(result.actions.values()))
    assert result.low_pj <= result.total_pj <= result.high_pj
    assert all(value >= 0 for value in result.components.values())


def test_one_mac_is_product_sum_and_register() -> None:
    """A channel MAC: int4 x int8 between the 5 and 6 bit points, 26-bit add, 26 flip-flops."""
    spec = W4A8Spec(max_k=16384)
    assert spec.acc_bits == 26
    pj = MODEL.energy(spec, {"mac": 1}).total_pj
    # sqrt(4 * 8) lies between the 5 and 6 bit products, 26 between the 24 and 32 bit sums.
    low = 0.01776 + 0.01682 + 26 * 0.0011
    high = 0.02946 + 0.02356 + 26 * 0.0011
    assert low < pj < high


def test_group_macs_cost_more_than_channel_macs() -> None:
    """Eight-bit weights need a larger product."""
    for technology in TECHNOLOGIES:
        channel = MODEL.energy(W4A8Spec(), {"mac": 1}, technology=technology).total_pj
        group = MODEL.energy(W4A8Spec(scales="group"), {"mac": 1}, technology=technology).total_pj
        assert group > channel


def test_memory_bytes_are_those_of_the_beats() -> None:
    """An activation beat of a 16 x 16 os array moves 32 bytes; LPDDR4 takes 8 pJ a bit."""
    components = MODEL.energy(W4A8Spec(), {"a_beats": 3}, memory="lpddr4").components
    assert components["memory (lpddr4)"] == 3 * 32 * 8 * 8.0


def test_unknown_names_are_refused() -> None:
    """A misspelt count, table or memory never counts as zero."""
    with pytest.raises(ValueError, match=r"^w4a8: unknown action 'macs'; known are mac, "):
        MODEL.energy(W4A8Spec(), {"macs": 1})
    with pytest.raises(ValueError, match=r"^memory must be one of lpddr4, .*, not 'hbm9'$"):
        MODEL.energy(W4A8Spec(), {}, memory="hbm9")
    with pytest.raises(ValueError, match=re.escape("not 'tsmc'")):
        MODEL.energy(W4A8Spec(), {}, technology="tsmc")


def test_area_grows_with_the_array() -> None:
    """Four times the PEs take four times the area of the array, and each range holds its value."""
    small, large = MODEL.area(W4A8Spec(array_rows=8, array_cols=8)), MODEL.area(W4A8Spec())
    assert large["array"].value == pytest.approx(4 * small["array"].value)
    for estimate in large.values():
        assert 0 < estimate.low <= estimate.value <= estimate.high


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
