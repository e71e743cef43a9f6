# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: every conversion of a job, a block of vectors at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import xorshift32_rows
from sim.lib.kernel import entry
from sim.pim.block import Work, add_codes, join_slices, lanes_in, make_work, pack, scale_codes
from sim.pim.drain import rescale
from sim.pim.noise import convert_noisy
from sim.pim.plan import Contents, Plan

BLOCK_LANES = 2048
"""Lanes of a block: its sums take 8 KiB, its activations of one group and bit 32 KiB."""

BLOCK_CONVERSIONS = 4096
"""Conversions by an ADC in a block with noise: those of two ADCs take 32 KiB."""


def outputs(plan: Plan, contents: Contents) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return Y, int8[M, n] or (wide) int16[M, n], and the generators' states after the job."""
    # Codes of a group, factors and groups cannot leave int32: 2**10, 2**7 and 2**8.
    noisy = bool(contents.noise.any())
    lanes = BLOCK_CONVERSIONS // (plan.groups * plan.mux) if noisy else BLOCK_LANES
    vectors = min(plan.m, max(1, lanes // plan.slices))
    work = make_work(plan, contents, vectors, noisy=noisy)
    states = contents.states.copy()
    y = np.empty((plan.m, plan.n), dtype=np.int16 if plan.wide else np.int8)
    for first in range(0, plan.m, vectors):
        x = contents.x[first : first + vectors]
        if noisy:
            convert_noisy(plan, contents, work, x, states)
        else:
            _convert(plan, contents, work, x)
        _rescale(plan, contents.e, work.acc, y[first : first + vectors])
    # Generators that no output reads step too.
    used = -(-plan.n * plan.planes // plan.mux) if noisy else 0
    if states.size > used:
        jump(states[used:], plan.m * plan.steps * plan.mux)
    return y, states


def jump(states: NDArray[np.uint32], steps: int) -> None:
    """Advance xorshift32 states in place by so many steps at once."""
    rows = _jump_rows(steps)
    bits = np.bitwise_count(rows[:, None] & states[None, :]) & 1
    states[:] = (bits.astype(np.uint32) << np.arange(32, dtype=np.uint32)[:, None]).sum(
        axis=0, dtype=np.uint32
    )


@cache
def _jump_rows(steps: int) -> NDArray[np.uint32]:
    return np.array(xorshift32_rows(steps), dtype=np.uint32)


@entry
def _convert(plan: Plan, contents: Contents, work: Work, x: NDArray[np.uint8]) -> None:
    """Fill the accumulators of a block without noise."""
    lanes = lanes_in(plan, x.shape[0])
    pack(plan, work, x)
    sums, values = work.sums[:lanes], work.values[:lanes]
    for output in range(plan.n):
        for lane in range(lanes):
            sums[lane] = 0
        for plane in range(plan.planes):
            column = output * plan.planes + plane
            scale_codes(plan, contents.transfer[column], plan.plane_weights[plane], work.table)
            for group in range(plan.groups):
                add_codes(plan, work, output, plane, group, values, sums)
        join_slices(plan, sums, 1, True, work.acc[output, : x.shape[0]])


@entry
def _rescale(plan: Plan, e: NDArray[np.uint64], acc: NDArray[np.int64], y: NDArray[Any]) -> None:
    """Set a block's outputs (section 1)."""
    for output in range(y.shape[1]):
        column = e[output]
        for vector in range(y.shape[0]):
            y[vector, output] = rescale(plan, acc[output, vector], column)
