# SPDX-License-Identifier: Apache-2.0
"""A matrix product as the PIM macro runs it: its job descriptor and what its streams carry."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FLAG_WEIGHTS = 1
FLAG_TRANSFER = 2
FLAG_NOISE = 4
FLAG_RELU = 8
FLAG_WIDE = 16


@dataclass(frozen=True, slots=True)
class Job:
    """The 8-word descriptor (docs/engines/pim.md, section 4); field order is word order."""

    m: int
    k: int
    n: int
    rows: int
    flags: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the descriptor, uint32[8]."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([*values, 0, 0, 0], dtype=np.uint32)

    @property
    def groups(self) -> int:
        """G, row groups; the last may be short."""
        return -(-self.k // self.rows)

    def has(self, flag: int) -> bool:
        """Return whether a flag is set."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """What a job computes with, whether it loads it or finds it in the macro (the flags say).

    Attributes
    ----------
    x : uint8[M, K]
        Activation codes, 0..2**ba - 1.
    w : uint64[n, P.Q, G, ceil(rows / 64)]
        Cells as codec `bitplane` packs them: row r of a group is bit r % 64 of word r // 64.
    transfer : int16[C, V]
        Transfer tables, one row per physical column, entry v - v_min of the spec, in sixteenths of
        an LSB. Column c of a job's output o and plane p is o * P + p.
    noise : int16[2**noise_bits]
        Noise table, sixteenths of an LSB; empty without noise hardware.
    states : uint32[A]
        State of each ADC's generator when the job begins, none 0; empty without noise hardware.
    e : uint64[n]
        Column parameters: bias int32 in bits 0..31, mult 32..47, shift 48..53, negate 54.
    """

    x: NDArray[np.uint8]
    w: NDArray[np.uint64]
    transfer: NDArray[np.int16]
    noise: NDArray[np.int16]
    states: NDArray[np.uint32]
    e: NDArray[np.uint64]
