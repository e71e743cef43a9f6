# SPDX-License-Identifier: Apache-2.0
"""Exact int16 product."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.errors import TypingError
from numpy.typing import NDArray

from sim.lib.product import TILE_COLS, TILE_ROWS, multiply


def panels(w: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return W[N, K] in panels."""
    n, k = w.shape
    return np.ascontiguousarray(w.reshape(n // TILE_COLS, TILE_COLS, k // 2, 2).swapaxes(1, 2))


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("tiles", "column_panels", "k"), [(1, 1, 2), (3, 2, 34), (65, 1, 8), (2, 3, 514), (1, 2, 1026)]
)
def test_equals_the_integer_product(tiles: int, column_panels: int, k: int) -> None:
    """Equal to NumPy's int64 product, over and at the edges of the blocks of rows and of k."""
    rng = np.random.default_rng(k)
    x = rng.integers(-128, 128, (tiles * TILE_ROWS, k)).astype(np.int16)
    w = rng.integers(-128, 128, (column_panels * TILE_COLS, k)).astype(np.int16)
    y = rng.integers(-5, 5, (x.shape[0], w.shape[0])).astype(np.int32)
    multiply(x, panels(w), y)
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64).T)


@pytest.mark.nojit
def test_largest_sum() -> None:
    """The largest sum of an engine, 2**16 products of 2**14, is exact."""
    k = 1 << 16
    x, w = np.full((TILE_ROWS, k), -128, np.int16), np.full((TILE_COLS, k), -128, np.int16)
    y = np.zeros((TILE_ROWS, TILE_COLS), np.int32)
    multiply(x, panels(w), y)
    assert (y == 1 << 30).all()


def test_strided_operands_are_refused() -> None:
    """The compiled tile walks rows without strides, so it must not accept others."""
    x = np.zeros((TILE_ROWS, 4), np.int16)[:, ::2]
    with pytest.raises(TypingError, match="vectors: the arrays must be C-contiguous"):
        multiply(x, np.zeros((1, 1, TILE_COLS, 2), np.int16), np.zeros((4, TILE_COLS), np.int32))
