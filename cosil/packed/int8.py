# SPDX-License-Identifier: Apache-2.0
"""Codec ``int8``: four signed 8-bit codes to a 32-bit word, two's complement.

Code k of a row is byte k % 4 of word k // 4, LSB first, so that a row, little-endian, is its codes
in order::

    bit    31           24 23           16 15            8 7             0
    word  | k=3           | k=2           | k=1           | k=0           |

A row takes ceil(K / 4) words; bytes at or above K are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed import checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "int8"
VERSION = 1
CODES_PER_WORD = 4


def encode(codes: NDArray[Any], *, channel: NDArray[np.float32] | None = None) -> PackedTensor:
    """Pack int8 codes.

    Parameters
    ----------
    codes : int[N, K]
        Codes in -128..127, any integer dtype.
    channel : float32[N], optional
        Scale of each row; finite.

    Returns
    -------
    PackedTensor
        Shape (N, K), words uint32[N, ceil(K / 4)].

    Raises
    ------
    TypeError
        If the codes are not integers.
    ValueError
        If a code does not fit, or a scale has the wrong dtype or shape or is not finite.
    """
    narrow = checks.integer_codes(CODEC, codes, -128, 127)
    rows, k = narrow.shape
    padded = np.zeros((rows, -(-k // CODES_PER_WORD) * CODES_PER_WORD), dtype=np.int8)
    padded[:, :k] = narrow
    words = padded.view("<u4").astype(np.uint32, copy=False)
    scales = {} if channel is None else {"channel": np.asarray(channel)}
    tensor = PackedTensor(CODEC, VERSION, (rows, k), words, {}, scales)
    check(tensor)
    return tensor


def decode(tensor: PackedTensor) -> NDArray[np.int8]:
    """Return the codes, int8[N, K]; raise `PackedFormatError` on a malformed tensor."""
    check(tensor)
    octets = np.ascontiguousarray(tensor.words, dtype="<u4").view(np.int8)
    return octets[:, : tensor.shape[1]].copy()


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the words, padding included, and the scales take."""
    return 8 * (tensor.words.nbytes + sum(values.nbytes for values in tensor.scales.values()))


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes, dtypes and parameters.
    """
    rows, k = checks.layout(tensor, CODEC, CODES_PER_WORD)
    checks.only(CODEC, "parameter", tensor.params, ())
    checks.only(CODEC, "scale", tensor.scales, ("channel",))
    if "channel" in tensor.scales:
        checks.scale(
            CODEC, "channel", tensor.scales["channel"], "float32", (rows,), content=content
        )
    rest = k % CODES_PER_WORD
    if content and rest and (tensor.words[:, -1] >> np.uint32(8 * rest)).any():
        row = int(np.flatnonzero(tensor.words[:, -1] >> np.uint32(8 * rest))[0])
        raise PackedFormatError(
            CODEC, "padding", f"bytes at or above K = {k} must be zero; row {row} differs"
        )
