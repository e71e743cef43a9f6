# SPDX-License-Identifier: Apache-2.0
"""Simulator of the top-k engine: kept items, cycles, causes and action counts of jobs in a row.

The contract is docs/engines/topk.md. Two models share it: `stepped` advances every register cycle
by cycle; the default selects at once and gets the cycles from a recurrence (`fast`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import TopkSpec
from sim.lib.run import Run
from sim.lib.stalls import flatten
from sim.topk import fast, stepped
from sim.topk.counts import NAMES
from sim.topk.plan import (
    CAUSES,
    ITEM,
    PASS,
    STALL_NAMES,
    job_table,
    keys_of,
    make_jobs,
    make_plan,
    make_record,
    pass_table,
)


def run(
    spec: TopkSpec,
    jobs: Sequence[tuple[NDArray[Any], int]],
    *,
    stalls: Mapping[str, NDArray[np.bool_]] | None = None,
    step: bool = False,
    trace: bool = False,
) -> Run:
    """Run jobs through one engine, each offered as soon as the one before was taken.

    Parameters
    ----------
    spec : TopkSpec
        The engine, as after reset.
    jobs : sequence of (int[n], int)
        Keys, of w bits and signed as the spec says, in input order, and how many are wanted.
    stalls : mapping of str to bool array, optional
        Per stream (job, keys, items), True where it is stalled; cyclic from cycle 0 (section 3).
    step : bool
        Advance every register cycle by cycle instead of jumping from event to event.
    trace : bool
        Note every pass of select (`Run.events`, `sim.topk.plan.PASS`).

    Returns
    -------
    Run
        `y` holds the kept items of all jobs as `sim.topk.plan.ITEM` (see `items`), `jobs` their
        cycles as `sim.topk.plan.JOB`; `utilisation` is rows transferred per cycle. Equal in both
        models, and to the hardware: items, cycles, causes and counts.

    Raises
    ------
    TypeError
        If keys or a stall pattern have the wrong dtype.
    ValueError
        If there is no job, or n, k or a key is out of range, or a stream is stalled for ever.
    """
    plan = make_plan(spec)
    queue = make_jobs(spec, jobs)
    patterns = flatten(stalls, STALL_NAMES)
    record = make_record(plan, queue, trace=trace)
    model = stepped if step else fast
    cycles = model.simulate(plan, queue, patterns, record)
    y = np.zeros(record.item_codes.size, dtype=ITEM)
    y["key"] = keys_of(spec, record.item_codes)
    y["index"] = record.item_indices
    counts: dict[str, int] = dict(zip(NAMES, record.counts.tolist(), strict=True))
    return Run(
        y=y,
        cycles=cycles,
        cycles_by_cause=dict(zip(CAUSES, record.causes.tolist(), strict=True)),
        counts=counts,
        utilisation=counts["keys_beats"] / cycles,
        events=pass_table(plan, record) if trace else np.zeros(0, dtype=PASS),
        jobs=job_table(queue, record),
    )


def items(run: Run) -> list[NDArray[np.void]]:
    """Return the kept items of each job of a run."""
    return np.split(run.y, np.cumsum(run.jobs["items"])[:-1])
