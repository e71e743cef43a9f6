# SPDX-License-Identifier: Apache-2.0
"""What a step goes through: tree, accumulators, epilogue and pool, register by register."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.fixed_point import fixed_point
from sim.lib.kernel import inner
from sim.lib.record import Record, mark
from sim.xnor.counts import (
    ACCUMULATES,
    BASE_READS,
    COLUMN_READS,
    OUTPUTS,
    RESULTS,
    Y_BEATS,
)
from sim.xnor.plan import (
    LAST_OUTPUT,
    NEGATE,
    Contents,
    Plan,
)

STAGE = np.dtype(
    [
        ("vector", np.int64),  # -1: a bubble
        ("output_fold", np.int64),
        ("border", np.int64),
        ("first", np.int64),  # of the fold's steps?
        ("last", np.int64),
    ]
)


class Pipeline(NamedTuple):
    """The pipeline: a ring of `latency` slots, the last of which is the output register.

    Attributes
    ----------
    output : int64[1]
        Slot of the output register.
    stages : record array of STAGE, one entry a slot
    values : int64[slots, P]
        A step's mismatches; those of a whole fold; then s, and its results. The tree adds, and the
        fixed-point lane multiplies, at once, and the value travels.
    acc : int64[P]
        Accumulators.
    window : int64[NF, P]
        OR of the bits of a pool window so far.
    """

    output: NDArray[np.int64]
    stages: Any
    values: NDArray[np.int64]
    acc: NDArray[np.int64]
    window: NDArray[np.int64]


def make_pipeline(plan: Plan) -> Pipeline:
    """Return an empty pipeline."""
    stages = np.zeros(plan.latency, dtype=STAGE).view(np.recarray)
    stages.vector = -1
    return Pipeline(
        np.zeros(1, dtype=np.int64),
        stages,
        np.zeros((plan.latency, plan.pe), dtype=np.int64),
        np.zeros(plan.pe, dtype=np.int64),
        np.zeros((plan.output_folds, plan.pe), dtype=np.int64),
    )


@inner
def output_valid(pipeline: Pipeline) -> bool:
    """Whether a beat is in the output register."""
    return bool(pipeline.stages[pipeline.output[0]].vector >= 0)


@inner
def transfer_beat(
    plan: Plan, pipeline: Pipeline, record: Record, y: NDArray[np.int64], t: int
) -> None:
    """Transfer the output register."""
    slot = pipeline.output[0]
    stage = pipeline.stages[slot]
    first = stage.output_fold * plan.pe
    lanes = min(plan.pe, plan.n - first)
    for lane in range(lanes):
        y[stage.vector // plan.pool, first + lane] = pipeline.values[slot, lane]
    record.counts[OUTPUTS] += lanes
    record.counts[Y_BEATS] += 1
    mark(record, stage.vector, LAST_OUTPUT, t)


@inner
def move(plan: Plan, contents: Contents, pipeline: Pipeline, record: Record) -> int:
    """Move every step on by a stage, downstream first; return the slot that a new one enters."""
    slots = pipeline.stages.size
    entered = pipeline.output[0]
    counted = entered + slots - plan.tree_stages
    if plan.fixed == 0:
        _pool(plan, pipeline, (counted - 4) % slots)
    _finish(plan, contents, pipeline, record, (counted - 3) % slots)
    _sum(plan, contents, pipeline, record, (counted - 2) % slots)
    _accumulate(plan, pipeline, record, (counted - 1) % slots)
    pipeline.stages[entered].vector = -1
    pipeline.output[0] = (entered + 1) % slots
    return entered


@inner
def _lanes(plan: Plan, stage: Any) -> int:
    """Return the number of lanes with an output."""
    return int(min(plan.pe, plan.n - stage.output_fold * plan.pe))


@inner
def _accumulate(plan: Plan, pipeline: Pipeline, record: Record, slot: int) -> None:
    """Add a step's mismatches; only a fold's last step goes on."""
    stage = pipeline.stages[slot]
    if stage.vector < 0:
        return
    for lane in range(_lanes(plan, stage)):
        before = 0 if stage.first else pipeline.acc[lane]
        pipeline.acc[lane] = before + pipeline.values[slot, lane]
    record.counts[ACCUMULATES] += _lanes(plan, stage)
    if not stage.last:
        stage.vector = -1


@inner
def _sum(plan: Plan, contents: Contents, pipeline: Pipeline, record: Record, slot: int) -> None:
    """Turn the accumulators into sums."""
    stage = pipeline.stages[slot]
    if stage.vector < 0:
        return
    for lane in range(_lanes(plan, stage)):
        base = contents.base[stage.border, stage.output_fold * plan.pe + lane]
        pipeline.values[slot, lane] = np.int64(base) - 2 * pipeline.acc[lane]
    record.counts[BASE_READS] += 1


@inner
def _finish(plan: Plan, contents: Contents, pipeline: Pipeline, record: Record, slot: int) -> None:
    """Compare the sums, or rescale them."""
    stage = pipeline.stages[slot]
    if stage.vector < 0:
        return
    lanes = _lanes(plan, stage)
    for lane in range(lanes):
        s = pipeline.values[slot, lane]
        column = contents.e[stage.output_fold * plan.pe + lane]
        negate = column & NEGATE
        if plan.fixed:
            y = fixed_point(-16 * s if negate else 16 * s, column, plan.relu, plan.wide)
        else:
            threshold = np.int64(column & np.uint64(0xFFFFFFFF))
            threshold = (threshold ^ 0x80000000) - 0x80000000
            y = np.int64((s >= threshold) != (negate != 0))
        pipeline.values[slot, lane] = y
    record.counts[COLUMN_READS] += 1
    record.counts[RESULTS] += lanes


@inner
def _pool(plan: Plan, pipeline: Pipeline, slot: int) -> None:
    """OR a vector's bits with those of its window; only those of its last vector go on."""
    stage = pipeline.stages[slot]
    if stage.vector < 0:
        return
    place = stage.vector % plan.pool
    for lane in range(_lanes(plan, stage)):
        before = pipeline.window[stage.output_fold, lane] if place else 0
        pipeline.window[stage.output_fold, lane] = before | pipeline.values[slot, lane]
        pipeline.values[slot, lane] = pipeline.window[stage.output_fold, lane]
    if place < plan.pool - 1:
        stage.vector = -1
