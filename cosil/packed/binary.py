# SPDX-License-Identifier: Apache-2.0
"""Codec ``binary``: weights -1 and +1, 64 signs to a 64-bit word, LSB first.

Each row of a weight begins a word::

    bit    63      62      61            2      1      0
    word  | k=63  | k=62  | k=61  | ... | k=2  | k=1  | k=0  |    word j: k = 64 j .. 64 j + 63

``one_is_plus``: a set bit is +1, as in FINN and BNN-PYNQ; ``one_is_minus``: it is -1, as in Larq
Compute Engine. Bits at or above K are 0 in both.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cosil.packed import bits, checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "binary"
VERSION = 1
POLARITIES = ("one_is_plus", "one_is_minus")


def encode(
    codes: NDArray[Any], *, polarity: Literal["one_is_plus", "one_is_minus"] = "one_is_plus"
) -> PackedTensor:
    """Pack weight codes.

    Parameters
    ----------
    codes : int[N, K]
        -1 or +1, any signed integer dtype.
    polarity : {"one_is_plus", "one_is_minus"}
        What a set bit stands for.

    Returns
    -------
    PackedTensor
        Shape (N, K), words uint64[N, ceil(K / 64)].

    Raises
    ------
    TypeError
        If the codes are not integers.
    ValueError
        If a code is neither -1 nor +1, or the polarity is not one of these.
    """
    _check_polarity(polarity)
    narrow = checks.integer_codes(CODEC, codes, -1, 1)
    if not narrow.all():
        raise ValueError(f"{CODEC}: codes must be -1 or 1, not 0; use codec 'ternary' for zeros")
    words = bits.pack(narrow > 0 if polarity == "one_is_plus" else narrow < 0)
    return PackedTensor(CODEC, VERSION, narrow.shape, words, {"polarity": polarity})


def decode(tensor: PackedTensor) -> NDArray[np.int8]:
    """Return the codes, int8[N, K]; raise `PackedFormatError` on a malformed tensor."""
    plus = bits.unpack(plus_words(tensor), tensor.shape[1]).view(np.int8)
    return plus + plus - np.int8(1)


def plus_words(tensor: PackedTensor) -> NDArray[np.uint64]:
    """Return the words, uint64[N, ceil(K / 64)], with 1 for +1, whatever the tensor's polarity.

    Raises
    ------
    PackedFormatError
        If the tensor is malformed.
    """
    check(tensor)
    words = cast("NDArray[np.uint64]", tensor.words)
    if tensor.params["polarity"] == "one_is_plus":
        return words
    return words ^ bits.mask(tensor.shape[1], words.shape[1])


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the words, padding included, take."""
    return 8 * tensor.words.nbytes


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes, dtypes and parameters.
    """
    checks.head(tensor, CODEC)
    checks.only(CODEC, "parameter", tensor.params, ("polarity",))
    checks.only(CODEC, "scale", tensor.scales, ())
    _check_polarity(tensor.params.get("polarity"))
    checks.bit_words(tensor, CODEC, (), content=content)


def _check_polarity(polarity: Any) -> None:
    if polarity not in POLARITIES:
        raise PackedFormatError(
            CODEC,
            "polarity",
            f"polarity must be 'one_is_plus' or 'one_is_minus', not {polarity!r}",
        )
