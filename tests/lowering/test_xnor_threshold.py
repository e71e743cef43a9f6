# SPDX-License-Identifier: Apache-2.0
"""Batch norm and sign as one comparison, against 500-digit decimals over every sum."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cosil.lowering.xnor_threshold import fold_batch_norm


def oracle(channel: dict[str, float], k: int, eps: float) -> dict[int, Decimal]:
    """Return y(s) of all sums to 500 digits, more than any product of the parameters has."""
    with localcontext() as context:
        context.prec = 500
        gamma, alpha, shift = (Decimal(channel[name]) for name in ("gamma", "alpha", "bias"))
        shift -= Decimal(channel["mean"])
        constant = Decimal(channel["beta"]) * (Decimal(channel["var"]) + Decimal(eps)).sqrt()
        return {s: gamma * (alpha * s + shift) + constant for s in range(-k, k + 1)}


def bits_of(words: Any, s: int) -> list[bool]:
    """Return (s >= threshold) xor flip of each word."""
    found: list[bool] = []
    for word in words.tolist():
        low = word & 0xFFFFFFFF
        threshold = low - (low >> 31 << 32)
        assert word >> 55 == 0
        assert word >> 32 & (2**22 - 1) == 0
        found.append((s >= threshold) != bool(word >> 54 & 1))
    return found


def fold(channel: dict[str, float], k: int, eps: float, *, strict: bool) -> Any:
    """Fold one channel."""
    arrays = {name: np.array([value], np.float32) for name, value in channel.items()}
    return fold_batch_norm(**arrays, k=k, eps=eps, strict=strict)


def check(channel: dict[str, float], k: int, eps: float = 1e-5) -> None:
    """Compare a channel with the oracle for all sums and both conventions."""
    expected = oracle(channel, k, eps)
    for strict in (False, True):
        words = fold(channel, k, eps, strict=strict)
        for s, y in expected.items():
            assert [y > 0 if strict else y >= 0] == bits_of(words, s), (s, strict, channel)


FLOAT = st.floats(-40, 40, width=32)
TINY = st.sampled_from([0.0, 1e-45, -1e-45, -2.9e-7, 1e-30, -1e-30, 1.0, -1.0, 0.5, -3.0])


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            "gamma": FLOAT | TINY,
            "beta": FLOAT | TINY,
            "mean": FLOAT | st.integers(-12, 12).map(float),
            "var": st.floats(0, 1000, width=32) | st.sampled_from([0.0, 1.0, 4.0, 6.25]),
            "alpha": TINY | st.floats(0, 2, width=32),
            "bias": FLOAT | st.just(0.0),
        }
    ),
    st.integers(1, 12),
    st.sampled_from([1e-5, 1e-3, 1.0, 2.0**-20]),
)
@example({"gamma": 1.0, "beta": 0.0, "mean": 3.0, "var": 1.0, "alpha": 1.0, "bias": 0.0}, 5, 1e-5)
def test_every_sum_has_the_sign_of_the_batch_norm(
    channel: dict[str, float], k: int, eps: float
) -> None:
    """The comparison gives y(s) >= 0, or y(s) > 0, for all s of any float32 parameters."""
    check(channel, k, eps)


@pytest.mark.parametrize("gamma", [2.0, -2.0])
@pytest.mark.parametrize("beta", [-6.0, 6.0])
@pytest.mark.parametrize("var", [3.0, 8.0])
def test_ties_through_the_root(gamma: float, beta: float, var: float) -> None:
    """y(s) is exactly 0 at an integer s where var + eps is a square, and nowhere next to it."""
    # sqrt(3 + 1) = 2, sqrt(8 + 1) = 3: s = 1 - beta root / gamma.
    channel = {"gamma": gamma, "beta": beta, "mean": 1.0, "var": var, "alpha": 1.0, "bias": 0.0}
    root = 2 if var == 3.0 else 3
    tie = int(1 - beta * root / gamma)
    assert oracle(channel, 12, 1.0)[tie] == 0
    check(channel, 12, 1.0)
    (at_least,) = bits_of(fold(channel, 12, 1.0, strict=False), tie)
    (above,) = bits_of(fold(channel, 12, 1.0, strict=True), tie)
    assert (at_least, above) == (True, False)


@pytest.mark.parametrize(
    ("channel", "threshold", "flip"),
    [
        ({"gamma": 1.0, "beta": 0.0, "mean": 2.5}, 3, False),  # s >= 2.5
        ({"gamma": -1.0, "beta": 0.0, "mean": 2.5}, 3, True),  # s <= 2.5, that is not s >= 3
        ({"gamma": -1.0, "beta": 0.0, "mean": 2.0}, 3, True),  # y(2) = 0 counts as +1
        ({"gamma": 1.0, "beta": 0.0, "mean": 2.0}, 2, False),
        ({"gamma": 1.0, "beta": 0.0, "mean": -99.0}, -8, False),  # always
        ({"gamma": 1.0, "beta": 0.0, "mean": 99.0}, 9, False),  # never
        ({"gamma": -1.0, "beta": 0.0, "mean": -99.0}, -8, True),  # never
        ({"gamma": 1e-45, "beta": -1.0, "mean": 0.0}, 9, False),  # tiny, never
        ({"gamma": -2.9e-7, "beta": 2.9e-7, "mean": 0.0}, 2, True),  # s <= sqrt(1 + eps)
        ({"gamma": 0.0, "beta": 0.0, "mean": 1.0}, -(2**31), False),
        ({"gamma": 0.0, "beta": -1e-45, "mean": 1.0}, -(2**31), True),
        ({"gamma": 0.0, "beta": 1.0, "mean": 1.0}, -(2**31), False),
    ],
)
def test_words_by_hand(channel: dict[str, float], threshold: int, flip: bool) -> None:
    """Thresholds of K = 8, var = 1: signs of gamma, ties, clamping, constants."""
    full = {**channel, "var": 1.0, "alpha": 1.0, "bias": 0.0}
    expected = threshold % 2**32 | flip << 54
    assert [expected] == fold(full, 8, 1e-5, strict=False).tolist()


def test_channels_are_independent_and_broadcast() -> None:
    """Many channels give the words of each, and a scalar alpha or bias stands for all."""
    rng = np.random.default_rng(1)
    gamma, beta, mean = rng.standard_normal((3, 40)).astype(np.float32)
    var = rng.random(40, np.float32)
    words = fold_batch_norm(gamma, beta, mean, var, k=100, alpha=0.25, bias=-1.0)
    for i in range(40):
        one = slice(i, i + 1)
        single = fold_batch_norm(
            gamma[one], beta[one], mean[one], var[one], k=100, alpha=[0.25], bias=[-1.0]
        )
        assert single[0] == words[i]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.0}, r"^xnor: gamma must have one axis, not shape \(\)$"),
        ({"beta": [1.0]}, r"^xnor: beta must have the shape \(2,\), not \(1,\)$"),
        ({"mean": [0.0, np.nan]}, r"^xnor: mean must be finite$"),
        ({"var": [1.0, -1.0]}, r"^xnor: a variance plus eps must be positive, not -0.5$"),
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    """What has no sign is refused."""
    given: dict[str, Any] = {"gamma": [1.0, 2.0], "beta": [0.0, 0.0], "mean": [0.0, 0.0],
                             "var": [1.0, 1.0]}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(**{**given, **changes}, k=3, eps=0.5)
