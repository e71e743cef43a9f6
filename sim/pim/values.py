# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: every conversion of a job, by counting bits.

A *lane* is one slice of one vector; of a block of vectors the lanes of slice 0 come first, then
those of slice 1. A column's value in a lane is a sum over bits of the cell and of the slice of ones
in their common rows, two words at a time. Lanes are innermost, so that words of a column and its
table stay in registers and in the first-level cache while the activations of the block pass by.
With noise, an ADC's generator walks through the values in its order.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import xorshift32_rows, xorshift32_step
from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import entry, inner, outlined
from sim.lib.popcount import LANES, common_ones, popcount
from sim.pim.plan import Contents, Plan

BLOCK_LANES = 2048
"""Lanes of a block: its sums take 8 KiB, its activations of one group and bit 32 KiB."""

BLOCK_CONVERSIONS = 8192
"""Conversions by an ADC in a block with noise: those of two ADCs take 64 KiB."""

NEGATE = np.uint64(1 << 54)

_xorshift = inner(xorshift32_step)


def lanes_of(plan: Plan, vectors: int) -> int:
    """Return the lanes of so many vectors."""
    return plan.slices * (-(-vectors // LANES) * LANES)


_lanes = inner(lanes_of)


class Work(NamedTuple):
    """What kernels need for one block of vectors; each slice has whole steps of lanes.

    Attributes
    ----------
    w : uint64[n, P, Q, G, words]
        Cells; `words` is even.
    x : uint64[G, m, words, lanes]
        Activations: bits of row r of a group are bit r % 64 of word r // 64.
    codes : uint8[words * 64]
        Codes of one vector's group.
    table : int32[V]
        A column's codes times its plane's factor.
    values : int32[lanes]
        Values of a column in a group, less v_min.
    order : int32[2, vectors * S * G * M or 0]
        With noise, what two ADCs convert, in their order: places in the tables, then codes.
    sums : int32[lanes]
        Sums of codes, without noise times the factors of their planes.
    acc : int64[n, vectors]
        Accumulators.
    """

    w: NDArray[np.uint64]
    x: NDArray[np.uint64]
    codes: NDArray[np.uint8]
    table: NDArray[np.int32]
    values: NDArray[np.int32]
    order: NDArray[np.int32]
    sums: NDArray[np.int32]
    acc: NDArray[np.int64]


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
            _convert_noisy(plan, contents, work, x, states)
        else:
            _convert(plan, contents, work, x)
        _rescale(plan, contents.e, work.acc, y[first : first + vectors])
    # Generators that no output reads step too.
    used = -(-plan.n * plan.planes // plan.mux) if noisy else 0
    if states.size > used:
        jump(states[used:], plan.m * plan.steps * plan.mux)
    return y, states


def make_work(plan: Plan, contents: Contents, vectors: int, *, noisy: bool) -> Work:
    """Return the room for blocks of so many vectors."""
    lanes = lanes_of(plan, vectors)
    words = contents.w.shape[3]
    w = contents.w if words % 2 == 0 else np.pad(contents.w, [(0, 0)] * 3 + [(0, 1)])
    return Work(
        w.reshape(plan.n, plan.planes, plan.cell_bits, plan.groups, -1),
        # Lanes of no vector are converted too: their values must be legal.
        np.zeros((plan.groups, plan.slice_bits, w.shape[3], lanes), dtype=np.uint64),
        np.zeros(w.shape[3] * 64, dtype=np.uint8),
        np.empty(contents.transfer.shape[1], dtype=np.int32),
        np.empty(lanes, dtype=np.int32),
        np.empty((2, vectors * plan.steps * plan.mux if noisy else 0), dtype=np.int32),
        np.empty(lanes, dtype=np.int32),
        np.empty((plan.n, vectors), dtype=np.int64),
    )


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
    lanes = _lanes(plan, x.shape[0])
    _pack(plan, work, x)
    sums, values = work.sums[:lanes], work.values[:lanes]
    for output in range(plan.n):
        for lane in range(lanes):
            sums[lane] = 0
        for plane in range(plan.planes):
            column = output * plan.planes + plane
            _scale_codes(plan, contents.transfer[column], plan.plane_weights[plane], work.table)
            for group in range(plan.groups):
                _add_codes(plan, work, output, plane, group, values, sums)
        _join_slices(plan, sums, 1, True, work.acc[output, : x.shape[0]])


@inner
def _pack(plan: Plan, work: Work, x: NDArray[np.uint8]) -> None:
    """Spread the codes of a block's vectors over words of bits, the first slice's bits first."""
    codes = work.codes
    eights = codes.view(np.uint64)
    stride = _lanes(plan, x.shape[0]) // plan.slices
    for vector in range(x.shape[0]):
        for group in range(plan.groups):
            first = group * plan.rows
            valid = min(plan.rows, plan.k - first)
            row = x[vector, first : first + valid]
            for r in range(valid):
                codes[r] = row[r]
            for r in range(valid, codes.size):
                codes[r] = 0
            for i in range(eights.size):
                eights[i] = _transpose(eights[i])
            for word in range(work.x.shape[2]):
                for slice_ in range(plan.slices):
                    lane = slice_ * stride + vector
                    for bit in range(plan.slice_bits):
                        place = np.uint64(8 * ((plan.slices - 1 - slice_) * plan.slice_bits + bit))
                        packed = np.uint64(0)
                        for byte in range(8):
                            bits = (eights[8 * word + byte] >> place) & np.uint64(255)
                            packed |= bits << np.uint64(8 * byte)
                        work.x[group, bit, word, lane] = packed


@inner
def _transpose(eight: np.uint64) -> np.uint64:
    """Return eight bytes as an 8 x 8 matrix of bits, transposed: byte b holds their bits b."""
    seven, fourteen, half = np.uint64(7), np.uint64(14), np.uint64(28)
    other = (eight ^ (eight >> seven)) & np.uint64(0x00AA00AA00AA00AA)
    eight ^= other ^ (other << seven)
    other = (eight ^ (eight >> fourteen)) & np.uint64(0x0000CCCC0000CCCC)
    eight ^= other ^ (other << fourteen)
    other = (eight ^ (eight >> half)) & np.uint64(0x00000000F0F0F0F0)
    return eight ^ other ^ (other << half)


@inner
def _scale_codes(
    plan: Plan, transfer: NDArray[np.int16], factor: int, table: NDArray[np.int32]
) -> None:
    """Set the table to the code of each value times a factor."""
    low, high, by = np.int32(plan.code_min), np.int32(plan.code_max), np.int32(factor)
    for v in range(table.size):
        code = (np.int32(transfer[v]) + np.int32(8)) >> np.int32(4)
        table[v] = np.int32(min(max(code, low), high)) * by


@inner
def _add_codes(
    plan: Plan,
    work: Work,
    output: int,
    plane: int,
    group: int,
    values: NDArray[np.int32],
    sums: NDArray[np.int32],
) -> None:
    """Convert one column in one group: add its scaled codes to the sums of all lanes."""
    words = work.x.shape[2]
    if plan.cell_bits * plan.slice_bits * words == 2 and plan.cell_weights[0] == 1:
        w = work.w[output, plane, 0, group]
        x0, x1 = work.x[group, 0, 0], work.x[group, 0, 1]
        _add_codes_of_words(w[0], w[1], x0, x1, work.table, sums)
    else:
        _count(plan, work, output, plane, group, values)
        _add_codes_of_values(values, work.table, sums)


@outlined
def _add_codes_of_words(
    w0: np.uint64,
    w1: np.uint64,
    x0: NDArray[np.uint64],
    x1: NDArray[np.uint64],
    table: NDArray[np.int32],
    sums: NDArray[np.int32],
) -> None:
    """Add the scaled codes of a column whose value is the number of rows in common."""
    for first in range(0, sums.size, LANES):
        # Unsigned, an index needs no test for a negative one.
        lane = np.uint64(first)
        a, b, c, d = common_ones(x0, x1, w0, w1, lane)
        sums[lane] += table[a]
        sums[lane + np.uint64(1)] += table[b]
        sums[lane + np.uint64(2)] += table[c]
        sums[lane + np.uint64(3)] += table[d]


@outlined
def _add_codes_of_values(
    values: NDArray[np.int32], table: NDArray[np.int32], sums: NDArray[np.int32]
) -> None:
    """Add the scaled codes of values, less v_min."""
    for lane in range(sums.size):
        sums[lane] += table[np.uint64(values[lane])]


@inner
def _count(
    plan: Plan,
    work: Work,
    output: int,
    plane: int,
    group: int,
    values: NDArray[np.int32],
) -> None:
    """Set the values of a column in a group, less v_min: a sum over bits of cell and slice."""
    for lane in range(values.size):
        values[lane] = -plan.value_min
    for cell_bit in range(plan.cell_bits):
        w = work.w[output, plane, cell_bit, group]
        for bit in range(plan.slice_bits):
            factor = np.int32(plan.cell_weights[cell_bit] << bit)
            for word in range(0, w.size, 2):
                x0, x1 = work.x[group, bit, word], work.x[group, bit, word + 1]
                _add_ones(w[word], w[word + 1], x0, x1, factor, values)


@outlined
def _add_ones(
    w0: np.uint64,
    w1: np.uint64,
    x0: NDArray[np.uint64],
    x1: NDArray[np.uint64],
    factor: np.int32,
    values: NDArray[np.int32],
) -> None:
    """Add a factor times the number of rows in common in two words."""
    for lane in range(values.size):
        ones = popcount(w0 & x0[lane]) + popcount(w1 & x1[lane])
        values[lane] += factor * np.int32(ones)


@inner
def _join_slices(
    plan: Plan, sums: NDArray[np.int32], factor: int, first: bool, acc: NDArray[np.int64]
) -> None:
    """Add the slices of each vector, weighted and times a factor, to its accumulator.

    `first`: the accumulator is 0 before.
    """
    stride = sums.size // plan.slices
    for slice_ in range(plan.slices):
        weight = np.int32(factor << (plan.slices - 1 - slice_) * plan.slice_bits)
        part = sums[slice_ * stride : slice_ * stride + acc.size]
        for vector in range(acc.size):
            before = np.int64(0) if first and slice_ == 0 else acc[vector]
            acc[vector] = before + np.int64(part[vector]) * np.int64(weight)


@entry
def _convert_noisy(
    plan: Plan,
    contents: Contents,
    work: Work,
    x: NDArray[np.uint8],
    states: NDArray[np.uint32],
) -> None:
    """Fill the accumulators of a block with noise; advance the generators that outputs read."""
    _pack(plan, work, x)
    sums = work.sums[: _lanes(plan, x.shape[0])]
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
                _join_slices(plan, sums, plan.plane_weights[plane], plane == 0, acc)


@inner
def _line_up(plan: Plan, work: Work, adc: int, order: NDArray[np.int32]) -> None:
    """Set `order` to what an ADC converts, as places in the tables of all columns."""
    first = adc * plan.mux
    used = min(plan.mux, plan.n * plan.planes - first)
    entries = work.table.size
    period = plan.steps * plan.mux
    values = work.values[: _lanes(plan, order.size // period)]
    for position in range(plan.mux):
        # A position that is not used is converted like the last one that is, and not read.
        column = first + min(position, used - 1)
        output, plane = divmod(column, plan.planes)
        for group in range(plan.groups):
            _count(plan, work, output, plane, group, values)
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


@entry
def _rescale(plan: Plan, e: NDArray[np.uint64], acc: NDArray[np.int64], y: NDArray[Any]) -> None:
    """Set a block's outputs (section 1)."""
    for output in range(y.shape[1]):
        column = e[output]
        factor = -16 if column & NEGATE else 16
        for vector in range(y.shape[0]):
            scaled = factor * acc[output, vector]
            y[vector, output] = fixed_point(scaled, column, plan.relu, plan.wide)
