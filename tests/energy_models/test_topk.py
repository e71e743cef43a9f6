# SPDX-License-Identifier: Apache-2.0
"""Energy of the top-k engine: what single actions cost."""

from __future__ import annotations

import pytest

from cosil.engines.topk import TopkSpec
from energy_models.topk import MODEL


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
