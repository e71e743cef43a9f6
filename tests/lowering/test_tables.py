# SPDX-License-Identifier: Apache-2.0
"""The stored tables equal their functions, evaluated with exact rational or decimal arithmetic."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch

from cosil.lowering import tables


def test_exp2_table_is_correctly_rounded() -> None:
    """exp[i] is the nearest integer to 2^15 * 2^(-i/1024), by 40-digit decimal arithmetic."""
    getcontext().prec = 40
    root = Decimal(2) ** (Decimal(-1) / Decimal(1024))
    exact = [Decimal(2) ** 15 * root**i for i in range(1025)]
    expected = [int(value.to_integral_value()) for value in exact]
    np.testing.assert_array_equal(expected, tables.exp2_table())


@pytest.mark.parametrize(
    ("table", "function"),
    [
        (tables.gelu_table, lambda x: torch.nn.functional.gelu(x)),
        (tables.gelu_tanh_table, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        (tables.silu_table, lambda x: torch.nn.functional.silu(x)),
    ],
)
def test_activation_tables(table, function) -> None:
    """Each entry is within half a unit of torch's float64 function, saturated at 32767."""
    knots = torch.arange(257, dtype=torch.float64) / 16 - 8
    exact = (function(knots) * 4096).clamp(max=32767).numpy()
    assert table().dtype == np.int16
    assert np.abs(table() - exact).max() <= 0.5 + 1e-9


def test_rope_tables() -> None:
    """Pair j of position p turns by p * base^(-2j/d); each entry is the float32 nearest to it."""
    cos, sin = tables.rope_tables(7, 8, base=100.0)
    assert cos.shape == sin.shape == (7, 4)
    for position in range(7):
        for pair in range(4):
            angle = position * 100.0 ** (-2 * pair / 8)
            assert abs(cos[position, pair] - np.cos(angle)) <= 2**-24
            assert abs(sin[position, pair] - np.sin(angle)) <= 2**-24
    with pytest.raises(ValueError, match=r"^rope: head_dim must be even and at least 2, not 3$"):
        tables.rope_tables(4, 3)
