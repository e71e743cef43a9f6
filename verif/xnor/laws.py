# SPDX-License-Identifier: Apache-2.0
"""The array's laws of time (docs/engines/xnor.md, section 5) held to what a monitor saw.

They need no simulator: a model and a hardware that are wrong in the same way break them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_WEIGHTS, Job

LOAD_STREAMS = ("w", "c", "e")

QUEUE_BEATS = 4


@dataclass(slots=True)
class Seen:
    """Cycles of a job in which something was seen.

    Attributes
    ----------
    issue, take : list of int
        Steps, and those that take a beat from the queue.
    input, output : list of int
        Transfers of i_x and o_y.
    held : list of int
        A beat of o_y was offered and not taken, so that the pipeline stood.
    last_load : int
        Last transfer of i_w, i_c and i_e, 0 if none.
    """

    issue: list[int] = field(default_factory=list[int])
    take: list[int] = field(default_factory=list[int])
    input: list[int] = field(default_factory=list[int])
    output: list[int] = field(default_factory=list[int])
    held: list[int] = field(default_factory=list[int])
    last_load: int = 0


def milestones(spec: XnorSpec, job: Job, seen: Seen) -> dict[str, list[int]]:
    """Return the cycles of each vector, by the names of `verif.xnor.cases.MILESTONES`."""
    steps, folds = spec.interval(job.k, job.n), spec.output_folds(job.n)
    last_output: list[int] = []
    for cycle in seen.output[folds - 1 :: folds]:
        last_output += [*[-1] * (job.pool - 1), cycle]
    return {
        "first_issue": seen.issue[::steps],
        "last_issue": seen.issue[steps - 1 :: steps],
        "last_output": last_output,
    }


def broken_laws(spec: XnorSpec, job: Job, seen: Seen, cycles: int, *, stalled: bool) -> list[str]:
    """Return which laws a job broke, in words.

    Parameters
    ----------
    spec : XnorSpec
        The array.
    job : Job
        What ran, to its end.
    seen : Seen
        What a monitor saw of it.
    cycles : int
        Cycles of the job.
    stalled : bool
        A stream had stalls.
    """
    input_folds, output_folds = spec.input_folds(job.k), spec.output_folds(job.n)
    counts = {
        "issue": job.m * output_folds * input_folds,
        "take": job.m * input_folds,
        "input": job.m * input_folds,
        "output": job.m // job.pool * output_folds,
    }
    broken = [
        f"{name}: {len(getattr(seen, name))} seen, not {count}"
        for name, count in counts.items()
        if len(getattr(seen, name)) != count
    ]
    if broken:
        return broken
    of = {name: np.array(getattr(seen, name)) for name in (*counts, "held")}
    laws = _order(spec, job, of, seen.last_load)
    if not stalled:
        laws |= _closed_form(spec, job, of, cycles)
    return [f"law broken: {law}" for law, holds in laws.items() if not holds]


def _order(
    spec: XnorSpec, job: Job, of: Mapping[str, NDArray[np.int64]], last_load: int
) -> dict[str, bool]:
    """Return the laws that hold under any stalls."""
    issue, take, inputs = of["issue"], of["take"], of["input"]
    held = of["held"].astype(np.int64)
    folds = issue.reshape(job.m, spec.output_folds(job.n), -1)
    # Beats leave for the last vector of a window.
    sent = folds[job.pool - 1 :: job.pool, :, -1].reshape(-1)
    # Cycles in which the pipeline stood between the step and the transfer, both of which moved.
    stood = np.searchsorted(held, of["output"]) - np.searchsorted(held, sent)
    return {
        "the first fold takes beats": bool((take == folds[:, 0].reshape(-1)).all()),
        "a beat is usable from the next cycle on": bool((take > inputs).all()),
        "the queue has 4 places": bool((inputs[QUEUE_BEATS:] > take[:-QUEUE_BEATS]).all()),
        "steps are issued as soon as they may be": _soonest(of, held, last_load),
        "o_y = u + LAT": bool((of["output"] - sent == spec.pipeline_latency + stood).all()),
    }


def _soonest(of: Mapping[str, NDArray[np.int64]], held: NDArray[np.int64], last_load: int) -> bool:
    """Whether each step follows the one before, the load and its beat in the next free cycle."""
    standing = set(held.tolist())
    usable = dict(zip(of["take"].tolist(), of["input"].tolist(), strict=True))
    before = last_load
    for cycle in of["issue"].tolist():
        soonest = max(before, usable.get(cycle, 0)) + 1
        while soonest in standing:
            soonest += 1
        if cycle != soonest:
            return False
        before = cycle
    return True


def _closed_form(
    spec: XnorSpec, job: Job, of: Mapping[str, NDArray[np.int64]], cycles: int
) -> dict[str, bool]:
    """Return II, of steps and outputs, and the full latency, of a job without stalls."""
    loads = {
        "load_weights": job.has(FLAG_WEIGHTS), "load_base": job.has(FLAG_BASE),
        "load_columns": job.has(FLAG_COLUMNS),
    }  # fmt: skip
    shape = (job.k, job.n)
    load = max(spec.load_beats(*shape, job.classes, **loads).values())
    interval = spec.interval(*shape)
    per_window = of["output"].reshape(job.m // job.pool, -1)[:, -1]
    return {
        "cycles": cycles == spec.latency(job.m, *shape, job.classes, **loads),
        "u(0) = max(L + 1, 2)": bool(of["issue"][0] == max(load + 1, 2)),
        "a step in every cycle": bool((np.diff(of["issue"]) == 1).all()),
        "II of steps": bool((np.diff(of["issue"][::interval]) == interval).all()),
        "II of outputs": bool((np.diff(per_window) == job.pool * interval).all()),
    }
