# SPDX-License-Identifier: Apache-2.0
"""Codecs: golden words, round trips, refusals."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cosil.packed import int4, int8, raw
from cosil.packed.errors import PackedFormatError

ROW = np.arange(-8, 0, dtype=np.int8)[None]


@pytest.mark.parametrize(
    ("codes", "encoding", "word"),
    [
        (ROW, "offset", 0x76543210),  # w4a8.md section 14: compressed-tensors row [-8..-1]
        (ROW, "twos", 0xFEDCBA98),
        (np.arange(8)[None], "twos", 0x76543210),  # GPTQ codes 0..7 along K
        (np.arange(8)[None], "offset", 0xFEDCBA98),
        ([[1]], "twos", 0x00000001),
        ([[1]], "offset", 0x88888889),  # padding is 8 in offset binary
        ([[-1, -8, 7]], "twos", 0x0000078F),
        ([[-1, -8, 7]], "offset", 0x88888F07),
    ],
)
def test_int4_golden_words(codes: object, encoding: str, word: int) -> None:
    """Words equal those of the published layouts, bit for bit."""
    tensor = int4.encode(np.asarray(codes), encoding=encoding)  # pyright: ignore[reportArgumentType]
    assert [[word]] == tensor.words.tolist()


def test_int8_golden_words() -> None:
    """Four codes to a word, LSB first, padding zero."""
    tensor = int8.encode(np.array([[1, -1, 127, -128, 5]]))
    assert [[0x807FFF01, 0x00000005]] == tensor.words.tolist()


@pytest.mark.parametrize("encoding", ["twos", "offset"])
@settings(deadline=None)
@given(data=st.data())
def test_int4_round_trip(encoding: str, data: st.DataObject) -> None:
    """decode(encode(x)) = x, and each nibble is where the formula of the format says."""
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 35)))
    codes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-8, 7)))
    size = data.draw(st.integers(0, shape[1]))
    group = None
    if size:
        group = np.ones((-(-shape[1] // size), shape[0]), np.float16)
    tensor = int4.encode(codes, encoding=encoding, group=group, group_size=size)  # pyright: ignore[reportArgumentType]
    assert codes.tolist() == int4.decode(tensor).tolist()
    assert (shape[0], -(-shape[1] // 8)) == tensor.words.shape
    for n in range(shape[0]):
        for k in range(tensor.words.shape[1] * 8):
            nibble = (int(tensor.words[n, k // 8]) >> (4 * (k % 8))) & 15
            value = nibble - 8 if encoding == "offset" else nibble - 16 * (nibble >= 8)
            assert (int(codes[n, k]) if k < shape[1] else 0) == value


@settings(deadline=None)
@given(
    codes=hnp.arrays(
        np.int8, st.tuples(st.integers(1, 5), st.integers(1, 13)), elements=st.integers(-128, 127)
    )
)
def test_int8_round_trip(codes: np.ndarray) -> None:
    """decode(encode(x)) = x."""
    tensor = int8.encode(codes)
    assert codes.tolist() == int8.decode(tensor).tolist()
    assert 32 * codes.shape[0] * -(-codes.shape[1] // 4) == int8.stored_bits(tensor)


@pytest.mark.parametrize("dtype", raw.DTYPES)
def test_raw_round_trip(dtype: str) -> None:
    """A raw tensor holds a copy of the array and its dtype."""
    array = np.arange(12).reshape(3, 4).astype(dtype)
    tensor = raw.encode(array.T)
    assert array.T.tolist() == raw.decode(tensor).tolist()
    assert dtype == raw.decode(tensor).dtype.name
    assert 12 * array.itemsize * 8 == raw.stored_bits(tensor)
    array[:] = 0
    assert raw.decode(tensor).any()


def test_stored_bits_counts_words_padding_and_scales() -> None:
    """Nine codes take two words a row, a channel scale 32 bit, a group scale 16 bit."""
    tensor = int4.encode(
        np.zeros((2, 9), np.int8),
        channel=np.ones(2, np.float32),
        group=np.ones((3, 2), np.float16),
        group_size=4,
    )
    assert 2 * 2 * 32 + 2 * 32 + 3 * 2 * 16 == int4.stored_bits(tensor)


ONES = np.ones((2, 9), np.int8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codes": ONES * 8}, "int4: codes must be in -8..7, not 8; clamp them first"),
        ({"codes": ONES * -9}, "int4: codes must be in -8..7, not -9; clamp them first"),
        ({"codes": ONES[0]}, "int4: codes must have shape (N, K) with N, K >= 1, not (9,)"),
        ({"codes": ONES[:, :0]}, "int4: codes must have shape (N, K) with N, K >= 1, not (2, 0)"),
        (
            {"codes": ONES, "encoding": "gray"},
            "int4: encoding must be 'twos' or 'offset', not 'gray'",
        ),
        (
            {"codes": ONES, "group_size": 10},
            "int4: group_size must be an int in 0..K = 9, not 10",
        ),
        (
            {"codes": ONES, "group_size": 4},
            "int4: group scales and group_size disagree: group_size 4 needs group scales",
        ),
        (
            {"codes": ONES, "group": np.ones((1, 2), np.float16)},
            "int4: group scales and group_size disagree: group_size 0 admits none",
        ),
        (
            {"codes": ONES, "group_size": 4, "group": np.ones((2, 2), np.float16)},
            "int4: group scales must be float16[3, 2], not float16[2, 2]",
        ),
        (
            {"codes": ONES, "group_size": 9, "group": np.full((1, 2), np.inf, np.float16)},
            "int4: group scales must be finite",
        ),
        (
            {"codes": ONES, "channel": np.array([1, np.nan], np.float32)},
            "int4: channel scales must be finite",
        ),
        (
            {"codes": ONES, "channel": np.ones(2)},
            "int4: channel scales must be float32[2], not float64[2]",
        ),
    ],
)
def test_int4_refuses(kwargs: dict[str, object], message: str) -> None:
    """What does not fit raises, and the message says what was expected."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        int4.encode(**kwargs)  # pyright: ignore[reportArgumentType]


def test_codes_must_be_integers() -> None:
    """A float array is a TypeError: rounding is the caller's decision."""
    with pytest.raises(TypeError, match=r"^int8: codes must be integers, not float64; round"):
        int8.encode(np.ones((1, 1)))


@pytest.mark.parametrize(("encoding", "flip"), [("twos", 0x10), ("offset", 0x10)])
def test_padding_must_decode_to_zero(encoding: str, flip: int) -> None:
    """A stray bit above K is refused, in each encoding."""
    tensor = int4.encode(np.zeros((2, 1), np.int8), encoding=encoding)  # pyright: ignore[reportArgumentType]
    tensor.words[1, 0] ^= flip
    with pytest.raises(PackedFormatError, match=r"^int4: nibbles at or above K = 1 .* row 1 diff"):
        int4.decode(tensor)
    wide = int8.encode(np.zeros((2, 3), np.int8))
    wide.words[1, 0] ^= 1 << 24
    with pytest.raises(PackedFormatError, match=r"^int8: bytes at or above K = 3 .* row 1 differs"):
        int8.decode(wide)


def test_raw_refuses() -> None:
    """Non-finite floats, wide types and scalars are refused."""
    with pytest.raises(PackedFormatError, match=r"^raw: floats must be finite$"):
        raw.encode(np.array([np.inf], np.float16))
    with pytest.raises(PackedFormatError, match=r"^raw: dtype must be one of .*, not float64$"):
        raw.encode(np.ones(1))
    with pytest.raises(PackedFormatError, match=r"^raw: shape must have 1 to 8 axes"):
        raw.encode(np.array(1, np.float32))


def test_codec_and_version_are_checked() -> None:
    """A tensor of another codec or of a later version is not decoded."""
    tensor = int8.encode(np.zeros((1, 1), np.int8))
    with pytest.raises(PackedFormatError, match=r"^int4: codec must be 'int4', not 'int8'$"):
        int4.decode(tensor)
    with pytest.raises(PackedFormatError, match=r"^int8: version must be 1, not 2$"):
        int8.decode(replace(tensor, version=2))
