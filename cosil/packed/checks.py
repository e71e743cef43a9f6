# SPDX-License-Identifier: Apache-2.0
"""Checks that the codecs share: what `encode` accepts and what a packed tensor may hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed import bits
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor


def integer_codes(codec: str, codes: NDArray[Any], low: int, high: int) -> NDArray[np.int8]:
    """Return `codes` as int8[N, K]; refuse other ranks, floats and codes outside low..high."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"{codec}: codes must have shape (N, K) with N, K >= 1, not {codes.shape}")
    if codes.dtype.kind not in "iu":
        raise TypeError(f"{codec}: codes must be integers, not {codes.dtype}; round them first")
    least, most = int(codes.min()), int(codes.max())
    if least < low or most > high:
        bad = least if least < low else most
        raise ValueError(f"{codec}: codes must be in {low}..{high}, not {bad}; clamp them first")
    return codes.astype(np.int8, copy=False)


def layout(tensor: PackedTensor, codec: str, codes_per_word: int) -> tuple[int, int]:
    """Check codec, version, shape and words of a two-dimensional codec; return (N, K)."""
    head(tensor, codec)
    rows, k = matrix(tensor, codec)
    words(tensor, codec, "uint32", (rows, -(-k // codes_per_word)))
    return rows, k


def matrix(tensor: PackedTensor, codec: str) -> tuple[int, int]:
    """Check that the logical shape is (N, K); return it."""
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise PackedFormatError(
            codec, "shape", f"shape must be (N, K) with N, K >= 1, not {tensor.shape}"
        )
    return tensor.shape


def words(tensor: PackedTensor, codec: str, dtype: str, expected: tuple[int, ...]) -> None:
    """Check dtype and shape of the words."""
    if tensor.words.dtype != np.dtype(dtype) or tensor.words.shape != expected:
        raise PackedFormatError(
            codec,
            "words",
            f"words of shape {tensor.shape} must be {dtype}{list(expected)}, "
            f"not {tensor.words.dtype}{list(tensor.words.shape)}",
        )


def bit_words(tensor: PackedTensor, codec: str, planes: tuple[int, ...], *, content: bool) -> None:
    """Check shape and words uint64[N, *planes, ceil(K / 64)] of a codec of single bits.

    With `content` also that bits at or above K are 0.
    """
    n, k = matrix(tensor, codec)
    length = bits.words_of(k)
    words(tensor, codec, "uint64", (n, *planes, length))
    if content:
        last = tensor.words[..., -1] & ~bits.mask(k, length)[-1]
        if last.any():
            row = int(np.flatnonzero(last.reshape(n, -1).any(axis=1))[0])
            raise PackedFormatError(
                codec, "padding", f"bits at or above K = {k} must be 0; output {row} differs"
            )


def head(tensor: PackedTensor, codec: str, version: int = 1) -> None:
    """Check the codec's name and version."""
    if tensor.codec != codec:
        raise PackedFormatError(codec, "codec", f"codec must be {codec!r}, not {tensor.codec!r}")
    if tensor.version != version:
        raise PackedFormatError(
            codec, "codec version", f"version must be {version}, not {tensor.version!r}"
        )


def only(subject: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names outside `known`."""
    known = tuple(known)
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise PackedFormatError(subject, kind, f"unknown {kind} {name!r}; known are {listed}")


def scale(
    subject: str,
    name: str,
    values: NDArray[Any],
    dtype: str,
    shape: tuple[int, ...],
    *,
    content: bool,
) -> None:
    """Check one scale array: dtype, shape and, with `content`, that all are finite."""
    if values.dtype != np.dtype(dtype) or values.shape != shape:
        raise PackedFormatError(
            subject,
            "scales",
            f"{name} scales must be {dtype}{list(shape)}, not {values.dtype}{list(values.shape)}",
        )
    if content and not np.isfinite(values).all():
        raise PackedFormatError(subject, "finite", f"{name} scales must be finite")
