# SPDX-License-Identifier: Apache-2.0
"""Output steps and the rescale pipeline, register by register (section 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import inner
from sim.lib.record import Record, mark
from sim.pim.convert import Convert
from sim.pim.counts import Y_BEATS
from sim.pim.plan import (
    LAST_OUTPUT,
    Contents,
    Plan,
)

NEGATE = np.uint64(1 << 54)

DRAINER = np.dtype(
    [
        ("step", np.int64),  # of the vector that is read
        ("stage", np.int64),  # of the ring that is the output register
        ("transfers_left", np.int64),
    ]
)


class Drain(NamedTuple):
    """Counters and the pipeline, a ring of `epilogue_latency` stages.

    Attributes
    ----------
    drainer : record array of DRAINER, one entry
    vector, first : int64[stages]
        Vector and first output of the step in each stage; vector -1 is a bubble.
    y : int64[stages, E]
        Outputs of the step; the arithmetic is done at once and the result travels.
    """

    drainer: Any
    vector: NDArray[np.int64]
    first: NDArray[np.int64]
    y: NDArray[np.int64]


def make_drain(plan: Plan) -> Drain:
    """Return an empty pipeline."""
    drainer = np.zeros(1, dtype=DRAINER).view(np.recarray)
    drainer.transfers_left = plan.m * plan.output_steps
    stages = plan.epilogue_latency
    return Drain(
        drainer,
        np.full(stages, -1, dtype=np.int64),
        np.zeros(stages, dtype=np.int64),
        np.zeros((stages, plan.lanes), dtype=np.int64),
    )


@inner
def output_valid(drain: Drain) -> bool:
    """Whether a beat is in the output register."""
    return bool(drain.vector[drain.drainer[0].stage] >= 0)


@inner
def transfer_beat(plan: Plan, drain: Drain, record: Record, y: NDArray[np.int64], t: int) -> None:
    """Transfer the output register."""
    d = drain.drainer[0]
    vector, first = drain.vector[d.stage], drain.first[d.stage]
    for lane in range(min(plan.lanes, plan.n - first)):
        y[vector, first + lane] = drain.y[d.stage, lane]
    d.transfers_left -= 1
    record.counts[Y_BEATS] += 1
    mark(record, vector, LAST_OUTPUT, t)


@inner
def drain_cycle(plan: Plan, contents: Contents, drain: Drain, convert: Convert) -> bool:
    """Move the pipeline on and issue a step if there is one; return whether it ends its vector.

    Called before `convert_cycle`: a result is readable in the cycle after it is written.
    """
    d = drain.drainer[0]
    s = convert.converter[0]
    stage = d.stage
    d.stage = stage + 1 if stage + 1 < drain.vector.size else 0
    drain.vector[stage] = -1
    if s.read == s.write:
        return False
    first = d.step * plan.lanes
    drain.vector[stage] = s.read
    drain.first[stage] = first
    entry = convert.results[s.read % plan.result_depth]
    for lane in range(min(plan.lanes, plan.n - first)):
        drain.y[stage, lane] = rescale(plan, entry[first + lane], contents.e[first + lane])
    d.step += 1
    if d.step < plan.output_steps:
        return False
    d.step = 0
    s.read += 1
    return True


@inner
def rescale(plan: Plan, acc: int, column: np.uint64) -> int:
    """Return an output from its accumulator and column parameters (section 1)."""
    factor = -16 if column & NEGATE else 16
    return fixed_point(factor * acc, column, plan.relu, plan.wide)
