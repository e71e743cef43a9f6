# SPDX-License-Identifier: Apache-2.0
"""Codec ``raw``: an array as it is (tables, biases, parameters), little-endian, row-major.

The diagram of its bytes::

byte   0 .. w-1     w .. 2w-1    ...          w = bytes of an element
      | element 0  | element 1  | ...         last axis fastest
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed import checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "raw"
VERSION = 1
DTYPES = (
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
)  # fmt: skip
MAX_RANK = 8


def encode(array: NDArray[Any]) -> PackedTensor:
    """Wrap an array.

    Parameters
    ----------
    array : ndarray
        1 to 8 axes, none empty; integer of 8 to 64 bits, float16 or float32; floats are finite.

    Returns
    -------
    PackedTensor
        `words` is a copy of the array, contiguous.

    Raises
    ------
    ValueError
        If the dtype or shape is not one of these, or a float is not finite.
    """
    words = np.array(array, order="C", copy=True)
    tensor = PackedTensor(CODEC, VERSION, tuple(words.shape), words)
    check(tensor)
    return tensor


def decode(tensor: PackedTensor) -> NDArray[Any]:
    """Return the array; raise `PackedFormatError` on a malformed tensor."""
    check(tensor)
    return tensor.words


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the array takes."""
    return 8 * tensor.words.nbytes


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes, dtypes and parameters.
    """
    checks.head(tensor, CODEC)
    checks.only(CODEC, "parameter", tensor.params, ())
    checks.only(CODEC, "scale", tensor.scales, ())
    shape, words = tensor.shape, tensor.words
    if not 1 <= len(shape) <= MAX_RANK or min(shape) < 1 or words.shape != shape:
        raise PackedFormatError(
            CODEC,
            "shape",
            f"shape must have 1 to {MAX_RANK} axes of at least 1 and be that of the words, "
            f"not {shape} with words {words.shape}",
        )
    if words.dtype.name not in DTYPES or not words.dtype.isnative:
        raise PackedFormatError(
            CODEC, "dtype", f"dtype must be one of {', '.join(DTYPES)}, not {words.dtype}"
        )
    if content and words.dtype.kind == "f" and not np.isfinite(words).all():
        raise PackedFormatError(CODEC, "finite", "floats must be finite")
