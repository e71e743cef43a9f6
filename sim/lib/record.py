# SPDX-License-Identifier: Apache-2.0
"""What a simulation of a job leaves behind: counts, causes, and cycles of each vector's events."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner


class Record(NamedTuple):
    """Filled in place.

    Attributes
    ----------
    counts, causes : int64[...]
        In the order of the engine's `NAMES` and `CAUSES`.
    marks : int64[M or 0, events]
        Cycles of each vector, for a trace.
    """

    counts: NDArray[np.int64]
    causes: NDArray[np.int64]
    marks: NDArray[np.int64]


@inner
def mark(record: Record, vector: int, event: int, t: int) -> None:
    """Note the cycle of a vector's event where there is room."""
    if vector < record.marks.shape[0]:
        record.marks[vector, event] = t


def vector_table(record: Record, dtype: np.dtype[Any]) -> NDArray[np.void]:
    """Return the marks as records of a dtype whose first field is the vector's number."""
    table = np.zeros(record.marks.shape[0], dtype=dtype)
    names = dtype.names or ()
    table["vector"] = np.arange(table.size)
    for name, column in zip(names[1:], record.marks.T, strict=True):
        table[name] = column
    return table
