# SPDX-License-Identifier: Apache-2.0
"""What every simulator returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Result of one job, or of several that follow each other through one engine.

    Attributes
    ----------
    y : ndarray
        Output values; dtype and shape are the engine's. Several jobs' one after the other.
    cycles : int
        Index of the cycle of the last output transfer + 1 (docs/decisions/0001).
    cycles_by_cause : mapping of str to int
        What each cycle was spent on; sums to `cycles`.
    counts : mapping of str to int
        Action counts, the names that the energy model prices.
    utilisation : float
        Useful work over what the engine could have done in `cycles`: multiply-accumulates of an
        array, rows of keys of a top-k engine.
    events : structured ndarray
        One record per scheduled unit of work, cycles as int64; empty unless a trace was asked for.
    jobs : structured ndarray
        One record per job with its cycles, where an engine overlaps several; else empty.
    """

    y: NDArray[Any]
    cycles: int
    cycles_by_cause: Mapping[str, int]
    counts: Mapping[str, int]
    utilisation: float
    events: NDArray[np.void]
    jobs: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, dtype=np.dtype([])))
