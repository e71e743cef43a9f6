# SPDX-License-Identifier: Apache-2.0
"""Payloads of beats from the values of their lanes.

The simulator's process imports this, so it loads neither Numba nor Amaranth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def packed(values: Iterable[int], bits: int) -> int:
    """Return values side by side, the first in the low bits, each cut to its width."""
    word = 0
    for lane, value in enumerate(values):
        word |= (value & (1 << bits) - 1) << (lane * bits)
    return word


def grouped(values: Sequence[T], lanes: int) -> Iterator[Sequence[T]]:
    """Yield the values of each beat, in order; the last may hold fewer than `lanes`."""
    for first in range(0, len(values), lanes):
        yield values[first : first + lanes]
