# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: stored words to outputs through float32 BLAS, bit-exact.

A float32 product of integers is exact while every partial sum stays within 2**24, whatever the
order of summation; K is cut so that the largest possible sums do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.lib.float16 import f32_to_f16
from sim.lib.kernel import entry
from sim.w4a8.plan import Memory, Plan

_EXACT = 1 << 24
_A_MAX = 128


def outputs(plan: Plan, memory: Memory) -> NDArray[Any]:
    """Return Y, float16[M, N] for the fp16 epilogue, else int8 or (wide) int16."""
    acc = accumulate(activations(plan, memory), weights(plan, memory), plan)
    columns = _columns(plan, memory)
    if plan.fp16:
        bits = np.empty((plan.m, plan.n), dtype=np.uint16)
        row_scales = _window(memory.r, plan.r_base, plan.m).view(np.float32)
        sums = acc if acc.dtype == np.float32 else acc.astype(np.float32)
        _fp16_epilogue(sums, columns.astype(np.uint32).view(np.float32), row_scales, bits)
        return bits.view(np.float16)
    # (acc + bias) * mult has 33 + 16 bits and a power of two only moves the point: float64 is exact
    # up to the one rounding, and rint rounds to nearest even.
    bias = (columns & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.float64)
    mult = ((columns >> 32) & 0xFFFF).astype(np.float64)
    factor = np.ldexp(mult, -((columns >> 48) & 63).astype(np.int64))
    high = 32767.0 if plan.wide else 127.0
    low = 0.0 if plan.relu else -high - 1
    y = np.empty((plan.m, plan.n), dtype=np.int16 if plan.wide else np.int8)
    _fixed_epilogue(acc, bias, factor, np.array([low, high]), y)
    return y


def activations(plan: Plan, memory: Memory) -> NDArray[np.float32]:
    """Return X as float32[M, K], from its words."""
    x = np.empty((plan.m, plan.k), dtype=np.float32)
    _unpack_activations(memory.a.view(np.int8), 4 * plan.a_base, 4 * plan.a_stride, x)
    return x


def weights(plan: Plan, memory: Memory) -> NDArray[np.float32]:
    """Return W as float32[N, K]: int4 codes, or int8 where group scales requantise them."""
    w = np.empty((plan.n, plan.k), dtype=np.float32)
    flip = 0 if plan.offset_code else 8
    _unpack_weights(memory.w.view(np.uint8), 4 * plan.w_base, 4 * plan.w_stride, flip, w)
    if plan.group_scales:
        groups = -(-plan.k // plan.group)
        scales = np.empty((groups, plan.n), dtype=np.float32)
        for g in range(groups):
            row = _window(memory.s, plan.s_base + g * plan.s_stride, plan.n)
            scales[g] = row.view(np.float16)
        _requantise(w, scales, plan.group)
    return w


def accumulate(
    x: NDArray[np.float32], w: NDArray[np.float32], plan: Plan
) -> NDArray[np.float32] | NDArray[np.int32]:
    """Return X.W^T exactly: float32 where one product holds every sum, else int32."""
    slice_k = _EXACT // (_A_MAX * (128 if plan.group_scales else 8))
    if plan.k <= slice_k:
        return x @ w.T
    total = np.zeros((plan.m, plan.n), dtype=np.int32)
    for k0 in range(0, plan.k, slice_k):
        part = x[:, k0 : k0 + slice_k] @ w[:, k0 : k0 + slice_k].T
        total += part.astype(np.int32)
    return total


def _window(memory: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    """Return `size` elements from `start`, with 0 past the end of the memory."""
    found = memory[start : start + size]
    return found if found.size == size else np.pad(found, (0, size - found.size))


def _columns(plan: Plan, memory: Memory) -> NDArray[np.uint64]:
    return _window(memory.e, plan.e_base, plan.n)


@entry
def _unpack_activations(
    memory: NDArray[np.int8], base: int, stride: int, x: NDArray[np.float32]
) -> None:
    """Widen int8 rows that start at byte `base` and every `stride` bytes after it."""
    for m in range(x.shape[0]):
        start = base + m * stride
        row = x[m]
        found = min(row.size, max(0, memory.size - start))
        codes = memory[start : start + found]
        for k in range(found):
            row[k] = codes[k]
        for k in range(found, row.size):
            row[k] = 0


@entry
def _unpack_weights(
    memory: NDArray[np.uint8], base: int, stride: int, flip: int, w: NDArray[np.float32]
) -> None:
    """Widen int4 rows, low nibble first; `flip` is 8 for two's complement, 0 for offset binary.

    A nibble past the end of the memory is read as 0 and decoded like any other.
    """
    for n in range(w.shape[0]):
        start = base + n * stride
        row = w[n]
        found = min(row.size // 2, max(0, memory.size - start))
        codes = memory[start : start + found]
        for b in range(found):
            code = np.int32(codes[b])
            row[2 * b] = np.float32(((code & 15) ^ flip) - 8)
            row[2 * b + 1] = np.float32(((code >> 4) ^ flip) - 8)
        for k in range(2 * found, row.size):
            byte = start + k // 2
            code = np.int32(memory[byte]) if byte < memory.size else np.int32(0)
            row[k] = ((code >> (4 * (k % 2)) & 15) ^ flip) - 8


@entry
def _requantise(w: NDArray[np.float32], scales: NDArray[np.float32], group: int) -> None:
    """Replace w by clamp(RNE(w * scale), -128, 127); modified in place.

    The product has 4 + 11 significant bits and stays below 2**20, so adding and taking away
    1.5 * 2**23 rounds it to the nearest even integer.
    """
    magic = np.float32(12582912.0)
    low, high = np.float32(-128.0), np.float32(127.0)
    for n in range(w.shape[0]):
        for g in range(scales.shape[0]):
            scale = scales[g, n]
            row = w[n, g * group : (g + 1) * group]
            for k in range(row.size):
                rounded = np.float32(np.float32(row[k] * scale) + magic) - magic
                row[k] = min(max(rounded, low), high)


@entry
def _fp16_epilogue(
    acc: NDArray[np.float32],
    column: NDArray[np.float32],
    row: NDArray[np.float32],
    y: NDArray[np.uint16],
) -> None:
    """Scale by column, then by row, each rounded to float32, and round to float16."""
    for m in range(y.shape[0]):
        sums = acc[m]
        bits = y[m]
        scale = row[m]
        for n in range(bits.size):
            bits[n] = f32_to_f16(np.float32(np.float32(sums[n] * column[n]) * scale))


@entry
def _fixed_epilogue(
    acc: NDArray[Any],
    bias: NDArray[np.float64],
    factor: NDArray[np.float64],
    limits: NDArray[np.float64],
    y: NDArray[Any],
) -> None:
    """Add the bias, scale, round to nearest even and clamp to the limits."""
    low, high = limits[0], limits[1]
    for m in range(y.shape[0]):
        sums = acc[m]
        out = y[m]
        for n in range(out.size):
            value = np.rint((np.float64(sums[n]) + bias[n]) * factor[n])
            out[n] = np.int32(min(max(value, low), high))
