# SPDX-License-Identifier: Apache-2.0
"""What a test case of any engine has: jobs, stalls, and perhaps broken hardware.

The simulator's process imports this, so it loads neither Numba nor Amaranth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

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
    mutant_beat : int
        The stream's beat that is broken, counted from the reset on.
    """

    name: str
    jobs: Sequence[J]
    stalls: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict[str, Any])
    mutant: Mutant = Mutant.NONE
    mutant_stream: str | None = None
    mutant_beat: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What reference and simulator say of one job.

    Attributes
    ----------
    beats : sequence of int
        Payloads of the results, made from the reference's.
    cycles : int
    milestones : mapping of str to sequence of int
        Cycles by name of the engine's `MILESTONES` and vector.
    counts, causes : mapping of str to int
        Action counts, and cycles by cause.
    """

    beats: Sequence[int]
    cycles: int
    milestones: Mapping[str, Sequence[int]]
    counts: Mapping[str, int]
    causes: Mapping[str, int]


def stall_list(case: Case[Any], stream: str) -> list[bool]:
    """Return the pattern of a stream as drivers and monitors take it."""
    return case.stalls[stream].tolist() if stream in case.stalls else []
