# SPDX-License-Identifier: Apache-2.0
"""What a test case of any engine has: jobs, stalls, and perhaps broken hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.lib.stalls import KINDS, pattern
from verif.lib.mutants import Mutant

J = TypeVar("J")


@dataclass(frozen=True, slots=True, eq=False)
class Case(Generic[J]):
    """Jobs that run one after the other, without a pause, after a reset.

    Attributes
    ----------
    name : str
        Unique in a run; holds the seed.
    jobs : sequence
        What the engine's simulator calls a job.
    stalls : mapping of str to bool[...]
        Patterns by stream.
    mutant, mutant_stream : Mutant, str
        Broken hardware, and the device's stream that it is on.
    """

    name: str
    jobs: Sequence[J]
    stalls: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict[str, Any])
    mutant: Mutant = Mutant.NONE
    mutant_stream: str | None = None


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


def stall_list(case: Case[Any], stream: str) -> list[bool]:
    """Return the pattern of a stream as drivers and monitors take it."""
    return case.stalls[stream].tolist() if stream in case.stalls else []
