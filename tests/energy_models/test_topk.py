# SPDX-License-Identifier: Apache-2.0
"""Energy of the top-k engine: the actions that it prices, and their sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.engines.topk import TopkSpec
from energy_models.lib.technology import TECHNOLOGIES
from energy_models.topk import ACTIONS, MODEL
from sim.topk.counts import NAMES

COUNTS = st.dictionaries(st.sampled_from(sorted(ACTIONS)), st.integers(0, 10**12))
SPECS = st.builds(
    TopkSpec,
    st.sampled_from(["radix", "quick_select"]),
    st.sampled_from([1, 2, 4, 16, 64]),
    st.sampled_from([1, 2, 12, 48]),
    digit_bits=st.integers(1, 8),
)


def test_actions_are_those_that_the_simulator_counts() -> None:
    """Every counted action has a price and nothing else has one."""
    assert set(NAMES) == set(ACTIONS)


@given(SPECS, COUNTS, st.sampled_from(TECHNOLOGIES))
def test_components_and_actions_sum_to_the_total(
    spec: TopkSpec, counts: dict[str, int], technology: str
) -> None:
    """No energy is lost between the two views, and the estimate lies in its range."""
    result = MODEL.energy(spec, counts, technology=technology)
    assert result.total_pj == pytest.approx(sum(result.components.values()))
    assert result.total_pj == pytest.approx(sum(result.actions.values()))
    assert result.low_pj <= result.total_pj <= result.high_pj
    assert all(value >= 0 for value in result.components.values())
    assert not any("memory (" in component for component in result.components)


@given(SPECS)
def test_every_action_of_every_engine_costs_something(spec: TopkSpec) -> None:
    """No width makes an action free, and parts of the area lie in their ranges."""
    for name in ACTIONS:
        assert MODEL.energy(spec, {name: 1}).total_pj > 0
    for estimate in MODEL.area(spec).values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high


def test_a_beat_is_its_flip_flops() -> None:
    """A row of keys is 192 flip-flops of 0.0011 pJ; a beat of items holds index, keep and last."""
    assert MODEL.energy(TopkSpec(), {"keys_beats": 1}).total_pj == pytest.approx(192 * 0.0011)
    items = 16 * (12 + 10 + 1) + 1
    assert MODEL.energy(TopkSpec(), {"items_beats": 1}).total_pj == pytest.approx(items * 0.0011)


def test_one_comparison_is_two_sums() -> None:
    """A key against the pivot: two 12-bit sums (0.007921 pJ each) and 14 flip-flops."""
    expected = 2 * 0.007921 + 14 * 0.0011
    assert MODEL.energy(TopkSpec("quick_select"), {"compare_keys": 1}).total_pj == pytest.approx(
        expected
    )


def test_wider_digits_cost_more_per_key() -> None:
    """A histogram has a counter per digit value."""
    pj = [MODEL.energy(TopkSpec(digit_bits=r), {"histogram_keys": 1}).total_pj for r in (2, 4, 6)]
    assert pj == sorted(pj)
    assert pj[2] > 3 * pj[1] > 9 * pj[0]


def test_two_digits_need_no_survivor_memory() -> None:
    """The only pass after load reads the bank."""
    assert MODEL.area(TopkSpec(digit_bits=6))["survivor memory"].value == 0
    assert MODEL.area(TopkSpec(digit_bits=4))["survivor memory"].value > 0


def test_unknown_names_are_refused() -> None:
    """A misspelt count or table never counts as zero."""
    with pytest.raises(ValueError, match=r"^topk: unknown action 'draw'; known are bank_write_"):
        MODEL.energy(TopkSpec(), {"draw": 1})
    with pytest.raises(ValueError, match=r"^technology must be one of asap7, .*, not 'tsmc'$"):
        MODEL.energy(TopkSpec(), {}, technology="tsmc")
