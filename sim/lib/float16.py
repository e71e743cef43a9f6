# SPDX-License-Identifier: Apache-2.0
"""IEEE 754 binary16 as bits, and the rounding shift, for kernels that must match hardware.

Numba has no float16 arithmetic on a CPU, so a float16 is its 16 bits (uint16) here. Every function
rounds to nearest, ties to even, keeps subnormals, and takes and gives NaN as 0x7E00 only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NAN = 0x7E00
"""The one NaN that engines and vector unit produce."""


@njit(cache=True)
def f16_to_f32(bits: int) -> np.float32:
    """Return the value of float16 `bits` (uint16) as float32; exact."""
    h = np.int64(bits)
    magnitude = h & 0x7FFF
    if magnitude < 0x0400:
        value = np.float32(magnitude) * np.float32(2.0**-24)
        return np.float32(-value) if h & 0x8000 else value
    if magnitude >= 0x7C00:
        word = 0x7F800000 | (magnitude & 0x03FF) << 13
    else:
        word = (magnitude << 13) + (112 << 23)
    return np.uint32((h & 0x8000) << 16 | word).view(np.float32)


@njit(cache=True)
def f32_to_f16(x: np.float32) -> np.uint16:
    """Return the bits of the float16 nearest to float32 `x`; at least 65520 becomes infinity."""
    word = np.int64(np.float32(x).view(np.uint32))
    sign = (word >> 16) & 0x8000
    magnitude = word & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return np.uint16(NAN)
    if magnitude >= 0x477FF000:
        return np.uint16(sign | 0x7C00)
    if magnitude >= 0x38800000:
        rebased = magnitude - (112 << 23)
        return np.uint16(sign | (rebased + 0x0FFF + ((rebased >> 13) & 1)) >> 13)
    # Below 2**-14 one unit is 2**-24; a significand shifted by 25 or more is under half a unit.
    exponent = magnitude >> 23
    if exponent < 102:
        return np.uint16(sign)
    significand = (magnitude & 0x7FFFFF) | 0x800000
    return np.uint16(sign | rne_shift(int(significand), int(126 - exponent)))


@njit(cache=True)
def rne_shift(value: int, shift: int) -> int:
    """Return value / 2**shift rounded to nearest, ties to even; int64, shift 0..63."""
    if shift == 0:
        return value
    quotient = value >> shift
    rest = value - (quotient << shift)
    half = np.int64(1) << (shift - 1)
    if rest > half or (rest == half and quotient & 1):
        quotient += 1
    return quotient


@njit(cache=True)
def saturate(value: int, low: int, high: int) -> int:
    """Return `value` clamped to low..high."""
    return min(max(value, low), high)
