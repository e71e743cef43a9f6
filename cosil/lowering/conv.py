# SPDX-License-Identifier: Apache-2.0
"""Convolutions as matrix products, for every engine: geometry, im2col, and back to images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cosil.packed.network import Node

Pair = tuple[int, int]


def conv_geometry(node: Node) -> dict[str, Any]:
    """Return kernel, stride, padding, dilation and groups of a conv2d node as keyword arguments."""
    attrs = node.attrs
    geometry: dict[str, Any] = {
        "kernel": pair(attrs["kernel"]),
        "groups": int(attrs.get("groups", 1)),
    }
    for key, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
        geometry[key] = pair(attrs.get(key, (default, default)))
    return geometry


def im2col(
    x: NDArray[np.int8],
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
) -> NDArray[np.int8]:
    """Unfold images into GEMM rows.

    Parameters
    ----------
    x : int8[B, C, H, W]
        Activation codes.
    pad_value : int
        Code outside the image.

    Returns
    -------
    int8[B * OH * OW, C * kh * kw]
        Row (b, oh, ow), column (c, kh, kw).
    """
    check_codes(x, 4)
    batch, channels, height, width = x.shape
    oh, ow = conv_size((height, width), kernel, stride, padding, dilation)
    borders = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    padded = np.pad(x, borders, constant_values=pad_value)
    reach = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    rows = windows.transpose(0, 2, 3, 1, 4, 5)
    return np.ascontiguousarray(rows).reshape(batch * oh * ow, channels * kernel[0] * kernel[1])


def conv_images(
    rows: NDArray[Any],
    in_shape: tuple[int, ...],
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pool: Pair = (1, 1),
) -> NDArray[Any]:
    """Return [B, N, OH, OW] of GEMM rows [B * OH * OW, N] in the order of :func:`im2col`.

    `in_shape` is that of the convolution's input, (B, C, H, W). With `pool` a row is the result of
    a window of so many positions, which do not overlap; positions in no window have none.
    """
    batch, _, height, width = in_shape
    oh, ow = conv_size((height, width), kernel, stride, padding, dilation)
    oh, ow = oh // pool[0], ow // pool[1]
    return np.ascontiguousarray(rows.reshape(batch, oh, ow, -1).transpose(0, 3, 1, 2))


class Borders(NamedTuple):
    """Kinds of windows of an image by which of their inputs are padded.

    Attributes
    ----------
    padded : bool[classes, kh, kw]
        Whether an input lies outside the image; class 0 is the inside where there is one.
    positions : intp[OH, OW]
        Class of each output position.
    """

    padded: NDArray[np.bool_]
    positions: NDArray[np.intp]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.padded.shape[0]


def borders(
    size: Pair,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pool: Pair = (1, 1),
    zeros: bool = True,
) -> Borders:
    """Return the kinds of windows of a convolution of images (H, W).

    Positions in no pool window count for no class. Without `zeros` the padding is as good as any
    input: one class, nothing padded.
    """
    kinds: list[NDArray[np.bool_]] = []
    classes: list[NDArray[np.intp]] = []
    for axis, total in enumerate(conv_size(size, kernel, stride, padding, dilation)):
        first = np.arange(total) * stride[axis] - padding[axis]
        place: NDArray[np.intp] = first[:, None] + np.arange(kernel[axis]) * dilation[axis]
        outside: NDArray[np.bool_] = ((place < 0) | (place >= size[axis])) & np.bool_(zeros)
        used = total - total % pool[axis]
        found, inverse = np.unique(outside[:used], axis=0, return_inverse=True)
        kinds.append(found)
        classes.append(np.pad(inverse.reshape(-1), (0, total - used)))
    rows, columns = kinds
    padded = (rows[:, None, :, None] | columns[None, :, None, :]).reshape(-1, *kernel)
    return Borders(padded, classes[0][:, None] * columns.shape[0] + classes[1])


def windows(positions: NDArray[Any], pool: Pair) -> NDArray[Any]:
    """Return [M, W] of output positions [B, OH, OW, W], those of a pool window one after the other.

    Windows do not overlap; those that do not fit are left out.
    """
    batch, height, width, words = positions.shape
    oh, ow = height // pool[0], width // pool[1]
    inside = positions[:, : oh * pool[0], : ow * pool[1]]
    split = inside.reshape(batch, oh, pool[0], ow, pool[1], words)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4, 5)).reshape(-1, words)


def conv_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """Return (OH, OW) of a convolution or pooling; refuse a kernel that does not fit."""
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ValueError(
            "conv2d: stride and dilation must be at least 1 and padding at least 0, "
            f"not {stride}, {dilation} and {padding}"
        )
    out: list[int] = []
    for i in range(2):
        span = size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        if span < 0:
            raise ValueError(
                f"conv2d: kernel {kernel} with dilation {dilation} does not fit an image of {size} "
                f"with padding {padding}"
            )
        out.append(span // stride[i] + 1)
    return out[0], out[1]


def check_codes(codes: NDArray[Any], ndim: int) -> None:
    """Refuse activation codes that are not int8 of that many axes, none empty."""
    if codes.dtype != np.int8:
        raise TypeError(f"gemm: activation codes must be int8, not {codes.dtype}")
    if codes.ndim != ndim or 0 in codes.shape:
        raise ValueError(
            f"gemm: activation codes must have {ndim} dimensions, none empty, "
            f"not shape {codes.shape}"
        )


def pair(value: Any) -> Pair:
    """Return an attribute of two integers (kernel, stride, padding, dilation)."""
    first, second = value
    return int(first), int(second)
