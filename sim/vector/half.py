# SPDX-License-Identifier: Apache-2.0
"""Operations on float16 values: element-wise, table look-up, normalisation, dynamic quantisation.

Each step is one IEEE operation in float32 or one rounding to float16, in the order that
docs/packed-format.md states; kernels hold a float16 as its bits. A NaN result is 0x7E00.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.lib.float16 import NAN, f16_to_f32, f32_to_f16, rne_shift, saturate

Half = NDArray[np.float16]


def add(a: Half, b: Half) -> Half:
    """Return f16(f32(a) + f32(b)), broadcast."""
    return _elementwise(a, b, multiply=False)


def mul(a: Half, b: Half) -> Half:
    """Return f16(f32(a) * f32(b)), broadcast."""
    return _elementwise(a, b, multiply=True)


def scale(x: Half, factor: float) -> Half:
    """Return f16(f32(x) * f32(factor))."""
    out = np.empty(x.size, dtype=np.uint16)
    _scale(_bits(x), np.float32(factor), out)
    return out.view(np.float16).reshape(x.shape)


def add_bias(y: Half, bias: Half) -> Half:
    """Return f16(f32(y) + f32(bias)) of float16[..., N] and float16[N]."""
    return _elementwise(y, bias, multiply=False)


def activation(x: Half, table: NDArray[np.int16]) -> Half:
    """Return the function of a 257-entry Q3.12 table, linear between its entries.

    At x >= 8 the result is x, at x <= -8 it is +0, and a NaN stays NaN.
    """
    out = np.empty(x.size, dtype=np.uint16)
    _activation(_bits(x), np.ascontiguousarray(table), out)
    return out.view(np.float16).reshape(x.shape)


def layernorm(
    x: Half, gamma: NDArray[np.float32], beta: NDArray[np.float32] | None, eps: float
) -> Half:
    """Return f16((x - mean) / sqrt(var + eps) * gamma + beta) over the last axis."""
    return _normalise(x, gamma, beta, eps, centre=True)


def rmsnorm(
    x: Half, gamma: NDArray[np.float32], beta: NDArray[np.float32] | None, eps: float
) -> Half:
    """Return f16(x / sqrt(mean(x * x) + eps) * gamma + beta) over the last axis."""
    return _normalise(x, gamma, beta, eps, centre=False)


def quantize_rows(x: Half, name: str = "linear") -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise each row (token) to int8 with a scale of its own, QQQ's rule.

    The scale is a_s = f32(f16(f32(f32(amax) / f32(127)))); 1 where that is 0, with all codes 0.
    A code is clamp(RNE(f32(f32(x) / a_s)), -128, 127).

    Parameters
    ----------
    x : float16[..., K]
        Activations; leading axes are flattened to M rows.
    name : str
        Node, for the message.

    Returns
    -------
    codes : int8[M, K]
    scales : float32[M]

    Raises
    ------
    ValueError
        If a row holds an infinity or a NaN.
    """
    rows = _bits(x).reshape(-1, x.shape[-1])
    codes = np.empty(rows.shape, dtype=np.int8)
    scales = np.empty(rows.shape[0], dtype=np.float32)
    bad = int(_quantize_rows(rows, codes, scales))
    if bad >= 0:
        raise ValueError(
            f"{name}: activations must be finite, but row {bad} holds an infinity or NaN"
        )
    return codes, scales


def _bits(x: Half) -> NDArray[np.uint16]:
    return np.ascontiguousarray(x, dtype=np.float16).view(np.uint16).reshape(-1)


def _elementwise(a: Half, b: Half, *, multiply: bool) -> Half:
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.size, dtype=np.uint16)
    _combine(_bits(a), _bits(b), multiply, out)
    return out.view(np.float16).reshape(a.shape)


def _normalise(
    x: Half,
    gamma: NDArray[np.float32],
    beta: NDArray[np.float32] | None,
    eps: float,
    *,
    centre: bool,
) -> Half:
    rows = _bits(x).reshape(-1, x.shape[-1])
    out = np.empty(rows.shape, dtype=np.uint16)
    offset = np.zeros(0, dtype=np.float32) if beta is None else np.ascontiguousarray(beta)
    _normalise_rows(rows, (np.ascontiguousarray(gamma), offset), np.float32(eps), centre, out)
    return out.view(np.float16).reshape(x.shape)


@njit(cache=True)
def _combine(
    a: NDArray[np.uint16], b: NDArray[np.uint16], multiply: bool, out: NDArray[np.uint16]
) -> None:
    """Modify `out` in place."""
    for i in range(a.size):
        left, right = f16_to_f32(a[i]), f16_to_f32(b[i])
        out[i] = f32_to_f16(left * right if multiply else left + right)


@njit(cache=True)
def _scale(x: NDArray[np.uint16], factor: np.float32, out: NDArray[np.uint16]) -> None:
    """Modify `out` in place."""
    for i in range(x.size):
        out[i] = f32_to_f16(f16_to_f32(x[i]) * factor)


@njit(cache=True)
def _activation(x: NDArray[np.uint16], table: NDArray[np.int16], out: NDArray[np.uint16]) -> None:
    """Modify `out` in place."""
    for i in range(x.size):
        value = f16_to_f32(x[i])
        if np.isnan(value):
            out[i] = NAN
        elif value >= np.float32(8):
            out[i] = x[i]
        elif value <= np.float32(-8):
            out[i] = 0
        else:
            fixed = saturate(np.int64(np.rint(value * np.float32(4096))), -32768, 32767)
            segment, fraction = (fixed >> 8) + 128, fixed & 255
            left = np.int64(table[segment])
            step = np.int64(table[segment + 1]) - left
            result = rne_shift(left * 256 + step * fraction, 8)
            out[i] = f32_to_f16(np.float32(result) * np.float32(2.0**-12))


@njit(cache=True)
def tree_sum(work: NDArray[np.float32], n: int) -> np.float32:
    """Return the tree sum of work[:n], in float32; `work` is modified in place.

    The upper half is added to the lower half until one is left, as if padded with +0 to a power
    of two, and +0 is added at the end. Leaving the padding out changes no more than the sign of a
    zero, which that last addition makes positive.
    """
    half = 1
    while half < n:
        half *= 2
    while half > 1:
        half //= 2
        for i in range(n - half):
            work[i] += work[i + half]
        n = min(n, half)
    return work[0] + np.float32(0)


@njit(cache=True, error_model="numpy")
def _normalise_rows(
    x: NDArray[np.uint16],
    affine: tuple[NDArray[np.float32], NDArray[np.float32]],
    eps: np.float32,
    centre: bool,
    out: NDArray[np.uint16],
) -> None:
    """Modify `out` in place; `affine` is gamma and beta, the latter empty for none."""
    gamma, beta = affine
    rows, d = x.shape
    values = np.empty(d, dtype=np.float32)
    work = np.empty(d, dtype=np.float32)
    size = np.float32(d)
    for row in range(rows):
        for i in range(d):
            values[i] = f16_to_f32(x[row, i])
        if centre:
            work[:] = values
            mean = tree_sum(work, d) / size
            for i in range(d):
                values[i] -= mean
        for i in range(d):
            work[i] = values[i] * values[i]
        deviation = np.sqrt(tree_sum(work, d) / size + eps)
        for i in range(d):
            result = values[i] / deviation * gamma[i]
            if beta.size:
                result += beta[i]
            out[row, i] = f32_to_f16(result)


@njit(cache=True, error_model="numpy")
def _quantize_rows(
    x: NDArray[np.uint16], codes: NDArray[np.int8], scales: NDArray[np.float32]
) -> Any:
    """Modify `codes` and `scales` in place; return the first row that is not finite, or -1."""
    rows, k = x.shape
    for row in range(rows):
        # Magnitudes of float16 order as their bits do.
        largest = 0
        for i in range(k):
            largest = max(largest, x[row, i] & 0x7FFF)
        if largest >= 0x7C00:
            return row
        quotient = f16_to_f32(np.uint16(largest)) / np.float32(127)
        step = f16_to_f32(f32_to_f16(quotient))
        if step == 0:
            scales[row] = 1
            codes[row] = 0
            continue
        scales[row] = step
        for i in range(k):
            code = np.rint(f16_to_f32(x[row, i]) / step)
            codes[row, i] = np.int8(min(max(code, np.float32(-128)), np.float32(127)))
    return -1
