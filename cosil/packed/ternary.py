# SPDX-License-Identifier: Apache-2.0
"""Codec ``ternary``: weights -1, 0 and +1 as two planes of 64-bit words, LSB first.

Each row of a weight begins a word in either plane::

    bit     63      62      61            2      1      0
    word   | k=63  | k=62  | k=61  | ... | k=2  | k=1  | k=0  |    word j: k = 64 j .. 64 j + 63

    plane 0, sign: 1 where the code is +1       plane 1, non-zero: 1 where it is not 0

The words of an output are its sign plane, then its non-zero plane. Bits at or above K are 0.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cosil.packed import bits, checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "ternary"
VERSION = 1
PLANES = 2


def encode(codes: NDArray[Any]) -> PackedTensor:
    """Pack weight codes.

    Parameters
    ----------
    codes : int[N, K]
        -1, 0 or +1, any signed integer dtype.

    Returns
    -------
    PackedTensor
        Shape (N, K), words uint64[N, 2, ceil(K / 64)].

    Raises
    ------
    TypeError
        If the codes are not integers.
    ValueError
        If a code is not one of these.
    """
    narrow = checks.integer_codes(CODEC, codes, -1, 1)
    words = np.stack([bits.pack(narrow > 0), bits.pack(narrow)], axis=1)
    return PackedTensor(CODEC, VERSION, narrow.shape, words)


def decode(tensor: PackedTensor) -> NDArray[np.int8]:
    """Return the codes, int8[N, K]; raise `PackedFormatError` on a malformed tensor."""
    check(tensor)
    planes = bits.unpack(cast("NDArray[np.uint64]", tensor.words), tensor.shape[1]).view(np.int8)
    return planes[:, 0] + planes[:, 0] - planes[:, 1]


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the words, padding included, take."""
    return 8 * tensor.words.nbytes


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes and dtypes.
    """
    checks.head(tensor, CODEC)
    checks.only(CODEC, "parameter", tensor.params, ())
    checks.only(CODEC, "scale", tensor.scales, ())
    checks.bit_words(tensor, CODEC, (PLANES,), content=content)
    if content:
        words = cast("NDArray[np.uint64]", tensor.words)
        stray = (words[:, 0] & ~words[:, 1]).any(axis=1)
        if stray.any():
            row = int(np.flatnonzero(stray)[0])
            raise PackedFormatError(
                CODEC, "sign", f"the sign bit of a code 0 must be 0; output {row} differs"
            )
