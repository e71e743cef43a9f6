# SPDX-License-Identifier: Apache-2.0
"""A block of vectors in bits: packing, and column values by counting the ones of words.

A *lane* is one slice of one vector; of a block all lanes of slice 0 come first. A column's value in
a lane is a sum over bits of the cell and of the slice of ones in their common rows, two words at a
time. Lanes are innermost, so that words of a column and its table stay in registers and in the
first-level cache while the activations of the block pass by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner, outlined
from sim.lib.popcount import LANES, common_ones, popcount
from sim.pim.plan import Contents, Plan


def lanes_of(plan: Plan, vectors: int) -> int:
    """Return the lanes of so many vectors."""
    return plan.slices * (-(-vectors // LANES) * LANES)


lanes_in = inner(lanes_of)


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


@inner
def pack(plan: Plan, work: Work, x: NDArray[np.uint8]) -> None:
    """Spread the codes of a block's vectors over words of bits, the first slice's bits first."""
    codes = work.codes
    eights = codes.view(np.uint64)
    stride = lanes_in(plan, x.shape[0]) // plan.slices
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
def scale_codes(
    plan: Plan, transfer: NDArray[np.int16], factor: int, table: NDArray[np.int32]
) -> None:
    """Set the table to the code of each value times a factor."""
    low, high, by = np.int32(plan.code_min), np.int32(plan.code_max), np.int32(factor)
    for v in range(table.size):
        code = (np.int32(transfer[v]) + np.int32(8)) >> np.int32(4)
        table[v] = np.int32(min(max(code, low), high)) * by


@inner
def add_codes(
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
        count(plan, work, output, plane, group, values)
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
def count(
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
def join_slices(
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
