# SPDX-License-Identifier: Apache-2.0
"""Convolutions as matrix products, for every engine: geometry, im2col, and back to images."""

from __future__ import annotations

from typing import Any

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
) -> NDArray[np.int8]:
    """Unfold images into GEMM rows.

    Parameters
    ----------
    x : int8[B, C, H, W]
        Activation codes.

    Returns
    -------
    int8[B * OH * OW, C * kh * kw]
        Row (b, oh, ow), column (c, kh, kw); outside the image the code is 0.
    """
    check_codes(x, 4)
    batch, channels, height, width = x.shape
    oh, ow = conv_size((height, width), kernel, stride, padding, dilation)
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
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
) -> NDArray[Any]:
    """Return [B, N, OH, OW] of GEMM rows [B * OH * OW, N] in the order of :func:`im2col`.

    `in_shape` is that of the convolution's input, (B, C, H, W).
    """
    batch, _, height, width = in_shape
    oh, ow = conv_size((height, width), kernel, stride, padding, dilation)
    return np.ascontiguousarray(rows.reshape(batch, oh, ow, -1).transpose(0, 3, 1, 2))


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
