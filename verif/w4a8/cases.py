# SPDX-License-Identifier: Apache-2.0
"""Test cases of the W4A8 bench, and what is expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.lowering.w4a8 import Job, Operands
from verif.lib import cases

STREAMS = ("a_req", "a", "w_req", "w", "s_req", "s", "e_req", "e", "r_req", "r", "y")
"""Streams that a stall pattern can name (section 7)."""


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What reference and simulator say of one job.

    Attributes
    ----------
    y : uint16[M, N]
        Result bits of the reference; an int8 is sign-extended.
    cycles : int
    counts : mapping of str to int
        Action counts.
    causes : mapping of str to int
        Cycles by cause.
    """

    y: NDArray[np.uint16]
    cycles: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Case(cases.Case[tuple[Job, Operands]]):
    """A case of `verif.lib.cases`; each of its jobs begins the stall patterns anew.

    Attributes
    ----------
    latency : int
        Memory latency in cycles.
    """

    latency: int = 2

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Case:
        """Return the case that crossed over by `verif.lib.archive`."""
        jobs = [(Job(**job), Operands(**operands)) for job, operands in tree["jobs"]]
        return cls(**{**tree, "jobs": jobs})
