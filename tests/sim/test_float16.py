# SPDX-License-Identifier: Apache-2.0
"""Conversions and the rounding shift equal NumPy's IEEE casts and exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from sim.lib.float16 import f16_to_f32, f32_to_f16, rne_shift


@njit(cache=True)
def _widen(bits: np.ndarray, out: np.ndarray) -> None:
    for i in range(bits.size):
        out[i] = f16_to_f32(bits[i])


@njit(cache=True)
def _narrow(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(values.size):
        out[i] = f32_to_f16(values[i])


@njit
def _multiply_add(a: float, b: float, c: float) -> float:
    return a * b + c


@pytest.mark.nojit
def test_every_float16_widens_exactly() -> None:
    """All 65,536 float16 values become the float32 of the same value, payloads of NaN included."""
    bits = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, dtype=np.float32)
    _widen(bits, out)
    expected = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(expected.view(np.uint32), out.view(np.uint32))


@pytest.mark.nojit
def test_narrowing_rounds_to_nearest_even() -> None:
    """Midpoints of float16 neighbours, the floats beside them and random bits round as IEEE says.

    A NaN becomes 0x7E00 whatever its sign and payload.
    """
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((half[:-1] + half[1:]) / 2).astype(np.float32)
    rng = np.random.default_rng(1)
    stray = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    corners = np.array(
        [65519.99, 65520, 65536, np.inf, np.nan, -np.nan, 0, -0.0, 1e-45], np.float32
    )
    values = np.concatenate(
        [middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9e9)), stray]
    )
    values = np.concatenate([values, -values, corners])
    out = np.empty(values.size, dtype=np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):  # as plain Python, NumPy would warn
        _narrow(values, out)
        expected = values.astype(np.float16).view(np.uint16).copy()
    expected[np.isnan(values)] = 0x7E00
    np.testing.assert_array_equal(expected, out)


@settings(max_examples=300, deadline=None)
@given(value=st.integers(1 - 2**62, 2**62 - 1), shift=st.integers(0, 63))
def test_rne_shift(value: int, shift: int) -> None:
    """rne_shift is Python's round of the exact fraction, which rounds ties to even."""
    assert round(Fraction(value, 2**shift)) == rne_shift(value, shift)


def test_no_contraction() -> None:
    """A product and a sum in a kernel stay two roundings; compiled code has no fused operation."""
    one = np.float32(1)
    tiny = np.float32(2.0**-12)
    # (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 exactly, but 0 with the product rounded to float32.
    assert _multiply_add(one + tiny, one + tiny, -(one + 2 * tiny)) == 0
    assert not any("fmadd" in text for text in _multiply_add.inspect_asm().values())
