# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: mismatches of whole rows, then the epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import entry
from sim.lib.mismatches import COLUMNS, ROWS, count, octets_of, panels
from sim.xnor.plan import NEGATE, Contents, Plan, output_dtype

BLOCK_VECTORS = 128
"""Vectors whose mismatches are held at once: of 1024 outputs they take 256 KiB."""


def outputs(plan: Plan, contents: Contents) -> NDArray[Any]:
    """Return Y (`sim.xnor.run`)."""
    y = np.zeros((plan.m // plan.pool, plan.n), dtype=output_dtype(plan))
    w = panels(contents.w)
    # Whole pool windows; a window has at most half as many vectors as a block.
    block = BLOCK_VECTORS // plan.pool * plan.pool
    rows = -(-min(block, plan.m) // ROWS) * ROWS
    mismatches = np.empty((rows, w.shape[0] * COLUMNS), dtype=np.int16)
    limit, flip = limits(contents), ((contents.e & NEGATE) != 0).astype(np.int8)
    for first in range(0, plan.m, block):
        border = contents.border[first : first + block]
        x = octets_of(contents.x[first : first + block])
        count(x, w, mismatches[: x.shape[0]])
        if plan.fixed:
            part = y[first : first + block]
            _rescale(plan.relu, plan.wide, contents.e, contents.base, border, mismatches, part)
        else:
            part = y[first // plan.pool : (first + block) // plan.pool]
            _compare(plan.pool, limit, flip, border, mismatches, part)
    return y


def limits(contents: Contents) -> NDArray[np.int16]:
    """Return the most mismatches with which s is at least the threshold, int16[classes, n].

    base - 2 mm >= thr is mm <= (base - thr) / 2; mm is 0..32767, so a limit below 0 is none.
    """
    threshold = contents.e.astype(np.uint32).view(np.int32).astype(np.int64)
    most = (contents.base.astype(np.int64) - threshold) >> 1
    return np.clip(most, -1, 32767).astype(np.int16)


@entry
def _compare(
    pool: int,
    limit: NDArray[np.int16],
    flip: NDArray[np.int8],
    border: NDArray[np.uint8],
    mismatches: NDArray[np.int16],
    y: NDArray[np.int8],
) -> None:
    """Set a block's bits; y is 0 before."""
    for vector in range(border.size):
        most, differ, bits = limit[border[vector]], mismatches[vector], y[vector // pool]
        for output in range(bits.size):
            bits[output] |= np.int8(differ[output] <= most[output]) ^ flip[output]


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
