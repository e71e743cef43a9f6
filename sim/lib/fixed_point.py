# SPDX-License-Identifier: Apache-2.0
"""The fixed-point epilogue of one output (docs/engines/w4a8.md, section 1)."""

from __future__ import annotations

import numpy as np

from sim.lib.float16 import rne_shift, saturate
from sim.lib.kernel import inner


@inner
def fixed_point(acc: int, column: np.uint64, relu: int, wide: int) -> int:
    """Return sat(RNE((acc + bias) * mult / 2**shift)), after relu if asked.

    Parameters
    ----------
    acc : int
        Below 2**45 in magnitude, so that nothing wraps.
    column : uint64
        Bias int32 in bits 0..31, mult 32..47, shift 48..53.
    relu, wide : int
        Whether to clamp at 0 first, and whether to saturate to int16 instead of int8.
    """
    bias = np.int64(column & np.uint64(0xFFFFFFFF))
    bias = (bias ^ 0x80000000) - 0x80000000
    mult = np.int64((column >> np.uint64(32)) & np.uint64(0xFFFF))
    shift = np.int64((column >> np.uint64(48)) & np.uint64(63))
    value = rne_shift((np.int64(acc) + bias) * mult, shift)
    if relu:
        value = max(value, 0)
    return saturate(value, -32768, 32767) if wide else saturate(value, -128, 127)
