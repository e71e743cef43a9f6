# SPDX-License-Identifier: Apache-2.0
"""A matrix product as the W4A8 engine runs it: its job descriptor and memory images."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FLAG_RELU = 1
FLAG_WIDE = 2


@dataclass(frozen=True, slots=True)
class Job:
    """The 16-word descriptor (docs/engines/w4a8.md, section 4); field order is word order."""

    m: int
    n: int
    k: int
    group: int
    a_base: int
    a_stride: int
    w_base: int
    w_stride: int
    s_base: int
    s_stride: int
    e_base: int
    r_base: int
    y_base: int
    y_stride: int
    flags: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the descriptor, uint32[16]."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([*values, 0], dtype=np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """Memory images as the engine's streams address them; reads past the end give 0.

    Attributes
    ----------
    a : uint32[...]
        Activation words: int8 codes, four to a word, LSB first, row-major.
    w : uint32[...]
        Weight words as packed: eight nibbles to a word, LSB first, one row per output channel.
    s : uint16[...]
        Group scales, float16 bits, row g at s_base + g * s_stride (empty for channel).
    e : uint32[...] or uint64[...]
        Column parameters: float32 bits, or bias (32) | mult (16) | shift (6).
    r : uint32[...]
        Row scales, float32 bits (empty for the fixed epilogue).
    """

    a: NDArray[np.uint32]
    w: NDArray[np.uint32]
    s: NDArray[np.uint16]
    e: NDArray[np.uint32] | NDArray[np.uint64]
    r: NDArray[np.uint32]
