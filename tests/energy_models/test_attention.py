# SPDX-License-Identifier: Apache-2.0
"""Energy of the attention engine: the actions that it prices, and their sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.engines.attention import AttentionSpec
from energy_models import topk
from energy_models.attention import ACTIONS, MODEL
from energy_models.lib.technology import TECHNOLOGIES
from sim.attention.counts import NAMES

COUNTS = st.dictionaries(st.sampled_from(sorted(ACTIONS)), st.integers(0, 10**12))
SPECS = st.builds(
    lambda head_dim, lanes, pool, architecture: AttentionSpec(
        head_dim, head_dim * lanes * (2 if pool == "split" else 1), pool, topk=architecture
    ),
    st.sampled_from([8, 64, 128]),
    st.sampled_from([1, 2, 16]),
    st.sampled_from(["shared", "split"]),
    st.sampled_from(["radix", "quick_select"]),
)


def test_actions_are_those_that_the_simulator_counts() -> None:
    """Every counted action has a price and nothing else has one."""
    assert set(NAMES) == set(ACTIONS)


@given(SPECS, COUNTS, st.sampled_from(TECHNOLOGIES))
def test_components_and_actions_sum_to_the_total(
    spec: AttentionSpec, counts: dict[str, int], technology: str
) -> None:
    """No energy is lost between the two views, and the estimate lies in its range."""
    result = MODEL.energy(spec, counts, technology=technology)
    assert result.total_pj == pytest.approx(sum(result.components.values()))
    assert result.total_pj == pytest.approx(sum(result.actions.values()))
    assert result.low_pj <= result.total_pj <= result.high_pj
    assert all(value >= 0 for value in result.components.values())


@given(SPECS)
def test_every_action_costs_something(spec: AttentionSpec) -> None:
    """No width makes an action free, and parts of the area lie in their ranges."""
    for name in ACTIONS:
        assert MODEL.energy(spec, {name: 1}).total_pj > 0
    for estimate in MODEL.area(spec).values():
        assert 0 < estimate.low <= estimate.value <= estimate.high


def test_fetched_bytes_cost_the_memory() -> None:
    """A byte of a key is 8 flip-flops of 0.0011 pJ and 8 bits of the memory named."""
    byte = MODEL.energy(AttentionSpec(), {"v_bytes": 1}, memory="hbm2")
    assert byte.components["streams"] == pytest.approx(8 * 0.0011)
    assert byte.components["memory (hbm2)"] == pytest.approx(8 * 3.92, rel=0.2)
    assert MODEL.energy(AttentionSpec(), {"k_beats": 1}).components.get("memory (lpddr4)", 0) == 0


def test_selector_actions_are_the_top_k_engine_s() -> None:
    """What a selector does costs what it costs in the top-k engine of the same spec."""
    spec = AttentionSpec(topk="quick_select")
    for prefix, selector in (("value", spec.value_selector), ("token", spec.importance_selector)):
        for name in topk.ACTIONS:
            alone = topk.MODEL.energy(selector, {name: 7}).total_pj
            assert MODEL.energy(spec, {f"{prefix}_{name}": 7}).total_pj == pytest.approx(alone)


def test_a_shared_pool_has_wider_multipliers() -> None:
    """Half of a split pool's multipliers only take queries."""
    shared = MODEL.area(AttentionSpec())["multipliers"].value
    assert shared > MODEL.area(AttentionSpec(pool="split"))["multipliers"].value > shared / 2


def test_unknown_names_are_refused() -> None:
    """A misspelt count or table never counts as zero."""
    with pytest.raises(ValueError, match=r"^attention: unknown action 'mac'; known are mac_qk, "):
        MODEL.energy(AttentionSpec(), {"mac": 1})
    with pytest.raises(ValueError, match=r"^memory must be one of lpddr4, .*, not 'hbm9'$"):
        MODEL.energy(AttentionSpec(), {}, memory="hbm9")
