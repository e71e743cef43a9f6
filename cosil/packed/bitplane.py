# SPDX-License-Identifier: Apache-2.0
"""Codec ``bitplane``: the cells of an analog array, one bit of 64 rows to a 64-bit word.

The K inputs of an output are cut in groups of `rows`; word j of a group holds its rows 64 j ..
64 j + 63 of one bit plane, LSB first, so that the words of a group, little-endian, are its rows'
bits in order::

    bit    63     62     61            2      1      0
    word  | r=63 | r=62 | r=61 | ... | r=2  | r=1  | r=0  |    input k = group * rows + r

Words lie output by output, plane by plane, group by group. ``twos``: plane p is bit p of the code
in two's complement, bits planes. ``differential``: planes 0 .. bits - 2 are max(code, 0), the
other bits - 1 are max(-code, 0). Bits of rows at or above the group's size or K are 0.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cosil.packed import bits as packing
from cosil.packed import checks
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

CODEC = "bitplane"
VERSION = 1
ENCODINGS = ("twos", "differential")
ROWS_MAX = 1024


def encode(
    codes: NDArray[Any],
    *,
    encoding: Literal["twos", "differential"] = "twos",
    bits: int = 4,
    rows: int = 128,
) -> PackedTensor:
    """Pack weight codes.

    Parameters
    ----------
    codes : int[N, K]
        Any integer dtype; ``twos``: -2**(bits - 1) .. 2**(bits - 1) - 1; ``differential``:
        magnitudes up to 2**(bits - 1) - 1.
    encoding : {"twos", "differential"}
        What the planes hold.
    bits : int
        Bits of a code, 2..8.
    rows : int
        Rows of a group, 1..1024.

    Returns
    -------
    PackedTensor
        Shape (N, K), words uint64[N, planes, ceil(K / rows), ceil(rows / 64)].

    Raises
    ------
    TypeError
        If the codes are not integers.
    ValueError
        If a code does not fit, or a parameter is not one of these.
    """
    params: dict[str, str | int] = {"encoding": encoding, "bits": bits, "rows": rows}
    _check_params(params)
    most = (1 << (bits - 1)) - 1
    least = -most if encoding == "differential" else -most - 1
    narrow = checks.integer_codes(CODEC, codes, least, most)
    n, k = narrow.shape
    groups, words = _sizes(k, rows)
    shape = (n, planes(encoding, bits), groups, words)
    packed = np.empty(shape, dtype=np.uint64)
    grouped = np.zeros((n, groups * rows), dtype=np.int8)
    grouped[:, :k] = narrow
    for plane in range(shape[1]):
        magnitudes, bit = grouped, plane
        if encoding == "differential":
            sign, bit = divmod(plane, bits - 1)
            magnitudes = np.maximum(-grouped if sign else grouped, 0)
        ones = (magnitudes.view(np.uint8) >> np.uint8(bit)) & np.uint8(1)
        packed[:, plane] = packing.pack(ones.reshape(n, groups, rows))
    tensor = PackedTensor(CODEC, VERSION, (n, k), packed, params)
    check(tensor)
    return tensor


def decode(tensor: PackedTensor) -> NDArray[np.int8]:
    """Return the codes, int8[N, K]; raise `PackedFormatError` on a malformed tensor."""
    check(tensor)
    n, k = tensor.shape
    encoding, bits, rows = (tensor.params[name] for name in ("encoding", "bits", "rows"))
    bits, rows = cast("int", bits), cast("int", rows)
    words = cast("NDArray[np.uint64]", tensor.words)
    total = np.zeros((n, words.shape[2] * rows), dtype=np.int16)
    for plane in range(words.shape[1]):
        ones = packing.unpack(words[:, plane], rows).reshape(n, -1)
        weight = 1 << plane
        if encoding == "differential":
            sign, bit = divmod(plane, bits - 1)
            weight = -(1 << bit) if sign else 1 << bit
        elif plane == bits - 1:
            weight = -weight
        total += ones * np.int16(weight)
    return total[:, :k].astype(np.int8)


def planes(encoding: str, bits: int) -> int:
    """Return the bit planes of an output."""
    return 2 * (bits - 1) if encoding == "differential" else bits


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that the words, padding included, take."""
    return 8 * tensor.words.nbytes


def check(tensor: PackedTensor, *, content: bool = True) -> None:
    """Raise `PackedFormatError` unless the tensor is one that `encode` could have made.

    With `content` false only what precedes the data is checked: shapes, dtypes and parameters.
    """
    checks.head(tensor, CODEC)
    checks.only(CODEC, "parameter", tensor.params, ("encoding", "bits", "rows"))
    checks.only(CODEC, "scale", tensor.scales, ())
    encoding, bits, rows = _check_params(tensor.params)
    n, k = checks.matrix(tensor, CODEC)
    checks.words(tensor, CODEC, "uint64", (n, planes(encoding, bits), *_sizes(k, rows)))
    if content:
        _check_content(cast("NDArray[np.uint64]", tensor.words), encoding, k, bits, rows)


def _check_content(words: NDArray[np.uint64], encoding: str, k: int, bits: int, rows: int) -> None:
    # Rows that the words of a group, and those of the last group, really have.
    in_last = k - (words.shape[2] - 1) * rows
    for used, size, name in (
        (np.bitwise_or.reduce(words, axis=(1, 2)), rows, "the rows of a group"),
        (np.bitwise_or.reduce(words[:, :, -1], axis=1), in_last, f"K = {k}"),
    ):
        stray = used & ~packing.mask(size, words.shape[3])
        if stray.any():
            row = int(np.flatnonzero(stray.any(axis=1))[0])
            raise PackedFormatError(
                CODEC, "padding", f"bits at or above {name} must be 0; output {row} differs"
            )
    if encoding == "differential":
        positive = np.bitwise_or.reduce(words[:, : bits - 1], axis=1)
        positive &= np.bitwise_or.reduce(words[:, bits - 1 :], axis=1)
        if positive.any():
            row = int(np.flatnonzero(positive.any(axis=(1, 2)))[0])
            raise PackedFormatError(
                CODEC,
                "differential",
                f"a code must have positive or negative bits, not both; output {row} differs",
            )


def _sizes(k: int, rows: int) -> tuple[int, int]:
    """Return the groups of K inputs and the words of a group."""
    return -(-k // rows), packing.words_of(rows)


def _check_params(params: Any) -> tuple[str, int, int]:
    encoding = params.get("encoding")
    if encoding not in ENCODINGS:
        raise PackedFormatError(
            CODEC, "encoding", f"encoding must be 'twos' or 'differential', not {encoding!r}"
        )
    found: list[int] = []
    for name, low, high in (("bits", 2, 8), ("rows", 1, ROWS_MAX)):
        value = params.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise PackedFormatError(
                CODEC, name, f"{name} must be an int in {low}..{high}, not {value!r}"
            )
        found.append(value)
    return encoding, found[0], found[1]
