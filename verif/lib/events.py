# SPDX-License-Identifier: Apache-2.0
"""The strobes that a device shows to its monitors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


def split(value: int, fields: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the fields of a packed value.

    Parameters
    ----------
    value : int
        `o_events` as one number.
    fields : mapping of str to [int, int]
        Offset and width of each field.
    """
    return {name: value >> offset & (1 << width) - 1 for name, (offset, width) in fields.items()}


def totals(observed: Mapping[int, int], fields: Mapping[str, Sequence[int]]) -> Counter[str]:
    """Return the sum of each field over all cycles.

    Parameters
    ----------
    observed : mapping of int to int
        How many cycles showed each value of `o_events`.
    fields : mapping of str to [int, int]
        As for `split`.
    """
    total: Counter[str] = Counter()
    for value, times in observed.items():
        for name, amount in split(value, fields).items():
            total[name] += times * amount
    return total


def by_cause(
    observed: Mapping[K, int], causes: Sequence[str], holds: Callable[[K], Mapping[str, object]]
) -> dict[str, int]:
    """Return the cycles by cause: each cycle counts to the first cause that holds in it.

    Parameters
    ----------
    observed : mapping to int
        How often each kind of cycle was seen.
    causes : sequence of str
        In their order; the last one holds always.
    holds : callable
        A kind of cycle -> whether each cause holds.
    """
    total = dict.fromkeys(causes, 0)
    for kind, times in observed.items():
        held = holds(kind)
        total[next(cause for cause in causes if held[cause])] += times
    return total
