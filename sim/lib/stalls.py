# SPDX-License-Identifier: Apache-2.0
"""Stall patterns: per stream, a boolean for each cycle, repeated when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner

KINDS = ("none", "random", "bursty")


class Stalls(NamedTuple):
    """Patterns of several streams, as kernels take them.

    Attributes
    ----------
    bits : uint8[...]
        All patterns, one after the other; 1 = stalled.
    start, length : int64[streams]
        Where a stream's pattern lies in `bits`.
    wait : int32[...]
        Cycles from a position of `bits` to the pattern's next free cycle (0 where free).
    """

    bits: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    wait: NDArray[np.int32]


def pattern(kind: str, seed: int, length: int = 257) -> NDArray[np.bool_]:
    """Return one stall pattern.

    Parameters
    ----------
    kind : {"none", "random", "bursty"}
        No stall; each cycle stalled with a probability drawn from 0.1..0.7; runs of stalls and
        of free cycles, each of 1 to 24 cycles.
    seed : int
        Equal seeds give equal patterns.
    length : int
        Cycles until the pattern repeats; a prime length does not fall into step with a tile.

    Returns
    -------
    bool[length]
        True = stalled; at least one cycle is free.
    """
    if kind not in KINDS:
        raise ValueError(f"stalls: kind must be one of {', '.join(map(repr, KINDS))}, not {kind!r}")
    if length < 1:
        raise ValueError(f"stalls: length must be at least 1, not {length!r}")
    rng = np.random.default_rng(seed)
    stalled = np.zeros(length, dtype=np.bool_)
    if kind == "random":
        stalled = rng.random(length) < rng.uniform(0.1, 0.7)
    elif kind == "bursty":
        runs = rng.integers(1, 25, size=length)
        stalled = np.repeat(np.arange(length) % 2 == 1, runs)[:length]
    stalled[int(rng.integers(length))] = False
    return stalled


def patterns(
    kind: str, seed: int, streams: Sequence[str], length: int = 257
) -> dict[str, NDArray[np.bool_]]:
    """Return a pattern for each stream, independently seeded; an empty dict for ``none``."""
    if kind == "none":
        return {}
    seeds = np.random.SeedSequence(seed).generate_state(len(streams))
    return {name: pattern(kind, int(s), length) for name, s in zip(streams, seeds, strict=True)}


def flatten(stalls: Mapping[str, NDArray[Any]] | None, streams: Sequence[str]) -> Stalls:
    """Check patterns and lay them out for kernels.

    Raises
    ------
    TypeError
        If a pattern is not a one-dimensional bool array.
    ValueError
        If a stream is unknown, or a pattern is empty or never free.
    """
    if not stalls:
        return _unstalled(len(streams))
    rows = [_FREE] * len(streams)
    for name, row in stalls.items():
        if name not in streams:
            raise ValueError(f"stalls: unknown stream {name!r}; known are {', '.join(streams)}")
        if not isinstance(row, np.ndarray) or row.dtype != np.bool_ or row.ndim != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"stalls: {name} must be a one-dimensional bool array, not {row!r}")
        if row.all():
            raise ValueError(
                f"stalls: {name} must be free in at least one cycle, not {row!r}; "
                "a stream that is never ready would hang"
            )
        rows[list(streams).index(name)] = row
    length = np.array([row.size for row in rows], dtype=np.int64)
    start = np.cumsum(length) - length
    bits = np.concatenate(rows).astype(np.uint8)
    return Stalls(bits, start, length, np.concatenate([_wait(row) for row in rows]))


@cache
def _unstalled(streams: int) -> Stalls:
    return Stalls(
        np.zeros(streams, dtype=np.uint8),
        np.arange(streams, dtype=np.int64),
        np.ones(streams, dtype=np.int64),
        np.zeros(streams, dtype=np.int32),
    )


def _wait(row: NDArray[np.bool_]) -> NDArray[np.int32]:
    free = np.flatnonzero(~row)
    at = np.arange(row.size)
    following = np.append(free, free[0] + row.size)
    return (following[np.searchsorted(free, at)] - at).astype(np.int32)


@inner
def is_stalled(stalls: Stalls, pattern: int, t: int) -> bool:
    """Whether a pattern stalls its stream in cycle t."""
    length = stalls.length[pattern]
    # A pattern of one cycle is free; most are, and a division is slow.
    return length > 1 and stalls.bits[stalls.start[pattern] + t % length] != 0


@inner
def unstalled(stalls: Stalls, pattern: int, t: int) -> int:
    """Return the first cycle from t on in which a pattern is free."""
    length = stalls.length[pattern]
    if length == 1:
        return t
    return t + int(stalls.wait[stalls.start[pattern] + t % length])


@inner
def last_load(stalls: Stalls, beats: NDArray[np.int64]) -> int:
    """Return the cycle of the last transfer of beats that pattern by pattern go from cycle 1 on."""
    last = np.int64(0)
    for stream in range(beats.size):
        t = np.int64(0)
        if stalls.length[stream] == 1:
            t = beats[stream]
        else:
            for _ in range(beats[stream]):
                t = unstalled(stalls, stream, t + 1)
        last = max(last, t)
    return int(last)


_FREE = np.zeros(1, dtype=np.bool_)
