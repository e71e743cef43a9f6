# SPDX-License-Identifier: Apache-2.0
"""How many tokens and heads each layer keeps: the published rule, or one number a layer.

Source: SpAtten, arXiv 2012.09852 v3, section V-A. A ratio r is the fraction of all tokens (heads)
that is gone in a layer; pruning is cascaded, so it never falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cosil.lowering.attention_program import LIMIT_NONE, MILLION

TOKENS_UNPRUNED = 0.15
"""First fraction of the layers in which no token is pruned."""

HEADS_UNPRUNED = 0.30
"""First fraction of the layers in which no head is pruned."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What one layer keeps of n: min(limit, max(1, floor(n * ratio))).

    Attributes
    ----------
    ratio : int
        In millionths, at least 1.
    limit : int
        Largest number, 1..65536.
    """

    ratio: int = MILLION
    limit: int = LIMIT_NONE

    @classmethod
    def part(cls, ratio: float) -> Keep:
        """Return the keep of a fraction in (0, 1], which is rounded to millionths."""
        return cls(min(MILLION, max(1, round(ratio * MILLION))))

    def of(self, n: int) -> int:
        """Return how many of `n` are kept."""
        return min(n, self.limit, max(1, n * self.ratio // MILLION))


def linear(
    layers: int, average: float, *, unpruned: float = TOKENS_UNPRUNED, spread: float = 0.5
) -> list[float]:
    """Return the published schedule: the ratio that is pruned in each layer.

    Parameters
    ----------
    layers : int
        Attention layers of the network.
    average : float
        r_avg, the mean ratio over the layers that prune, in 0..1.
    unpruned : float
        Fraction of the layers, rounded up, in front of them.
    spread : float
        r_start = r_avg (1 - spread) and r_end = r_avg (1 + spread), so that r_start + r_end =
        2 r_avg; between them the ratio is linear in the layer.

    Raises
    ------
    ValueError
        If the last layer would keep nothing.
    """
    start, end = average * (1 - spread), average * (1 + spread)
    if not (0 <= average < 1 and 0 <= spread <= 1 and end < 1):
        raise ValueError(
            f"spatten: a pruning ratio of {average!r} with spread {spread!r} ends at {end:g}; "
            "it must be in 0..1 and end below 1"
        )
    first = min(layers, math.ceil(unpruned * layers))
    last = layers - 1 - first
    ramp = [start + (end - start) * (i / last if last else 0.5) for i in range(layers - first)]
    return [0.0] * first + ramp


def explicit(text: str, layers: int, name: str) -> list[Keep]:
    """Read one entry a layer, ``1, 0.7, 307``: a fraction to keep, or a count above one.

    The last entry stands for all further layers.

    Raises
    ------
    ValueError
        If an entry is no such number, or there are more entries than layers.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) > layers:
        raise ValueError(f"spatten: {name} must have at most {layers} entries, not {len(entries)}")
    keeps = [_entry(entry, name) for entry in entries]
    return keeps + [keeps[-1]] * (layers - len(keeps))


def _entry(text: str, name: str) -> Keep:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if 0 < number <= 1:
        return Keep.part(number)
    if 1 < number < LIMIT_NONE and number == int(number):
        return Keep(limit=int(number))
    raise ValueError(
        f"spatten: an entry of {name} must be a fraction in 0..1 or a count above 1, not {text!r}"
    )


def cascade(keeps: Sequence[Keep]) -> list[Keep]:
    """Return the keeps with nothing that grows: a layer has at most what the one before it had."""
    ratio, limit = MILLION, LIMIT_NONE
    falling: list[Keep] = []
    for keep in keeps:
        ratio, limit = min(ratio, keep.ratio), min(limit, keep.limit)
        falling.append(Keep(ratio, limit))
    return falling
