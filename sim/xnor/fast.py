# SPDX-License-Identifier: Apache-2.0
"""The fast model: values by counting bits, cycles by a recurrence over input and output beats.

The pipeline stands still from the cycle in which a beat is visible at the output up to its
transfer; in between steps follow each other, except where the first fold waits for its input. Equal
to the stepped model under any stall pattern.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import entry, inner
from sim.lib.record import Record, mark
from sim.lib.stalls import Stalls, last_load, unstalled
from sim.xnor import values
from sim.xnor.plan import (
    COMPUTE,
    DRAIN,
    FIRST_ISSUE,
    LAST_ISSUE,
    LAST_OUTPUT,
    LOAD,
    QUEUE_BEATS,
    STALLED_IN,
    STALLED_OUT,
    X_STREAM,
    Y_STREAM,
    Contents,
    Plan,
)


class Times(NamedTuple):
    """Times that later events wait for.

    Attributes
    ----------
    taken : int64[QUEUE_BEATS]
        Cycle of the step that took a beat, by the beat's number modulo the size.
    pipe : int64[latency, 2]
        Beats on their way to the output: enabled cycles before each is visible, and its vector.
    scalars : int64[4]
        Indexed by the constants below.
    """

    taken: NDArray[np.int64]
    pipe: NDArray[np.int64]
    scalars: NDArray[np.int64]


DISABLED, HEAD, COUNT, LAST_Y = range(4)
"""Cycles in which the pipeline stood still so far; oldest entry and number of entries of `pipe`;
cycle of the last output transfer."""


def simulate(
    plan: Plan, contents: Contents, stalls: Stalls, record: Record
) -> tuple[int, NDArray[Any]]:
    """Return a job's cycles and Y; fill `record`."""
    times = Times(
        np.zeros(QUEUE_BEATS, dtype=np.int64),
        np.zeros((plan.latency, 2), dtype=np.int64),
        np.zeros(4, dtype=np.int64),
    )
    cycles = int(_count_cycles(plan, stalls, times, record))
    record.counts[:] = closed_form(plan)
    return cycles, values.outputs(plan, contents)


def closed_form(plan: Plan) -> list[int]:
    """Return the counts of a whole job, in the order of `sim.xnor.counts.NAMES`."""
    beats = plan.m * plan.input_folds
    folds = plan.m * plan.output_folds
    return [
        plan.m * plan.k * plan.n,
        folds * plan.input_folds,
        folds,
        folds,
        beats,
        beats * (plan.output_folds - 1),
        beats * plan.n,
        plan.m * plan.n,
        plan.m // plan.pool * plan.n,
        *plan.load_beats.tolist(),
        beats,
        folds // plan.pool,
        1,
    ]


@entry
def _count_cycles(plan: Plan, stalls: Stalls, times: Times, record: Record) -> int:
    """Issue every step, transfer every output; return the cycles."""
    causes, scalars = record.causes, times.scalars
    loaded = last_load(stalls, plan.load_beats)
    # A queue of some beats that come in every cycle is never empty but before the first.
    waits = stalls.length[X_STREAM] > 1
    beat = np.int64(0)
    step = max(loaded, np.int64(0 if waits else 1))
    for vector in range(plan.m):
        ends = vector % plan.pool == plan.pool - 1
        if waits:
            beat, step = _take(plan, stalls, times, record, vector, beat, step)
        else:
            step = _enabled(stalls, times, record, step + 1)
            mark(record, vector, FIRST_ISSUE, step)
            step = _advance(plan, stalls, times, record, step)
        if stalls.length[Y_STREAM] == 1:
            step += (plan.output_folds - 1) * plan.input_folds
            if ends:
                scalars[LAST_Y] = step + plan.latency
                mark(record, vector, LAST_OUTPUT, scalars[LAST_Y])
        else:
            for fold in range(plan.output_folds):
                if fold:
                    step = _enabled(stalls, times, record, step + 1)
                    step = _advance(plan, stalls, times, record, step)
                if ends:
                    _push(plan, times, vector, step)
        mark(record, vector, LAST_ISSUE, step)
    before = scalars[DISABLED]
    _enabled(stalls, times, record, np.int64(1 << 62))
    cycles = scalars[LAST_Y] + 1
    causes[COMPUTE] = plan.m * plan.output_folds * plan.input_folds
    causes[STALLED_OUT] = scalars[DISABLED]
    causes[LOAD] = loaded + 1
    causes[DRAIN] = scalars[LAST_Y] - step - (scalars[DISABLED] - before)
    causes[STALLED_IN] = cycles - causes.sum()
    return cycles


@inner
def _take(
    plan: Plan, stalls: Stalls, times: Times, record: Record, vector: int, beat: int, step: int
) -> tuple[int, int]:
    """Issue a vector's first fold; return the cycles of its last beat and of its last step.

    `beat` and `step` are those before.
    """
    for fold in range(plan.input_folds):
        number = vector * plan.input_folds + fold
        place = number % QUEUE_BEATS
        free = times.taken[place] + 1 if number >= QUEUE_BEATS else np.int64(1)
        beat = unstalled(stalls, X_STREAM, max(beat + 1, free))
        step = _enabled(stalls, times, record, max(step, beat) + 1)
        times.taken[place] = step
        if fold == 0:
            mark(record, vector, FIRST_ISSUE, step)
    return beat, step


@inner
def _push(plan: Plan, times: Times, vector: int, step: int) -> None:
    """Send the beat of the step issued now on its way to the output."""
    scalars = times.scalars
    tail = (scalars[HEAD] + scalars[COUNT]) % plan.latency
    times.pipe[tail, 0] = step - scalars[DISABLED] + plan.latency
    times.pipe[tail, 1] = vector
    scalars[COUNT] += 1


@inner
def _advance(plan: Plan, stalls: Stalls, times: Times, record: Record, step: int) -> int:
    """Issue a fold's steps after its first, none of which waits; return the last one's cycle."""
    scalars = times.scalars
    left = plan.input_folds - 1
    while left:
        # Nothing stops them before the next output beat is visible.
        following = left
        if scalars[COUNT]:
            visible = times.pipe[scalars[HEAD], 0] + scalars[DISABLED]
            following = min(left, visible - step - 1)
        step += following
        left -= following
        if left:
            step = _enabled(stalls, times, record, step + 1)
            left -= 1
    return step


@inner
def _enabled(stalls: Stalls, times: Times, record: Record, t: int) -> int:
    """Transfer the outputs visible up to cycle t; return the first enabled cycle from t on."""
    scalars = times.scalars
    while scalars[COUNT]:
        visible = times.pipe[scalars[HEAD], 0] + scalars[DISABLED]
        if visible > t:
            break
        transfer = unstalled(stalls, Y_STREAM, visible)
        scalars[DISABLED] += transfer - visible
        scalars[LAST_Y] = transfer
        mark(record, times.pipe[scalars[HEAD], 1], LAST_OUTPUT, transfer)
        scalars[HEAD] = (scalars[HEAD] + 1) % times.pipe.shape[0]
        scalars[COUNT] -= 1
        t = max(t, transfer)
    return t
