# SPDX-License-Identifier: Apache-2.0
"""Energy of the W4A8 array: what single actions cost."""

from __future__ import annotations

import pytest

from cosil.engines.w4a8 import W4A8Spec
from energy_models.lib.technology import TECHNOLOGIES
from energy_models.w4a8 import MODEL


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


def test_area_grows_with_the_array() -> None:
    """Four times the PEs take four times the area of the array."""
    small, large = MODEL.area(W4A8Spec(array_rows=8, array_cols=8)), MODEL.area(W4A8Spec())
    assert large["array"].value == pytest.approx(4 * small["array"].value)
