# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: mismatches of whole rows, then the epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import entry
from sim.lib.mismatches import count, octets_of, panels
from sim.xnor.plan import NEGATE, Contents, Plan, output_dtype

BLOCK_VECTORS = 128
"""Vectors whose mismatches are held at once: of 1024 outputs they take 256 KiB."""


def outputs(plan: Plan, contents: Contents) -> NDArray[Any]:
    """Return Y (`sim.xnor.run`)."""
    y = np.zeros((plan.m // plan.pool, plan.n), dtype=output_dtype(plan))
    w = panels(contents.w)
    # Whole pool windows; a window has at most half as many vectors as a block.
    block = BLOCK_VECTORS // plan.pool * plan.pool
    threshold = contents.e.astype(np.uint32).view(np.int32)
    flip = ((contents.e & NEGATE) != 0).astype(np.int8)
    for first in range(0, plan.m, block):
        border = contents.border[first : first + block]
        x = octets_of(contents.x[first : first + block])
        mismatches = np.empty((x.shape[0], w.shape[0] * w.shape[3]), dtype=np.int16)
        count(x, w, mismatches)
        if plan.fixed:
            part = y[first : first + block]
            _rescale(plan.relu, plan.wide, contents.e, contents.base, border, mismatches, part)
        else:
            part = y[first // plan.pool : (first + block) // plan.pool]
            _compare(plan.pool, threshold, flip, contents.base, border, mismatches, part)
    return y


@entry
def _compare(
    pool: int,
    threshold: NDArray[np.int32],
    flip: NDArray[np.int8],
    base: NDArray[np.uint16],
    border: NDArray[np.uint8],
    mismatches: NDArray[np.int16],
    y: NDArray[np.int8],
) -> None:
    """Set a block's bits; y is 0 before. No more arrays of a plan than are read: see `inner`."""
    for vector in range(border.size):
        row, differ, bits = base[border[vector]], mismatches[vector], y[vector // pool]
        for output in range(bits.size):
            s = np.int32(row[output]) - np.int32(2) * np.int32(differ[output])
            bits[output] |= np.int8(s >= threshold[output]) ^ flip[output]


@entry
def _rescale(
    relu: int,
    wide: int,
    e: NDArray[np.uint64],
    base: NDArray[np.uint16],
    border: NDArray[np.uint8],
    mismatches: NDArray[np.int16],
    y: NDArray[Any],
) -> None:
    """Set a block's outputs (section 1)."""
    for vector in range(border.size):
        row = base[border[vector]]
        for output in range(y.shape[1]):
            s = np.int64(row[output]) - 2 * np.int64(mismatches[vector, output])
            column = e[output]
            factor = -16 if column & NEGATE else 16
            y[vector, output] = fixed_point(factor * s, column, relu, wide)
