# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: every conversion of a job, by counting bits.

A *lane* is one slice of one vector. A column's value in a lane is a sum over bits of the cell and
of the slice of popcounts of their common rows, two words at a time. Lanes are innermost, so that
words of a column and its table stay in registers and in the first-level cache while the activations
of a block of vectors pass by. With noise, an ADC's generator walks through the values in its order.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import xorshift32_rows, xorshift32_step
from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import entry, inner
from sim.lib.popcount import popcount, scalar
from sim.pim.plan import Contents, Plan

BLOCK_LANES = 2048
"""Lanes of a block: its sums take 8 KiB, its activations of one group and bit 32 KiB."""

NEGATE = np.uint64(1 << 54)

_xorshift = inner(xorshift32_step)


class Work(NamedTuple):
    """What kernels need for one block of vectors.

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
    values : int32[M or 1, G or 1, lanes]
        Values of a column, less v_min; of all columns and groups of an ADC where there is noise.
    sums : int32[M or 1, lanes]
        Per lane a sum of codes: of an output times their planes' factors, or, with noise, of each
        column of an ADC.
    acc : int64[n, vectors]
        Accumulators.
    """

    w: NDArray[np.uint64]
    x: NDArray[np.uint64]
    codes: NDArray[np.uint8]
    table: NDArray[np.int32]
    values: NDArray[np.int32]
    sums: NDArray[np.int32]
    acc: NDArray[np.int64]


def outputs(plan: Plan, contents: Contents) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return Y, int8[M, n] or (wide) int16[M, n], and the generators' states after the job."""
    # Codes of a group, factors and groups cannot leave int32: 2**10, 2**7 and 2**8.
    noisy = bool(contents.noise.any())
    vectors = min(plan.m, max(1, BLOCK_LANES // plan.slices))
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
    lanes = vectors * plan.slices
    words = contents.w.shape[3]
    w = contents.w if words % 2 == 0 else np.pad(contents.w, [(0, 0)] * 3 + [(0, 1)])
    columns, groups = (plan.mux, plan.groups) if noisy else (1, 1)
    return Work(
        w.reshape(plan.n, plan.planes, plan.cell_bits, plan.groups, -1),
        np.empty((plan.groups, plan.slice_bits, w.shape[3], lanes), dtype=np.uint64),
        np.zeros(w.shape[3] * 64, dtype=np.uint8),
        np.empty(contents.transfer.shape[1], dtype=np.int32),
        np.empty((columns, groups, lanes), dtype=np.int32),
        np.empty((columns, lanes), dtype=np.int32),
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
    lanes = x.shape[0] * plan.slices
    _pack(plan, work, x)
    sums, values = work.sums[0, :lanes], work.values[0, 0, :lanes]
    for output in range(plan.n):
        for lane in range(lanes):
            sums[lane] = 0
        for plane in range(plan.planes):
            column = output * plan.planes + plane
            _scale_codes(plan, contents.transfer[column], plan.plane_weights[plane], work.table)
            for group in range(plan.groups):
                _add_codes(plan, work, output, plane, group, values, sums)
        _join_slices(plan, sums, work.acc[output], 1, True)


@inner
def _pack(plan: Plan, work: Work, x: NDArray[np.uint8]) -> None:
    """Spread the codes of a block's vectors over words of bits, the first slice's bits first."""
    codes = work.codes
    eights = codes.view(np.uint64)
    ones = np.uint64(0x0101010101010101)
    # Times this, bit 8 j of a word of bits 0, 8, .. 56 lands on bit 56 + j.
    gather = np.uint64(0x0102040810204080)
    for vector in range(x.shape[0]):
        for group in range(plan.groups):
            first = group * plan.rows
            valid = min(plan.rows, plan.k - first)
            row = x[vector, first : first + valid]
            for r in range(valid):
                codes[r] = row[r]
            for r in range(valid, codes.size):
                codes[r] = 0
            for word in range(work.x.shape[2]):
                for slice_ in range(plan.slices):
                    lane = vector * plan.slices + slice_
                    for bit in range(plan.slice_bits):
                        place = np.uint64((plan.slices - 1 - slice_) * plan.slice_bits + bit)
                        packed = np.uint64(0)
                        for byte in range(8):
                            bits = (eights[8 * word + byte] >> place) & ones
                            packed |= (bits * gather) >> np.uint64(56) << np.uint64(8 * byte)
                        work.x[group, bit, word, lane] = packed


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
    table = work.table
    words = work.x.shape[2]
    terms = plan.cell_bits * plan.slice_bits * (words // 2)
    if terms > 1:
        _count(plan, work, output, plane, group, values, terms - 1)
    # The last term goes straight to the table.
    bit, word = plan.slice_bits - 1, words - 2
    w = work.w[output, plane, plan.cell_bits - 1, group]
    w0, w1 = w[word], w[word + 1]
    x0, x1 = work.x[group, bit, word], work.x[group, bit, word + 1]
    if terms == 1 and plan.cell_weights[0] == 1:
        # Unsigned, an index needs no test for a negative one.
        for lane in range(sums.size):
            sums[lane] += table[popcount(scalar(w0 & x0[lane])) + popcount(w1 & x1[lane])]
        return
    factor = plan.cell_weights[plan.cell_bits - 1] << bit
    if terms == 1:
        for lane in range(sums.size):
            values[lane] = -plan.value_min
    for lane in range(sums.size):
        count = np.int64(popcount(w0 & x0[lane]) + popcount(w1 & x1[lane]))
        sums[lane] += table[scalar(np.uint64(values[lane] + factor * count))]


@inner
def _count(
    plan: Plan,
    work: Work,
    output: int,
    plane: int,
    group: int,
    values: NDArray[np.int32],
    terms: int,
) -> None:
    """Set the values of a column in a group, less v_min, to the sum of its first terms.

    A term is a bit of the slice, a bit of the cell and two words, the words innermost.
    """
    offset = np.int32(-plan.value_min)
    for lane in range(values.size):
        values[lane] = offset
    words = work.x.shape[2]
    for bit in range(plan.slice_bits):
        for cell_bit in range(plan.cell_bits):
            factor = np.int32(plan.cell_weights[cell_bit] << bit)
            for word in range(0, words, 2):
                if terms == 0:
                    return
                terms -= 1
                w = work.w[output, plane, cell_bit, group]
                w0, w1 = w[word], w[word + 1]
                x0, x1 = work.x[group, bit, word], work.x[group, bit, word + 1]
                for lane in range(values.size):
                    count = popcount(w0 & x0[lane]) + popcount(w1 & x1[lane])
                    values[lane] += factor * np.int32(count)


@inner
def _join_slices(
    plan: Plan, sums: NDArray[np.int32], acc: NDArray[np.int64], factor: int, first: bool
) -> None:
    """Add the slices of each vector, weighted and times a factor, to what its accumulator has."""
    for vector in range(sums.size // plan.slices):
        total = np.int64(0)
        for slice_ in range(plan.slices):
            total = (total << plan.slice_bits) + sums[vector * plan.slices + slice_]
        acc[vector] = total * factor + (0 if first else acc[vector])


@entry
def _convert_noisy(
    plan: Plan,
    contents: Contents,
    work: Work,
    x: NDArray[np.uint8],
    states: NDArray[np.uint32],
) -> None:
    """Fill the accumulators of a block with noise; advance the generators that outputs read."""
    lanes = x.shape[0] * plan.slices
    columns = plan.n * plan.planes
    _pack(plan, work, x)
    terms = plan.slice_bits * plan.cell_bits * (work.x.shape[2] // 2)
    for adc in range(-(-columns // plan.mux)):
        first = adc * plan.mux
        used = min(plan.mux, columns - first)
        for position in range(used):
            output, plane = divmod(first + position, plan.planes)
            for group in range(plan.groups):
                values = work.values[position, group, :lanes]
                _count(plan, work, output, plane, group, values, terms)
        states[adc] = _walk(plan, contents, work, first, used, lanes, states[adc])
        for position in range(used):
            output, plane = divmod(first + position, plan.planes)
            acc = work.acc[output]
            sums = work.sums[position, :lanes]
            _join_slices(plan, sums, acc, plan.plane_weights[plane], plane == 0)


@inner
def _walk(
    plan: Plan,
    contents: Contents,
    work: Work,
    first: int,
    used: int,
    lanes: int,
    state: int,
) -> int:
    """Convert the values of one ADC's columns in its order; return its generator's state."""
    low, high = np.int32(plan.code_min), np.int32(plan.code_max)
    shift = 32 - plan.noise_bits
    draw = np.int64(state)
    noise = contents.noise
    for lane in range(lanes):
        for position in range(used):
            work.sums[position, lane] = 0
        for group in range(plan.groups):
            for position in range(used):
                draw = _xorshift(draw)
                value = np.uint64(work.values[position, group, lane])
                sixteenths = np.int32(contents.transfer[first + position, value])
                sixteenths += np.int32(noise[np.uint64(draw >> shift)]) + np.int32(8)
                code = min(max(sixteenths >> np.int32(4), low), high)
                work.sums[position, lane] += code
            for _ in range(used, plan.mux):
                draw = _xorshift(draw)
    return int(draw)


@entry
def _rescale(plan: Plan, e: NDArray[np.uint64], acc: NDArray[np.int64], y: NDArray[Any]) -> None:
    """Set a block's outputs (section 1)."""
    for output in range(y.shape[1]):
        column = e[output]
        factor = -16 if column & NEGATE else 16
        for vector in range(y.shape[0]):
            y[vector, output] = fixed_point(factor * acc[output, vector], column,
                                            plan.relu, plan.wide)  # fmt: skip
