# SPDX-License-Identifier: Apache-2.0
"""The fast model: values by counting bits, cycles by a recurrence over steps and output beats.

Every time is the largest of the times that it waits for, moved on to the next cycle in which its
stream is not stalled. Equal to the stepped model under any stall pattern.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import entry, inner
from sim.lib.record import Record, mark
from sim.lib.stalls import Stalls, last_load, unstalled
from sim.pim import values
from sim.pim.plan import (
    CONVERT,
    DRAIN,
    FILL,
    FIRST_CONVERSION,
    FIRST_LAUNCH,
    LAST_CONVERSION,
    LAST_LAUNCH,
    LAST_OUTPUT,
    LOAD,
    RESULT,
    ROW,
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
    launched : int64[2]
        Cycle of the last launch of vectors, by their number modulo 2.
    issued : int64[result_depth]
        Cycle of the last output step of vectors, by their number modulo the depth.
    pipe : int64[epilogue_latency]
        Output steps in the pipeline: enabled cycles before each reaches the output register, and
        its vector.
    blocked : int64[beats or 1, 2]
        Output beats that waited: cycles from and up to which; room only where o_y is stalled.
    scalars : int64[7]
        Indexed by the constants below.
    """

    launched: NDArray[np.int64]
    issued: NDArray[np.int64]
    pipe: NDArray[np.int64]
    blocked: NDArray[np.int64]
    scalars: NDArray[np.int64]


LAST_ISSUE, LAST_Y, DISABLED, HEAD, COUNT, BLOCKED, PASSED = range(7)
"""Cycle of the last output step and transfer; cycles without enable so far; oldest entry and number
of entries of `pipe`; entries of `blocked`, and those that no later cycle meets."""


def simulate(
    plan: Plan, contents: Contents, stalls: Stalls, record: Record
) -> tuple[int, NDArray[Any], NDArray[np.uint32]]:
    """Return a job's cycles, Y and the generators' states; fill `record`."""
    waits = plan.m * plan.output_steps if stalls.length[Y_STREAM] > 1 else 1
    times = Times(
        np.zeros(2, dtype=np.int64),
        np.zeros(plan.result_depth, dtype=np.int64),
        np.zeros((plan.epilogue_latency, 2), dtype=np.int64),
        np.zeros((waits, 2), dtype=np.int64),
        np.zeros(7, dtype=np.int64),
    )
    cycles = int(_count_cycles(plan, stalls, times, record))
    record.counts[:] = closed_form(plan)
    return cycles, *values.outputs(plan, contents)


def closed_form(plan: Plan) -> list[int]:
    """Return the counts of a whole job, in the order of `sim.pim.counts.NAMES`."""
    drives = plan.m * plan.slices * plan.k
    steps = plan.m * plan.steps
    columns = plan.n * plan.planes
    return [
        plan.m * plan.k * plan.n,
        drives,
        drives * columns * plan.cell_bits,
        steps * columns,
        steps * columns,
        steps * plan.mux * plan.adcs if plan.noise_bits else 0,
        steps * plan.n * min(plan.planes, plan.mux),
        plan.m * plan.n,
        *plan.load_beats.tolist(),
        plan.m * plan.groups,
        plan.m * plan.output_steps,
        1,
    ]


@entry
def _count_cycles(plan: Plan, stalls: Stalls, times: Times, record: Record) -> int:
    """Launch and convert every step, output every vector; return the cycles."""
    causes = record.causes
    convert_cycles = plan.mux * plan.conversion_cycles
    loaded = last_load(stalls, plan.load_beats)
    beat = np.int64(0)
    launch = np.int64(0)
    done = np.int64(0)  # first cycle after the last conversion, and after the one before it
    before = np.int64(0)
    for vector in range(plan.m):
        free = times.launched[vector & 1] + 1 if vector > 1 else 1
        beat = max(beat, free - 1)
        for step in range(plan.steps):
            earliest = max(loaded + 1, (done if plan.banks == 1 else before) - 1)
            if vector or step:
                earliest = max(earliest, launch + plan.row_cycles)
            if step < plan.groups:
                beat = unstalled(stalls, X_STREAM, beat + 1)
                earliest = max(earliest, beat + 1)
            launch = earliest
            sampled = launch + plan.row_cycles + 1
            start = max(sampled, done)
            if step == 0:
                mark(record, vector, FIRST_LAUNCH, launch)
                if vector >= plan.result_depth:
                    start = max(start, times.issued[vector % plan.result_depth] + 1)
                mark(record, vector, FIRST_CONVERSION, start)
            causes[RESULT] += start - max(sampled, done)
            causes[ROW] += max(0, sampled - max(done, launch + 1))
            # Before the launch nothing but its beat can be missing.
            if launch >= done:
                waits = max(0, min(loaded + 1, launch) - done)
                causes[LOAD] += waits
                causes[STALLED_IN] += launch - done - waits
                _flush(stalls, times, record, launch)
                causes[STALLED_OUT if _is_blocked(times, launch) else FILL] += 1
            before = done
            done = start + convert_cycles
        times.launched[vector & 1] = launch
        mark(record, vector, LAST_LAUNCH, launch)
        mark(record, vector, LAST_CONVERSION, done - 1)
        _output(plan, stalls, times, record, vector, done + plan.convert_latency)
    causes[CONVERT] = plan.m * plan.steps * convert_cycles
    _flush(stalls, times, record, 1 << 62)
    cycles = times.scalars[LAST_Y] + 1
    for entry_ in range(times.scalars[PASSED], times.scalars[BLOCKED]):
        first, end = times.blocked[entry_, 0], times.blocked[entry_, 1]
        causes[STALLED_OUT] += max(0, end - max(first, done))
    causes[DRAIN] = cycles - causes.sum()
    return cycles


@inner
def _is_blocked(times: Times, t: int) -> bool:
    """Whether the output register waits in cycle t, which is later than any asked for before."""
    scalars = times.scalars
    while scalars[PASSED] < scalars[BLOCKED] and times.blocked[scalars[PASSED], 1] <= t:
        scalars[PASSED] += 1
    return scalars[PASSED] < scalars[BLOCKED] and times.blocked[scalars[PASSED], 0] <= t


@inner
def _output(
    plan: Plan, stalls: Stalls, times: Times, record: Record, vector: int, readable: int
) -> None:
    """Issue a vector's output steps, the first not before it is readable."""
    scalars = times.scalars
    t = max(readable, scalars[LAST_ISSUE] + 1)
    if stalls.length[Y_STREAM] == 1:
        t += plan.output_steps - 1
        scalars[LAST_Y] = t + plan.epilogue_latency
        mark(record, vector, LAST_OUTPUT, scalars[LAST_Y])
    else:
        for step in range(plan.output_steps):
            t = _flush(stalls, times, record, t + (step > 0))
            tail = (scalars[HEAD] + scalars[COUNT]) % plan.epilogue_latency
            times.pipe[tail, 0] = t - scalars[DISABLED] + plan.epilogue_latency
            times.pipe[tail, 1] = vector
            scalars[COUNT] += 1
    scalars[LAST_ISSUE] = t
    times.issued[vector % plan.result_depth] = t


@inner
def _flush(stalls: Stalls, times: Times, record: Record, t: int) -> int:
    """Transfer the outputs visible up to cycle t; return the first enabled cycle from t on.

    The pipeline stands still from the cycle in which an output becomes visible up to its transfer.
    """
    scalars = times.scalars
    # What an earlier call transferred may have waited beyond t.
    t = max(t, scalars[LAST_Y])
    while scalars[COUNT]:
        visible = times.pipe[scalars[HEAD], 0] + scalars[DISABLED]
        if visible > t:
            break
        transfer = unstalled(stalls, Y_STREAM, visible)
        if transfer > visible:
            times.blocked[scalars[BLOCKED], 0] = visible
            times.blocked[scalars[BLOCKED], 1] = transfer
            scalars[BLOCKED] += 1
        scalars[DISABLED] += transfer - visible
        scalars[LAST_Y] = transfer
        mark(record, times.pipe[scalars[HEAD], 1], LAST_OUTPUT, transfer)
        scalars[HEAD] = (scalars[HEAD] + 1) % times.pipe.shape[0]
        scalars[COUNT] -= 1
        t = max(t, transfer)
    return t
