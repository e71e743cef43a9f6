# SPDX-License-Identifier: Apache-2.0
"""IEEE 754 binary16 as bits, and the rounding shift, for kernels that must match hardware.

Numba has no float16 arithmetic on a CPU, so a float16 is its 16 bits here. Rounding is to nearest,
ties to even. The functions select instead of branching, so that loops over them vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Int = int | np.integer[Any]

NAN = 0x7E00
"""The one float16 NaN that engines and vector unit produce."""


@njit(cache=True)
def f16_to_f32(bits: Int) -> np.float32:
    """Widen float16 `bits` to float32; exact, the payload of a NaN kept."""
    sign = np.int64(bits & 0x8000) << 16
    magnitude = np.int64(bits & 0x7FFF)
    subnormal = np.float32(magnitude) * np.float32(2.0**-24)
    # Rebias the exponent by 112, by 224 for infinity and NaN.
    normal = (magnitude << 13) + (112 << 23 if magnitude < 0x7C00 else 224 << 23)
    word = np.int64(np.float32(subnormal).view(np.uint32)) if magnitude < 0x0400 else normal
    return np.uint32(sign | word).view(np.float32)


@njit(cache=True)
def f32_to_f16(x: np.float32) -> int:
    """Return the bits of the float16 nearest to `x`: subnormals kept, overflow to infinity.

    At least 65520 in magnitude is infinity; every NaN is 0x7E00.
    """
    word = np.int64(np.float32(x).view(np.uint32))
    sign = (word >> 16) & 0x8000
    magnitude = word & 0x7FFFFFFF
    # Normal: rebias the exponent by 112, add half a unit less one plus the kept bit, cut 13 bits.
    normal = (magnitude - (112 << 23) + 0x0FFF + ((magnitude >> 13) & 1)) >> 13
    # Subnormal: adding 0.5 aligns the fraction to 2**-24, float16's smallest step, and rounds.
    aligned = np.float32(np.abs(np.float32(x)) + np.float32(0.5))
    subnormal = np.int64(np.float32(aligned).view(np.uint32)) - 0x3F000000
    rounded = normal if magnitude >= 0x38800000 else subnormal
    finite = rounded if magnitude < 0x477FF000 else 0x7C00
    return NAN if magnitude > 0x7F800000 else int(finite | sign)


@njit(cache=True)
def rne_shift(value: Int, shift: Int) -> int:
    """Return value / 2**shift rounded to nearest, ties to even; int64, |value| < 2**62.

    `shift` is 0..63.
    """
    if shift == 0:
        return int(value)
    half = np.int64(1) << (shift - 1)
    return int((value + (half - 1) + ((value >> shift) & 1)) >> shift)


@njit(cache=True)
def saturate(value: Int, low: int, high: int) -> int:
    """Return `value` clamped to low..high."""
    return int(min(max(value, low), high))
