# SPDX-License-Identifier: Apache-2.0
"""Products of packed signs against matrix products of what they stand for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import TypingError
from numpy.typing import NDArray

from cosil.packed import bits
from sim.lib.mismatches import COLUMNS, ROWS, count, octets_of, panels

pytestmark = pytest.mark.xdist_group("sim-xnor")

# Steps and words that are just filled, and not; bytes that would overflow; several blocks.
SHAPES = [(1, 1, 1), (ROWS, COLUMNS, 64), (5, 65, 65), (3, 10, 248), (2, 130, 257), (70, 3, 4100)]


def product(x: NDArray[np.bool_], w: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Return the mismatches of unpacked activations and packed weights."""
    octets, weights = octets_of(bits.pack(x)), panels(w)
    y = np.full((octets.shape[0], weights.shape[0] * COLUMNS), -1, dtype=np.int16)
    count(octets, weights, y)
    return y[: x.shape[0], : w.shape[0]]


@pytest.mark.parametrize("style", ["any", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_binary_and_ternary(shape: tuple[int, int, int], style: str) -> None:
    """K less the product of signs is twice the mismatches, also where all inputs differ."""
    m, n, k = shape
    rng = np.random.default_rng(k)
    x, w = (rng.random((m, k)) < 0.5, rng.random((n, k)) < 0.5)
    nonzero = rng.random((n, k)) < 0.6
    if style == "all":
        x[:], w[:], nonzero[:] = True, False, True
    signs, values = 2 * x.astype(np.int64) - 1, 2 * w.astype(np.int64) - 1
    assert ((k - signs @ values.T) // 2).tolist() == product(x, bits.pack(w)[:, None]).tolist()
    packed = np.stack([bits.pack(w & nonzero), bits.pack(nonzero)], axis=1)
    expected = (nonzero.sum(axis=1) - signs @ (values * nonzero).T) // 2
    assert expected.tolist() == product(x, packed).tolist()


@pytest.mark.nojit
def test_plain_python() -> None:
    """The kernel gives the same compiled or interpreted."""
    x = np.array([[1, 1, 0], [0, 0, 0]], dtype=np.bool_)
    w = np.array([[[0b101], [0b111]], [[0b010], [0b010]]], dtype=np.uint64)
    assert product(x, w).tolist() == [[2, 0], [2, 1]]
    assert product(x, w[:, :1]).tolist() == [[2, 1], [2, 1]]


def test_other_processors(root: Path, tmp_path: Path) -> None:
    """Compiled for a processor that is known to have nothing special, the kernel gives the same."""
    program = (
        "import numpy as np\n"
        "from sim.lib.mismatches import COLUMNS, ROWS, count, panels\n"
        "rng = np.random.default_rng(0)\n"
        "x = rng.integers(256, size=(ROWS, 40), dtype=np.uint8)\n"
        "w = rng.integers(2**63, size=(COLUMNS, 1, 5), dtype=np.uint64)\n"
        "y = np.empty((ROWS, COLUMNS), np.int16)\n"
        "count(x, panels(w), y)\n"
        "print((y == np.bitwise_count(x[:, None] ^ w.view(np.uint8)[:, 0]).sum(axis=2)).all())\n"
    )
    settings = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings},
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout == "True\n"


def test_strided_operands_are_refused() -> None:
    """A step addresses its operands by the row length; others would be read past their end."""
    x = np.zeros((8, 16), dtype=np.uint8)[::2]
    w = np.zeros((1, 16, 1, COLUMNS), dtype=np.uint8)
    y = np.zeros((4, COLUMNS), dtype=np.int16)
    with pytest.raises(TypingError, match="vectors: the arrays must be C-contiguous"):
        count(x, w, y)
