# SPDX-License-Identifier: Apache-2.0
"""Codec ``int4``: eight signed 4-bit codes to a 32-bit word, one row per output channel.

Code k of a row is nibble k % 8 of word k // 8, LSB first, so that the words of a row,
little-endian, are its nibbles in order::

    bit    31   28 27   24 23   20 19   16 15   12 11    8 7     4 3     0
    word  | k=7   | k=6   | k=5   | k=4   | k=3   | k=2   | k=1   | k=0   |

    byte          3              2              1              0

``twos``: the nibble is the code in two's complement. ``offset``: the nibble is the code + 8. A row
takes ceil(K / 8) words; nibbles at or above K decode to zero (0 in two's complement, 8 in offset
binary).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cosil.packed import checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "int4"
VERSION = 1
ENCODINGS = ("twos", "offset")
CODES_PER_WORD = 8


def encode(
    codes: NDArray[Any],
    *,
    encoding: Literal["twos", "offset"] = "twos",
    channel: NDArray[np.float32] | None = None,
    group: NDArray[np.float16] | None = None,
    group_size: int = 0,
) -> PackedTensor:
    """Pack int4 codes and their scales.

    Parameters
    ----------
    codes : int[N, K]
        Codes in -8..7, any integer dtype.
    encoding : {"twos", "offset"}
        Code of a nibble.
    channel : float32[N], optional
        Scale of each output channel; finite. May be left out where an epilogue holds it (fixed).
    group : float16[G, N], optional
        Scale of each group, G = ceil(K / group_size); finite, any sign. Given if and only if
        `group_size` > 0.
    group_size : int
        Codes of a row that share a group scale, 1..K, the last group may be short; 0 for none.

    Returns
    -------
    PackedTensor
        Shape (N, K), words uint32[N, ceil(K / 8)].

    Raises
    ------
    TypeError
        If the codes are not integers.
    ValueError
        If a code does not fit, or a scale has the wrong dtype or shape or is not finite.
    """
    narrow = checks.integer_codes(CODEC, codes, -8, 7)
    rows, k = narrow.shape
    word_count = -(-k // CODES_PER_WORD)
    nibbles = np.zeros((rows, word_count * CODES_PER_WORD), dtype=np.uint8)
    nibbles[:, :k] = narrow.view(np.uint8) & 15
    if encoding == "offset":
        nibbles ^= 8
    packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    scales: dict[str, NDArray[np.floating[Any]]] = {}
    if channel is not None:
        scales["channel"] = np.asarray(channel)
    if group is not None:
        scales["group"] = np.asarray(group)
    words = np.ascontiguousarray(packed).view("<u4").astype(np.uint32, copy=False)
    params: dict[str, str | int] = {"encoding": encoding, "group_size": group_size}
    tensor = PackedTensor(CODEC, VERSION, (rows, k), words, params, scales)
    check(tensor)
    return tensor


def decode(tensor: PackedTensor) -> NDArray[np.int8]:
    """Return the codes, int8[N, K] in -8..7; raise `PackedFormatError` on a malformed tensor."""
    check(tensor)
    rows, k = tensor.shape
    octets = np.ascontiguousarray(tensor.words, dtype="<u4").view(np.uint8)
    nibbles = np.empty((rows, octets.shape[1] * 2), dtype=np.uint8)
    np.bitwise_and(octets, 15, out=nibbles[:, 0::2])
    np.right_shift(octets, 4, out=nibbles[:, 1::2])
    codes = nibbles[:, :k]
    if tensor.params["encoding"] == "twos":
        codes = codes ^ np.uint8(8)
    return codes.view(np.int8) - np.int8(8)


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the words, padding included, and the scales take."""
    return 8 * (tensor.words.nbytes + sum(values.nbytes for values in tensor.scales.values()))


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes, dtypes and parameters.
    """
    rows, k = checks.layout(tensor, CODEC, CODES_PER_WORD)
    checks.only(CODEC, "parameter", tensor.params, ("encoding", "group_size"))
    encoding = tensor.params.get("encoding")
    if encoding not in ENCODINGS:
        raise PackedFormatError(
            CODEC, "encoding", f"encoding must be 'twos' or 'offset', not {encoding!r}"
        )
    size = tensor.params.get("group_size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= k:
        raise PackedFormatError(
            CODEC, "group size", f"group_size must be an int in 0..K = {k}, not {size!r}"
        )
    checks.only(CODEC, "scale", tensor.scales, ("channel", "group"))
    if "channel" in tensor.scales:
        checks.scale(
            CODEC, "channel", tensor.scales["channel"], "float32", (rows,), content=content
        )
    if ("group" in tensor.scales) != (size > 0):
        wanted = f"group_size {size} needs group scales" if size else "group_size 0 admits none"
        raise PackedFormatError(CODEC, "scales", f"group scales and group_size disagree: {wanted}")
    if size:
        groups = (-(-k // size), rows)
        checks.scale(CODEC, "group", tensor.scales["group"], "float16", groups, content=content)
    used = 4 * (k % CODES_PER_WORD)
    if not content or not used:
        return
    padding = (0 if encoding == "twos" else 0x88888888) >> used
    last = cast("NDArray[np.uint32]", tensor.words[:, -1]) >> np.uint32(used)
    if (last != padding).any():
        row = int(np.flatnonzero(last != padding)[0])
        raise PackedFormatError(
            CODEC, "padding", f"nibbles at or above K = {k} must decode to zero; row {row} differs"
        )
