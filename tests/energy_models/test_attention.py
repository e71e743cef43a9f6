# SPDX-License-Identifier: Apache-2.0
"""Energy of the attention engine: what single actions cost."""

from __future__ import annotations

import pytest

from cosil.engines.attention import AttentionSpec
from energy_models import topk
from energy_models.attention import MODEL


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
