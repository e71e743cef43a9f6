# SPDX-License-Identifier: Apache-2.0
"""Integer tables of transcendental functions, evaluated once in float64, kept in the packed file.

Reference, simulator and hardware read the stored table, so they never depend on a maths library.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

EXP2_STEPS = 1024
"""Steps of the exponential table per octave."""

ACTIVATION_SEGMENTS = 256
"""Segments of an activation table over [-8, 8), each 1/16 wide."""


def exp2_table() -> NDArray[np.uint16]:
    """Return exp[i] = RNE(2**15 * 2**(-i / 1024)), uint16[1025]; the exponential of attention."""
    steps = np.arange(EXP2_STEPS + 1, dtype=np.float64)
    return np.rint(np.exp2(15.0 - steps / EXP2_STEPS)).astype(np.uint16)


def gelu_table() -> NDArray[np.int16]:
    """Return x * Phi(x) with the exact error function at x = i / 16 - 8, Q3.12, int16[257]."""
    return _activation_table([0.5 * x * math.erfc(-x / math.sqrt(2.0)) for x in _knots()])


def gelu_tanh_table() -> NDArray[np.int16]:
    """Return GELU's tanh approximation at x = i / 16 - 8, Q3.12, int16[257]."""
    c = math.sqrt(2.0 / math.pi)
    return _activation_table(
        [0.5 * x * (1.0 + math.tanh(c * (x + 0.044715 * x**3))) for x in _knots()]
    )


def silu_table() -> NDArray[np.int16]:
    """Return x / (1 + exp(-x)) at x = i / 16 - 8, Q3.12, int16[257]."""
    return _activation_table([x / (1.0 + math.exp(-x)) for x in _knots()])


def rope_tables(
    length: int, head_dim: int, base: float = 10000.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin of position * base**(-2 j / head_dim), float32[length, head_dim / 2]."""
    if head_dim % 2 or head_dim < 2:
        raise ValueError(f"rope: head_dim must be even and at least 2, not {head_dim!r}")
    if length < 1:
        raise ValueError(f"rope: length must be at least 1, not {length!r}")
    frequency = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = np.arange(length, dtype=np.float64)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _knots() -> list[float]:
    return [i / 16.0 - 8.0 for i in range(ACTIVATION_SEGMENTS + 1)]


def _activation_table(values: list[float]) -> NDArray[np.int16]:
    codes = np.rint(np.array(values, dtype=np.float64) * 4096.0)
    return np.clip(codes, -32768, 32767).astype(np.int16)


def position_rows(name: str, rows: int, start: int, length: int) -> slice:
    """Return the rows of a table of positions that a run uses.

    Parameters
    ----------
    name : str
        Node that owns the table, for the message.
    rows : int
        Rows of the table.
    start, length : int
        First position (the cache's length) and number of positions.

    Raises
    ------
    ValueError
        If the run goes past the table.
    """
    if start + length > rows:
        raise ValueError(
            f"{name}: position {start + length - 1} is past the table of {rows} positions"
        )
    return slice(start, start + length)
