# SPDX-License-Identifier: Apache-2.0
"""When a row fetches the LSBs of its keys: strategies, all mapped onto the engine's window of L.

The engine knows L, the logarithm of the sum of exponentials, and 2**-L is the row's largest
probability. A row is computed again with whole keys iff low <= L <= high (UQ4.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["max_probability", "error_window", "measured", "never", "always"]
RULES = ("max_probability", "error_window", "measured", "never", "always")

Window = tuple[int, int]
NEVER: Window = (4095, 0)
ALWAYS: Window = (0, 4095)
ONE = 256
"""One in UQ4.8."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """Rows of calibration data.

    Attributes
    ----------
    logarithm : int64[rows]
        L of the MSB pass.
    error : float64[rows]
        L1 distance of the MSB pass's probabilities from those of whole keys.
    spread : float
        Standard deviation of the MSB pass's score errors in nats, keys weighted by probability.
    """

    logarithm: NDArray[np.int64]
    error: NDArray[np.float64]
    spread: float


def window(rule: Rule, observed: Observed, threshold: float, budget: float) -> Window:
    """Return (lsb_low, lsb_high) of a node.

    Parameters
    ----------
    rule : str
        One of `RULES`:
        ``max_probability`` (published): rows whose largest probability is below `threshold`;
        ``error_window``: rows whose error is above `threshold` by the paper's equation 2;
        ``measured``: the window that removes most of the calibration rows' error, with at most
        `budget` of them inside.
    observed : Observed
        The node's calibration rows.
    threshold : float
        A probability, or an error of L1.
    budget : float
        Fraction of rows that may fetch.
    """
    match rule:
        case "max_probability":
            return max_probability(threshold)
        case "error_window":
            return error_window(threshold, observed.spread)
        case "measured":
            return measured(observed, budget)
        case "never":
            return NEVER
        case "always":
            return ALWAYS


def max_probability(threshold: float) -> Window:
    """Return the published rule, max p < threshold: L > -log2(threshold)."""
    low = math.floor(-math.log2(threshold) * ONE) + 1
    return (low, 4095) if low <= 4095 else NEVER


def error_window(threshold: float, spread: float) -> Window:
    """Return the window in which equation 2 expects an error above `threshold`.

    A score that is off by d moves the row's probabilities by 2 p (1 - p) d in L1, p that of its
    key: most at p = 1/2, little for a flat row and little for a peaked one. With p the largest
    probability and d the node's `spread`, the error exceeds the threshold between the two roots of
    2 p (1 - p) spread = threshold.
    """
    ratio = threshold / spread if spread > 0 else math.inf
    if ratio >= 0.5:
        return NEVER
    half = math.sqrt(0.25 - ratio / 2)
    low = math.ceil(-math.log2(0.5 + half) * ONE)
    high = math.floor(-math.log2(0.5 - half) * ONE) if half < 0.5 else 4095
    return low, min(high, 4095)


def measured(observed: Observed, budget: float) -> Window:
    """Return the window with the greatest sum of errors among those with few enough rows.

    Windows begin and end on multiples of 1/16; of equal sums the one with fewer rows.
    """
    bins = 16 * ONE // 16
    at = np.clip(observed.logarithm // 16, 0, bins - 1)
    rows = np.concatenate(([0], np.bincount(at, minlength=bins).cumsum()))
    error = np.concatenate(([0.0], np.bincount(at, observed.error, bins).cumsum()))
    inside = rows[None, :] - rows[:, None]
    gain = error[None, :] - error[:, None]
    legal = (inside > 0) & (inside <= budget * len(observed.logarithm))
    if not legal.any():
        return NEVER
    # A little less than the smallest difference of sums: fewer rows decide between equal gains.
    score = np.where(legal, gain - 1e-12 * inside, -np.inf)
    first, last = (int(i) for i in np.unravel_index(int(score.argmax()), score.shape))
    return first * 16, last * 16 - 1
