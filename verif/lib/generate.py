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
