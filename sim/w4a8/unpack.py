# SPDX-License-Identifier: Apache-2.0
"""Stored nibbles to weights (section 1)."""

from __future__ import annotations

import numpy as np

from sim.lib.float16 import rne_shift, saturate
from sim.lib.kernel import inner


@inner
def weight_code(word: np.uint32, nibble: int, offset_code: int) -> int:
    """Return the int4 weight in nibble 0..7 of a word: code - 8, or two's complement."""
    code = int(word) >> (4 * nibble) & 0xF
    return code - 8 if offset_code else (code ^ 8) - 8


@inner
def requantise(q: int, scale: np.uint16) -> int:
    """Return clamp(RNE(q * scale), -128, 127) in integers, as the hardware forms it.

    Parameters
    ----------
    q : int
        Weight, -8..7.
    scale : uint16
        Finite float16 bits, any sign; the value is significand * 2**(exponent - 25).
    """
    bits = np.int64(scale)
    exponent = max((bits >> 10) & 31, 1)
    significand = (bits & 0x3FF) | (0x400 if bits & 0x7C00 else 0)
    product = -q * significand if bits & 0x8000 else q * significand
    if exponent > 25:
        return saturate(product << (exponent - 25), -128, 127)
    return saturate(rne_shift(product, 25 - exponent), -128, 127)
