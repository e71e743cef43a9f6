# SPDX-License-Identifier: Apache-2.0
"""Test cases of the top-k bench, what is expected of them, and both as beats of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import TopkSpec
from verif.lib import cases
from verif.lib.beats import grouped, packed

STREAMS = ("job", "keys", "items")
"""Streams that a stall pattern can name (section 3)."""

MILESTONES = ("accepted", "last_input", "decided", "last_output")
"""Cycles of a job that a monitor sees: its transfer, its last row's, the cut's, its last beat's."""

Job = tuple[NDArray[np.int64], int]
"""Keys and k."""


@dataclass(frozen=True, slots=True, eq=False)
class Case(cases.Case[Job]):
    """A case of `verif.lib.cases`; its jobs overlap, so the stall patterns run through.

    Attributes
    ----------
    padding : int
        Seed of what the lanes hold that no key fills.
    """

    padding: int = 0

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Case:
        """Return the case that crossed over by `verif.lib.archive`."""
        return cls(**{**tree, "jobs": [(keys, k) for keys, k in tree["jobs"]]})


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What reference and simulator say of a case.

    Attributes
    ----------
    beats : sequence of int
        Payloads of `o_items`, made from the reference's items.
    milestones : mapping of str to sequence of int
        Cycles by name of `MILESTONES` and job.
    counts, causes : mapping of str to int
        Action counts, and cycles by cause, of the whole run.
    """

    beats: Sequence[int]
    milestones: Mapping[str, Sequence[int]]
    counts: Mapping[str, int]
    causes: Mapping[str, int]


def job_word(job: Job) -> int:
    """Return the payload of `i_job`."""
    keys, k = job
    return packed((keys.size, k), 32)


def key_rows(spec: TopkSpec, jobs: Sequence[Job], padding: int) -> list[int]:
    """Return the payloads of `i_keys` for all jobs.

    Lanes beyond a job's keys hold the best key that there is, the worst, or any.
    """
    rng = np.random.default_rng([padding, 0x9AD])
    ends = [0, (1 << spec.key_bits) - 1, 1 << (spec.key_bits - 1), (1 << (spec.key_bits - 1)) - 1]
    rows: list[int] = []
    for keys, _ in jobs:
        lanes = [int(key) for key in keys]
        while len(lanes) % spec.lanes:
            anything = int(rng.integers(1 << spec.key_bits))
            lanes.append(int(rng.choice([*ends, anything])))
        rows += [packed(row, spec.key_bits) for row in grouped(lanes, spec.lanes)]
    return rows


def item_beats(spec: TopkSpec, values: Sequence[int], indices: Sequence[int]) -> list[int]:
    """Return the payloads of `o_items` for the kept items of one job, at least the empty beat."""
    lanes = spec.lanes
    beats: list[int] = []
    for first in range(0, max(1, len(values)), lanes):
        kept = values[first : first + lanes]
        index_at = lanes * spec.key_bits
        keep_at = index_at + lanes * spec.index_bits
        last = first + lanes >= len(values)
        beats.append(
            packed(kept, spec.key_bits)
            | packed(indices[first : first + lanes], spec.index_bits) << index_at
            | (1 << len(kept)) - 1 << keep_at
            | last << keep_at + lanes
        )
    return beats
