# SPDX-License-Identifier: Apache-2.0
"""Operations on integer codes: quantise, requantise, residual add, pooling.

Every function rounds once, to nearest with ties to even, after exact integer arithmetic or one
float32 division.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.lib.float16 import rne_shift, saturate

Pair = tuple[int, int]


def quantize(x: NDArray[np.float32], scale: float) -> NDArray[np.int8]:
    """Return clamp(RNE(x / f32(scale)), -128, 127); one float32 division.

    Raises
    ------
    ValueError
        If x holds a NaN. Infinities clamp.
    """
    flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
    out = np.empty(flat.size, dtype=np.int8)
    if not _quantize(flat, np.float32(scale), out):
        raise ValueError("quantize: the input must not hold NaN")
    return out.reshape(x.shape)


def add_codes(
    a: NDArray[np.int8],
    b: NDArray[np.int8],
    mul_a: int,
    mul_b: int,
    shift: int,
    *,
    relu: bool = False,
) -> NDArray[np.int8]:
    """Return sat8(RNE((a * mul_a + b * mul_b) / 2**shift)), clamped at 0 before where `relu`."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.size, dtype=np.int8)
    low = 0 if relu else -128
    _add_codes(
        np.ascontiguousarray(a).reshape(-1),
        np.ascontiguousarray(b).reshape(-1),
        (mul_a, mul_b, shift, low),
        out,
    )
    return out.reshape(a.shape)


def requantize(x: NDArray[np.int8 | np.int16], mul: int, shift: int) -> NDArray[np.int8]:
    """Return sat8(RNE(x * mul / 2**shift)) of int8 or int16 codes."""
    wide = np.ascontiguousarray(x, dtype=np.int16).reshape(-1)
    out = np.empty(wide.size, dtype=np.int8)
    _requantize(wide, mul, shift, out)
    return out.reshape(x.shape)


def pool_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Return (OH, OW) of a pooling; windows that do not fit are left out."""
    return (
        (size[0] + 2 * padding[0] - kernel[0]) // stride[0] + 1,
        (size[1] + 2 * padding[1] - kernel[1]) // stride[1] + 1,
    )


def avgpool(
    x: NDArray[np.int8], kernel: Pair, stride: Pair, padding: Pair, mul: int, shift: int
) -> NDArray[np.int8]:
    """Return sat8(RNE(window sum * mul / 2**shift)) of int8[B, C, H, W]; padding adds 0."""
    return _pool(x, kernel, stride, padding, mul, shift)


def maxpool(x: NDArray[np.int8], kernel: Pair, stride: Pair, padding: Pair) -> NDArray[np.int8]:
    """Return the largest real element of each window of int8[B, C, H, W]; -128 if there is none."""
    return _pool(x, kernel, stride, padding, -1, 0)


def _pool(
    x: NDArray[np.int8], kernel: Pair, stride: Pair, padding: Pair, mul: int, shift: int
) -> NDArray[np.int8]:
    size = pool_size((x.shape[2], x.shape[3]), kernel, stride, padding)
    out = np.empty((x.shape[0] * x.shape[1], *size), dtype=np.int8)
    planes = np.ascontiguousarray(x).reshape(-1, x.shape[2], x.shape[3])
    _pool_planes(planes, (*kernel, *stride, *padding), mul, shift, out)
    return out.reshape(x.shape[0], x.shape[1], *size)


@njit(cache=True, error_model="numpy")
def _quantize(x: NDArray[np.float32], scale: np.float32, out: NDArray[np.int8]) -> bool:
    """Modify `out` in place; return False if x holds a NaN."""
    for i in range(x.size):
        code = np.rint(x[i] / scale)
        if np.isnan(code):
            return False
        out[i] = np.int8(min(max(code, np.float32(-128)), np.float32(127)))
    return True


@njit(cache=True)
def _add_codes(
    a: NDArray[np.int8],
    b: NDArray[np.int8],
    params: tuple[int, int, int, int],
    out: NDArray[np.int8],
) -> None:
    """Modify `out` in place; `params` is mul_a, mul_b, shift, lowest result."""
    mul_a, mul_b, shift, low = params
    for i in range(a.size):
        total = np.int64(a[i]) * mul_a + np.int64(b[i]) * mul_b
        out[i] = saturate(rne_shift(total, shift), low, 127)


@njit(cache=True)
def _requantize(x: NDArray[np.int16], mul: int, shift: int, out: NDArray[np.int8]) -> None:
    """Modify `out` in place."""
    for i in range(x.size):
        out[i] = saturate(rne_shift(np.int64(x[i]) * mul, shift), -128, 127)


@njit(cache=True)
def _pool_planes(
    x: NDArray[np.int8],
    window: tuple[int, int, int, int, int, int],
    mul: int,
    shift: int,
    out: NDArray[np.int8],
) -> None:
    """Modify `out` in place; `window` is kernel, stride, padding; mul -1 takes the maximum."""
    kh, kw, sh, sw, ph, pw = window
    planes, height, width = x.shape
    for plane in range(planes):
        for i in range(out.shape[1]):
            rows = range(max(0, i * sh - ph), min(height, i * sh - ph + kh))
            for j in range(out.shape[2]):
                columns = range(max(0, j * sw - pw), min(width, j * sw - pw + kw))
                total = np.int64(0)
                largest = np.int64(-128)
                for row in rows:
                    for column in columns:
                        code = np.int64(x[plane, row, column])
                        total += code
                        largest = max(largest, code)
                if mul < 0:
                    out[plane, i, j] = largest
                else:
                    out[plane, i, j] = saturate(rne_shift(total * mul, shift), -128, 127)


def relu(x: NDArray[Any]) -> NDArray[Any]:
    """Return max(x, 0) of codes or floats: -0 becomes +0, a NaN the canonical quiet NaN."""
    zero = np.zeros((), dtype=x.dtype)
    if x.dtype.kind == "i":
        return np.maximum(x, zero)
    kept = np.where(x > 0, x, zero)
    kept[np.isnan(x)] = np.nan
    return kept
