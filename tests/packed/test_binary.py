# SPDX-License-Identifier: Apache-2.0
"""Codecs binary and ternary: golden words, round trips against the page's diagram, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.packed import binary, codecs, ternary
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor

EVERY = 2**64 - 1
MIXED = [1, -1, -1, 1, 1]


@pytest.mark.parametrize(
    ("codes", "polarity", "words"),
    [
        ([MIXED], "one_is_plus", [[0b11001]]),
        ([MIXED], "one_is_minus", [[0b00110]]),
        ([[1] * 65, [-1] * 65], "one_is_plus", [[EVERY, 1], [0, 0]]),
        ([[1] * 65, [-1] * 65], "one_is_minus", [[0, 0], [EVERY, 1]]),
        ([[-1] * 63 + [1]], "one_is_plus", [[1 << 63]]),
        ([[-1] * 64 + [1]], "one_is_plus", [[0, 1]]),
    ],
)
def test_golden_words_of_signs(codes: Any, polarity: Any, words: Any) -> None:
    """Words are those that the diagram gives by hand, in both polarities; the tail is 0."""
    tensor = binary.encode(np.array(codes), polarity=polarity)
    assert words == tensor.words.tolist()
    assert tensor.words.dtype == np.uint64
    assert codes == binary.decode(tensor).tolist()
    plus = binary.encode(np.array(codes), polarity="one_is_plus")
    np.testing.assert_array_equal(plus.words, binary.plus_words(tensor))


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([[1, -1, 0, 1]], [[[0b1001], [0b1011]]]),
        ([[0] * 65, [-1] * 65], [[[0, 0], [0, 0]], [[0, 0], [EVERY, 1]]]),
        ([[1] * 65], [[[EVERY, 1], [EVERY, 1]]]),
    ],
)
def test_golden_words_of_ternary_codes(codes: Any, words: Any) -> None:
    """The sign plane comes before the non-zero plane and is 0 where the code is."""
    tensor = ternary.encode(np.array(codes))
    assert words == tensor.words.tolist()
    assert tensor.words.dtype == np.uint64
    assert codes == ternary.decode(tensor).tolist()


@settings(max_examples=50)
@given(
    st.sampled_from(["one_is_plus", "one_is_minus", "ternary"]),
    st.integers(1, 4),
    st.sampled_from([1, 2, 31, 63, 64, 65, 127, 128, 129, 200]),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(kind: Any, n: int, k: int, seed: int) -> None:
    """decode(encode(x)) = x, every bit is where section 7 of the page says, and no other is set."""
    rng = np.random.default_rng(seed)
    if kind == "ternary":
        codes = rng.integers(-1, 2, (n, k))
        tensor = ternary.encode(codes)
        planes = [codes > 0, codes != 0]
        words = tensor.words.tolist()
    else:
        codes = rng.choice([-1, 1], (n, k))
        tensor = binary.encode(codes, polarity=kind)
        planes = [codes == (1 if kind == "one_is_plus" else -1)]
        words = [[row] for row in tensor.words.tolist()]
    np.testing.assert_array_equal(codes, codecs.decode(tensor))
    for i in range(n):
        for plane, ones in enumerate(planes):
            whole = sum(word << (64 * j) for j, word in enumerate(words[i][plane]))
            assert whole == sum(1 << j for j in range(k) if ones[i, j])
    assert 64 * n * len(planes) * -(-k // 64) == codecs.stored_bits(tensor)


SIGNS = np.ones((2, 70), np.int8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: binary.encode(SIGNS * 0), ValueError,
         "binary: codes must be -1 or 1, not 0; use codec 'ternary' for zeros"),
        (lambda: binary.encode(SIGNS * 2), ValueError,
         "binary: codes must be in -1..1, not 2; clamp them first"),
        (lambda: ternary.encode(SIGNS * -2), ValueError,
         "ternary: codes must be in -1..1, not -2; clamp them first"),
        (lambda: ternary.encode(SIGNS.astype(np.float32)), TypeError,
         "ternary: codes must be integers, not float32; round them first"),
        (lambda: binary.encode(SIGNS[0]), ValueError,
         "binary: codes must have shape (N, K) with N, K >= 1, not (70,)"),
        (lambda: binary.encode(SIGNS, polarity="plus"), PackedFormatError,  # type: ignore[arg-type]
         "binary: polarity must be 'one_is_plus' or 'one_is_minus', not 'plus'"),
    ],
)  # fmt: skip
def test_encode_refuses(call: Any, error: Any, message: str) -> None:
    """What does not fit raises, and the message says what was expected."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def flipped(tensor: PackedTensor, word: tuple[int, ...], bit: int) -> PackedTensor:
    """Return a tensor with one bit changed."""
    words = tensor.words.copy()
    words[word] ^= np.uint64(1 << bit)
    return replace(tensor, words=words)


PLUS, ZEROS = binary.encode(SIGNS), ternary.encode(SIGNS * 0)
STRAY = "bits at or above K = 70 must be 0; output 1 differs"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (flipped(PLUS, (1, 1), 6), f"binary: {STRAY}"),
        (flipped(PLUS, (1, 1), 63), f"binary: {STRAY}"),
        (flipped(ZEROS, (1, 1, 1), 6), f"ternary: {STRAY}"),
        (flipped(ZEROS, (1, 0, 1), 63), f"ternary: {STRAY}"),
        (flipped(ZEROS, (1, 0, 0), 3),
         "ternary: the sign bit of a code 0 must be 0; output 1 differs"),
    ],
)  # fmt: skip
def test_malformed_words_are_refused(tensor: PackedTensor, message: str) -> None:
    """A stray bit, or a sign of a zero, names the output; without content it passes."""
    codecs.check("weight", tensor, content=False)
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        codecs.decode(tensor)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (replace(PLUS, shape=(2, 2**40)),
         "binary: words of shape (2, 1099511627776) must be uint64[2, 17179869184], not uint64[2"),
        (replace(ZEROS, shape=(2**40, 70)),
         "ternary: words of shape (1099511627776, 70) must be uint64[1099511627776, 2, 2], not"),
        (replace(PLUS, shape=(2, 70, 1)), "binary: shape must be (N, K) with N, K >= 1, not (2, "),
        (replace(PLUS, shape=(2, 0)), "binary: shape must be (N, K) with N, K >= 1, not (2, 0)"),
        (replace(PLUS, words=PLUS.words.view(np.int64)), "binary: words of shape (2, 70) must be "),
        (replace(ZEROS, words=PLUS.words), "ternary: words of shape (2, 70) must be uint64[2, 2, "),
        (replace(PLUS, params={}), "binary: polarity must be 'one_is_plus' or 'one_is_minus', not"),
        (replace(PLUS, params={"polarity": 1}), "binary: polarity must be 'one_is_plus' or "),
        (replace(PLUS, params={**PLUS.params, "x": 1}), "binary: unknown parameter 'x'; known are"),
        (replace(ZEROS, params={"polarity": "one_is_plus"}), "ternary: unknown parameter 'polari"),
        (replace(PLUS, scales={"channel": np.ones(2, np.float32)}), "binary: unknown scale 'chan"),
        (replace(ZEROS, version=2), "ternary: version must be 1, not 2"),
    ],
)  # fmt: skip
def test_hostile_tensors_are_refused_before_memory_is_taken(
    tensor: PackedTensor, message: str
) -> None:
    """Sizes that the words do not have are refused from shape and parameters alone."""
    for content in (False, True):
        with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}"):
            codecs.CODECS[tensor.codec].check(tensor, content=content)
