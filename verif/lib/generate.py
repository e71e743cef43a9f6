# SPDX-License-Identifier: Apache-2.0
"""What the generators of all engines' cases share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.lib.stalls import KINDS, pattern
from verif.lib.cases import Case
from verif.lib.mutants import Mutant

C = TypeVar("C", bound=Case[Any])


def random_stalls(
    rng: np.random.Generator, seed: int, streams: Sequence[str]
) -> tuple[str, dict[str, NDArray[np.bool_]]]:
    """Return the kind of stalls that a seed stands for, and patterns for all streams or for one."""
    kind = KINDS[seed % len(KINDS)]
    names = streams if rng.integers(4) else [str(rng.choice(streams))]
    if kind == "none":
        return kind, {}
    return kind, {name: pattern(kind, int(rng.integers(1 << 31))) for name in names}


def break_each(streams: Sequence[str], whole: Callable[[int, str], C]) -> list[C]:
    """Return every mutant on every stream.

    Parameters
    ----------
    streams : sequence of str
        The device's streams.
    whole : callable
        Given the number of the case and the stream: a case that the unbroken hardware does right.
    """
    cases: list[C] = []
    for mutant in list(Mutant)[1:]:
        for stream in streams:
            named = f"{mutant.name.lower()} on {stream}"
            case = whole(len(cases), stream)
            cases.append(replace(case, name=named, mutant=mutant, mutant_stream=stream))
    return cases


def fixed_point_columns(
    rng: np.random.Generator, n: int, largest: int, *, wide: bool, corners: bool
) -> NDArray[np.uint64]:
    """Return parameters uint64[n] of fixed-point epilogues whose results fill the output's range.

    Bias int32 in bits 0..31, multiplier 32..47, shift 48..53, negate 54.

    Parameters
    ----------
    rng : Generator
    n : int
        Outputs.
    largest : int
        Bound on the magnitude of what is rescaled.
    wide : bool
        Results have 16 bits, not 8.
    corners : bool
        Some parameters are at the ends of what they may be, or make ties.
    """
    bias = rng.integers(-largest // 4, largest // 4, n, endpoint=True)
    mult = rng.integers(1, 1 << 16, n)
    bits = np.log2(mult * (largest / 2.0)).astype(np.int64) - (14 if wide else 6)
    shift = np.clip(bits + rng.integers(-2, 2, n), 0, 63)
    if corners:
        bias = np.where(rng.random(n) < 0.1, rng.choice([-(1 << 31), (1 << 31) - 1], n), bias)
        mult = np.where(rng.random(n) < 0.2, rng.choice([0, 1, 0x8000, 0xFFFF], n), mult)
        shift = np.where(rng.random(n) < 0.1, rng.choice([0, 1, 4, 49, 63], n), shift)
    negate = rng.integers(2, size=n)
    return (
        (bias & 0xFFFFFFFF).astype(np.uint64)
        | mult.astype(np.uint64) << np.uint64(32)
        | shift.astype(np.uint64) << np.uint64(48)
        | negate.astype(np.uint64) << np.uint64(54)
    )
