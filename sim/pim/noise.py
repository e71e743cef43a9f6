# SPDX-License-Identifier: Apache-2.0
"""Conversions with noise: an ADC's generator walks through its columns' values in their order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import xorshift32_step
from sim.lib.kernel import entry, inner, outlined
from sim.pim.block import Work, count, join_slices, lanes_in, pack
from sim.pim.plan import Contents, Plan

_xorshift = inner(xorshift32_step)


@entry
def convert_noisy(
    plan: Plan,
    contents: Contents,
    work: Work,
    x: NDArray[np.uint8],
    states: NDArray[np.uint32],
) -> None:
    """Fill the accumulators of a block with noise; advance the generators that outputs read."""
    pack(plan, work, x)
    sums = work.sums[: lanes_in(plan, x.shape[0])]
    columns = plan.n * plan.planes
    adcs = -(-columns // plan.mux)
    tables = contents.transfer.reshape(-1)
    order = work.order[:, : x.shape[0] * plan.steps * plan.mux]
    for pair in range(0, adcs, 2):
        # An ADC without a partner is converted twice.
        a, b = pair, min(pair + 1, adcs - 1)
        _line_up(plan, work, a, order[0])
        _line_up(plan, work, b, order[1])
        states[a], states[b] = _convert_pair(
            plan.code_min, plan.code_max, plan.noise_bits, contents.noise,
            tables, states[a], order[0], states[b], order[1],
        )  # fmt: skip
        for adc in range(a, b + 1):
            first = adc * plan.mux
            for column in range(first, min(first + plan.mux, columns)):
                output, plane = divmod(column, plan.planes)
                codes = order[adc - a]
                _sum_groups(plan.slices, plan.groups, plan.mux, codes, column - first, sums)
                acc = work.acc[output, : x.shape[0]]
                join_slices(plan, sums, plan.plane_weights[plane], plane == 0, acc)


@inner
def _line_up(plan: Plan, work: Work, adc: int, order: NDArray[np.int32]) -> None:
    """Set `order` to what an ADC converts, as places in the tables of all columns."""
    first = adc * plan.mux
    used = min(plan.mux, plan.n * plan.planes - first)
    entries = work.table.size
    period = plan.steps * plan.mux
    values = work.values[: lanes_in(plan, order.size // period)]
    for position in range(plan.mux):
        # A position that is not used is converted like the last one that is, and not read.
        column = first + min(position, used - 1)
        output, plane = divmod(column, plan.planes)
        for group in range(plan.groups):
            count(plan, work, output, plane, group, values)
            _put(plan.slices, period, values, column * entries, group * plan.mux + position, order)


@outlined
def _put(
    slices: int,
    period: int,
    values: NDArray[np.int32],
    offset: int,
    first: int,
    order: NDArray[np.int32],
) -> None:
    """Place a column's values in a group, plus an offset: a vector takes `period` conversions."""
    stride = values.size // slices
    for slice_ in range(slices):
        lane = np.uint64(slice_ * stride)
        for at in range(first + slice_ * (period // slices), order.size, period):
            order[np.uint64(at)] = values[lane] + offset
            lane += np.uint64(1)


@outlined
def _sum_groups(
    slices: int,
    groups: int,
    mux: int,
    codes: NDArray[np.int32],
    position: int,
    sums: NDArray[np.int32],
) -> None:
    """Add a position's codes over all groups, lane by lane."""
    stride = sums.size // slices
    for slice_ in range(slices):
        lane = np.uint64(slice_ * stride)
        start = slice_ * groups * mux + position
        for first in range(start, codes.size, slices * groups * mux):
            total = np.int32(0)
            for at in range(first, first + groups * mux, mux):
                total += codes[np.uint64(at)]
            sums[lane] = total
            lane += np.uint64(1)


@outlined
def _convert_pair(
    code_min: int,
    code_max: int,
    noise_bits: int,
    noise: NDArray[np.int16],
    tables: NDArray[np.int16],
    a_state: int,
    a_order: NDArray[np.int32],
    b_state: int,
    b_order: NDArray[np.int32],
) -> tuple[int, int]:
    """Replace the places of two ADCs in the tables by codes; return their generators' states.

    Two at once, as a step of a generator takes longer than all else that is done with its draw.
    """
    shift = 32 - noise_bits
    a, b = np.int64(a_state), np.int64(b_state)
    for i in range(a_order.size):
        a, b = _xorshift(a), _xorshift(b)
        x = np.int64(tables[np.uint64(a_order[i])]) + noise[np.uint64(a >> shift)]
        a_order[i] = min(max((x + 8) >> 4, code_min), code_max)
        x = np.int64(tables[np.uint64(b_order[i])]) + noise[np.uint64(b >> shift)]
        b_order[i] = min(max((x + 8) >> 4, code_min), code_max)
    return int(a), int(b)
