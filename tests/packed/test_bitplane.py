# SPDX-License-Identifier: Apache-2.0
"""Codec bitplane: golden words, round trip against the formula of the page, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.packed import bitplane, codecs
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

EVERY = 2**64 - 1


@pytest.mark.parametrize(
    ("codes", "params", "words"),
    [
        ([[1, -1, -8, 7]], {"rows": 4}, [[[[0b1011]], [[0b1010]], [[0b1010]], [[0b0110]]]]),
        (
            [[1, -1, -7, 7]],
            {"rows": 4, "encoding": "differential"},
            [[[[0b1001]], [[0b1000]], [[0b1000]], [[0b0110]], [[0b0100]], [[0b0100]]]],
        ),
        ([[-1] * 65], {"rows": 65, "bits": 2}, [[[[EVERY, 1]], [[EVERY, 1]]]]),
        ([[-1] * 65], {"rows": 64, "bits": 2}, [[[[EVERY], [1]], [[EVERY], [1]]]]),
        ([[-2], [1]], {"rows": 1, "bits": 2}, [[[[0]], [[1]]], [[[1]], [[0]]]]),
        ([[1]], {"rows": 128, "bits": 2}, [[[[1, 0]], [[0, 0]]]]),
    ],
)
def test_golden_words(codes: Any, params: dict[str, Any], words: Any) -> None:
    """Words are those that the diagram gives by hand: output, plane, group, word, LSB first."""
    tensor = bitplane.encode(np.array(codes), **params)
    assert words == tensor.words.tolist()
    assert tensor.words.dtype == np.uint64
    assert codes == bitplane.decode(tensor).tolist()


@settings(deadline=None)
@given(
    st.sampled_from(["twos", "differential"]),
    st.integers(2, 8),
    st.sampled_from([1, 3, 9, 63, 64, 65, 130]),
    st.integers(1, 4),
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(encoding: Any, bits: int, rows: int, n: int, k: int, seed: int) -> None:
    """decode(encode(x)) = x, and every bit is where section 7 of the page says; the rest is 0."""
    most = 2 ** (bits - 1) - 1
    least = -most if encoding == "differential" else -most - 1
    codes = np.random.default_rng(seed).integers(least, most + 1, (n, k))
    codes[0, 0], codes[-1, -1] = least, most
    tensor = bitplane.encode(codes, encoding=encoding, bits=bits, rows=rows)
    np.testing.assert_array_equal(codes, bitplane.decode(tensor))
    words = tensor.words.tolist()
    total = 0
    for i in range(n):
        for j in range(k):
            code, (group, row) = int(codes[i, j]), divmod(j, rows)
            held = [code % 2**bits]
            if encoding == "differential":
                held = [max(code, 0), max(-code, 0)]
            each = bits if encoding == "twos" else bits - 1
            for part, value in enumerate(held):
                for bit in range(each):
                    word = words[i][part * each + bit][group][row // 64]
                    assert word >> (row % 64) & 1 == value >> bit & 1
                    total += value >> bit & 1
    assert total == int(np.bitwise_count(tensor.words).sum())
    assert 64 * n * len(words[0]) * -(-k // rows) * -(-rows // 64) == bitplane.stored_bits(tensor)
    assert codecs.codec(tensor) is bitplane


CODES = np.ones((2, 70), np.int8)


@pytest.mark.parametrize(
    ("codes", "kwargs", "message"),
    [
        (CODES * 8, {}, "codes must be in -8..7, not 8; clamp them first"),
        (CODES * -8, {"encoding": "differential"},
         "codes must be in -7..7, not -8; clamp them first"),
        (CODES[0], {}, "codes must have shape (N, K) with N, K >= 1, not (70,)"),
        (CODES, {"encoding": "offset"}, "encoding must be 'twos' or 'differential', not 'offset'"),
        (CODES, {"bits": 1}, "bits must be an int in 2..8, not 1"),
        (CODES, {"bits": 9}, "bits must be an int in 2..8, not 9"),
        (CODES, {"rows": 0}, "rows must be an int in 1..1024, not 0"),
        (CODES, {"rows": 1025}, "rows must be an int in 1..1024, not 1025"),
        (CODES, {"rows": True}, "rows must be an int in 1..1024, not True"),
    ],
)  # fmt: skip
def test_encode_refuses(codes: Any, kwargs: dict[str, Any], message: str) -> None:
    """What does not fit raises, and the message says what was expected."""
    with pytest.raises(ValueError, match=f"^{re.escape('bitplane: ' + message)}$"):
        bitplane.encode(codes, **kwargs)


def _flipped(word: tuple[int, ...], bit: int, **kwargs: Any) -> PackedTensor:
    tensor = bitplane.encode(CODES, **kwargs)
    tensor.words[word] ^= np.uint64(1 << bit)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_flipped((1, 2, 0, 0), 60, rows=60),
         "bits at or above the rows of a group must be 0; output 1 differs"),
        (_flipped((0, 0, 1, 0), 10, rows=60),
         "bits at or above K = 70 must be 0; output 0 differs"),
        (_flipped((1, 3, 0, 1), 6, rows=128),
         "bits at or above K = 70 must be 0; output 1 differs"),
        (_flipped((1, 0, 0, 1), 63, rows=100),
         "bits at or above the rows of a group must be 0; output 1 differs"),
        (_flipped((1, 3, 0, 0), 5, rows=70, encoding="differential"),
         "a code must have positive or negative bits, not both; output 1 differs"),
    ],
)  # fmt: skip
def test_malformed_words_are_refused(tensor: PackedTensor, message: str) -> None:
    """A stray bit, or a code with both signs, names the output; without content it passes."""
    bitplane.check(tensor, content=False)
    with pytest.raises(PackedFormatError, match=f"^{re.escape('bitplane: ' + message)}$"):
        bitplane.decode(tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (2, 2**40)}, "words of shape (2, 1099511627776) must be uint64[2, 4, "),
        ({"shape": (2**40, 70)}, "words of shape (1099511627776, 70) must be uint64["),
        ({"shape": (2, 70, 1)}, "shape must be (N, K) with N, K >= 1, not (2, 70, 1)"),
        ({"shape": (0, 70)}, "shape must be (N, K) with N, K >= 1, not (0, 70)"),
        ({"params": {"encoding": "twos", "bits": 4, "rows": 1}}, "words of shape (2, 70) must be"),
        ({"params": {"encoding": "twos", "bits": 2**70, "rows": 1}}, "bits must be an int in 2..8"),
        ({"params": {"encoding": "twos", "bits": 4, "rows": 9, "x": 1}}, "unknown parameter 'x'"),
        ({"scales": {"channel": np.ones(2, np.float32)}}, "unknown scale 'channel'"),
        ({"version": 2}, "version must be 1, not 2"),
        ({"words": np.zeros((2, 4, 1, 2), np.uint32)}, "words of shape (2, 70) must be uint64"),
    ],
)
def test_hostile_tensors_are_refused_before_memory_is_taken(
    changes: dict[str, Any], message: str
) -> None:
    """Sizes that the words do not have are refused from shape and parameters alone."""
    tensor = replace(bitplane.encode(CODES), **changes)
    for content in (False, True):
        with pytest.raises(PackedFormatError, match=f"^{re.escape('bitplane: ' + message)}"):
            bitplane.check(tensor, content=content)
