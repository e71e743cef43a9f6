# SPDX-License-Identifier: Apache-2.0
"""Random jobs for the top-k bench: ties, orders, extreme codes, awkward n and k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import TopkSpec
from verif.lib.generate import break_each, random_stalls
from verif.topk.cases import STREAMS, Case, Job

STYLES = ("uniform", "few", "equal", "rising", "falling", "ends", "near", "shared")
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 53, 61, 67, 89, 97, 127, 251, 509, 1021)


def random_case(spec: TopkSpec, seed: int, *, jobs: int | None = None) -> Case:
    """Return the case of a seed: one to six jobs in a row, stalls on all, one or no stream."""
    rng = np.random.default_rng([seed, spec.lanes, spec.key_bits])
    count = jobs or int(rng.choice([1, 2, 3, 4, 6]))
    kind, stalls = random_stalls(rng, seed, STREAMS)
    return Case(
        name=f"seed {seed}, {kind} stalls",
        jobs=[random_job(spec, rng) for _ in range(count)],
        stalls=stalls,
        padding=int(rng.integers(1 << 31)),
    )


def mutant_cases(spec: TopkSpec, streams: list[str], seed: int = 1) -> list[Case]:
    """Return every mutant on every stream, each on one job that keeps key 0 and drops others.

    Nothing stalls, so a cycle lost on any stream is a cycle of the job.
    """

    def whole(number: int, stream: str) -> Case:
        rng = np.random.default_rng([seed, number])
        n = min(spec.max_n, 2 * spec.lanes + 1)
        keys = random_keys(spec, rng, n, "uniform")
        # A broken first key is seen whatever becomes of it: whole, it is among the kept.
        keys[0] = best_key(spec)
        # Below n, so that k with its lowest bit inverted keeps another number.
        return Case(stream, [(keys, max(1, n // 2))], padding=number)

    return break_each(streams, whole)


def random_job(spec: TopkSpec, rng: np.random.Generator) -> Job:
    """Return a job of random size and style."""
    lanes = spec.lanes
    sizes = (
        1, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 1, spec.max_n, spec.max_n - 1,
        *_PRIMES, int(rng.integers(1, spec.max_n + 1)),
    )  # fmt: skip
    n = int(rng.choice([size for size in sizes if 1 <= size <= spec.max_n]))
    # Of 32 bits k may be any number: a hardware that looks at the low ones only would show.
    ranks = (
        0, 1, 2, lanes, lanes + 1, n // 4, n // 2, n // 2, n - lanes, n - 1, n, n + 1, 2 * n,
        int(rng.integers(1, n + 1)), int(rng.integers(1, n + 1)), 1 << 16, 1 << 31, (1 << 32) - 1,
    )  # fmt: skip
    k = int(rng.choice([rank for rank in ranks if rank >= 0]))
    return random_keys(spec, rng, n, str(rng.choice(STYLES))), k


def random_keys(spec: TopkSpec, rng: np.random.Generator, n: int, style: str) -> NDArray[np.int64]:
    """Return keys int64[n].

    Parameters
    ----------
    spec : TopkSpec
        The engine.
    rng : Generator
    n : int
    style : {"uniform", "few", "equal", "rising", "falling", "ends", "near", "shared"}
        All codes alike; two to four values; one value; sorted up; sorted down; the ends of the
        range and their neighbours; a few codes around one value, across digit borders; uniform but
        for shared high bits, which leave the first digits nothing to decide.
    """
    low, high = key_range(spec)
    keys = rng.integers(low, high, n, endpoint=True)
    if style == "few":
        keys = rng.choice(rng.integers(low, high, int(rng.integers(2, 5)), endpoint=True), n)
    elif style == "equal":
        keys[:] = keys[0]
    elif style == "rising":
        keys = np.sort(keys)
    elif style == "falling":
        keys = np.sort(keys)[::-1].copy()
    elif style == "ends":
        middle = (low + high) // 2
        ends = np.array([low, low + 1, middle, middle + 1, high - 1, high])
        keys = rng.choice(np.clip(ends, low, high), n)
    elif style == "near":
        keys = np.clip(keys[0] + rng.integers(-3, 4, n), low, high)
    elif style == "shared":
        free = (1 << max(1, spec.key_bits // 3)) - 1
        keys = (keys[0] & ~free) | (keys & free)
    return keys.astype(np.int64)


def key_range(spec: TopkSpec) -> tuple[int, int]:
    """Return the smallest and the largest key."""
    low = -(1 << (spec.key_bits - 1)) if spec.signed else 0
    return low, low + (1 << spec.key_bits) - 1


def best_key(spec: TopkSpec) -> int:
    """Return the key that ranks before all others."""
    return key_range(spec)[spec.largest]
