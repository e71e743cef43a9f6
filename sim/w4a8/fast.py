# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: stored words to outputs through an exact integer product.

Codes become int16, weights in the panels that `sim.lib.product` takes. Sums cannot leave int32:
max_k is at most 2**16 and a product at most 2**14 in magnitude.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.lib.float16 import f32_to_f16
from sim.lib.kernel import entry
from sim.lib.product import TILE_COLS, TILE_ROWS, multiply
from sim.w4a8.plan import Memory, Plan

_A_MAX = 128
_WORD_CODES = 8  # int4 codes of a word


def outputs(plan: Plan, memory: Memory) -> NDArray[Any]:
    """Return Y, float16[M, N] for the fp16 epilogue, else int8 or (wide) int16."""
    acc = accumulate(plan, memory)
    columns = _window(memory.e, plan.e_base, plan.n)
    if plan.fp16:
        bits = np.empty((plan.m, plan.n), dtype=np.uint16)
        row_scales = _window(memory.r, plan.r_base, plan.m).view(np.float32)
        _fp16_epilogue(acc, columns.astype(np.uint32).view(np.float32), row_scales, bits)
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


def accumulate(plan: Plan, memory: Memory) -> NDArray[np.int32]:
    """Return X.W^T exactly, int32[>= M, >= N]: whole tiles of the product, rest without meaning."""
    assert plan.k * _A_MAX * (128 if plan.group_scales else 8) < 1 << 31
    x, w = activations(plan, memory), weights(plan, memory)
    acc = np.empty((x.shape[0], w.shape[0] * TILE_COLS), dtype=np.int32)
    multiply(x, w, acc)
    return acc


def activations(plan: Plan, memory: Memory) -> NDArray[np.int16]:
    """Return X from its words, with rows and codes of 0 up to whole tiles and words."""
    words = -(-plan.k // _WORD_CODES)
    rows = -(-plan.m // TILE_ROWS) * TILE_ROWS
    x = np.empty((rows, words * _WORD_CODES), dtype=np.int16)
    _unpack_activations(
        memory.a.view(np.int8), 4 * plan.a_base, 4 * plan.a_stride, plan.m, plan.k, x
    )
    return x


def weights(plan: Plan, memory: Memory) -> NDArray[np.int16]:
    """Return W in panels: int4 codes, or int8 where group scales requantise them.

    Codes past K are whatever the last word holds; X is 0 there.
    """
    words, panels = -(-plan.k // _WORD_CODES), -(-plan.n // TILE_COLS)
    w = np.empty((panels, words * (_WORD_CODES // 2), TILE_COLS, 2), dtype=np.int16)
    flip = 0 if plan.offset_code else 8
    column_words = np.empty(TILE_COLS, dtype=np.int32)
    pairs = w.view(np.int32)[..., 0]
    _unpack_weights(
        memory.w.view(np.int32), plan.w_base, plan.w_stride, plan.n, flip, column_words, pairs
    )
    if plan.group_scales:
        groups = -(-plan.k // plan.group)
        scales = np.zeros((groups, panels * TILE_COLS), dtype=np.float32)
        for g in range(groups):
            row = _window(memory.s, plan.s_base + g * plan.s_stride, plan.n)
            scales[g, : plan.n] = row.view(np.float16)
        _requantise(pairs, scales, plan.group)
    return w


def _window(memory: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    """Return `size` elements from `start`, with 0 past the end of the memory."""
    found = memory[start : start + size]
    return found if found.size == size else np.pad(found, (0, size - found.size))


@entry
def _unpack_activations(
    memory: NDArray[np.int8], base: int, stride: int, rows: int, codes: int, x: NDArray[np.int16]
) -> None:
    """Widen int8 rows that start at byte `base` and every `stride` bytes after it."""
    for m in range(x.shape[0]):
        start = base + m * stride
        row = x[m]
        found = min(codes, max(0, memory.size - start)) if m < rows else 0
        stored = memory[start : start + found]
        for k in range(found):
            row[k] = stored[k]
        for k in range(found, row.size):
            row[k] = 0


@entry
def _unpack_weights(
    memory: NDArray[np.int32],
    base: int,
    stride: int,
    columns: int,
    flip: int,
    column_words: NDArray[np.int32],
    w: NDArray[np.int32],
) -> None:
    """Widen int4 rows, low nibble first, into pairs: even code in the low half, odd in the high.

    `flip` is 8 for two's complement, 0 for offset binary. A word past the end of the memory, or of
    a column that does not exist, is read as 0 and decoded like any other. `column_words` is
    scratch, one per column of a panel.
    """
    for panel in range(w.shape[0]):
        for word in range(w.shape[1] // 4):
            for j in range(column_words.size):
                n = panel * column_words.size + j
                at = base + n * stride + word
                column_words[j] = memory[at] if n < columns and at < memory.size else 0
            for byte in range(4):
                pairs = w[panel, 4 * word + byte]
                for j in range(pairs.size):
                    codes = column_words[j] >> (8 * byte)
                    even = ((codes & 15) ^ flip) - 8
                    odd = (((codes >> 4) & 15) ^ flip) - 8
                    pairs[j] = (even & 0xFFFF) | (odd << 16)


@entry
def _requantise(w: NDArray[np.int32], scales: NDArray[np.float32], group: int) -> None:
    """Replace w by clamp(RNE(w * scale), -128, 127) in both halves; modified in place.

    The product has 4 + 11 significant bits and stays below 2**20, so adding and taking away
    1.5 * 2**23 rounds it to the nearest even integer.
    """
    magic = np.float32(12582912.0)
    low, high = np.float32(-128.0), np.float32(127.0)
    for panel in range(w.shape[0]):
        for pair in range(w.shape[1]):
            pairs = w[panel, pair]
            first = panel * pairs.size
            # The last word's codes past K have no group.
            even = scales[min(2 * pair // group, scales.shape[0] - 1)][first : first + pairs.size]
            odd = scales[min((2 * pair + 1) // group, scales.shape[0] - 1)][
                first : first + pairs.size
            ]
            for j in range(pairs.size):
                x = np.float32(np.float32(np.int16(pairs[j])) * even[j]) + magic
                y = np.float32(np.float32(pairs[j] >> 16) * odd[j]) + magic
                x = min(max(np.float32(x) - magic, low), high)
                y = min(max(np.float32(y) - magic, low), high)
                pairs[j] = (np.int32(x) & 0xFFFF) | (np.int32(y) << 16)


@entry
def _fp16_epilogue(
    acc: NDArray[np.int32],
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
            bits[n] = f32_to_f16(np.float32(np.float32(np.float32(sums[n]) * column[n]) * scale))


@entry
def _fixed_epilogue(
    acc: NDArray[np.int32],
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
