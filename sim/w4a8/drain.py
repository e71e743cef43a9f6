# SPDX-License-Identifier: Apache-2.0
"""Drain of finished results and the epilogue pipeline, one cycle at a time (section 5.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.fixed_point import fixed_point
from sim.lib.float16 import f32_to_f16
from sim.lib.kernel import inner
from sim.lib.stalls import Stalls
from sim.w4a8.array import Array
from sim.w4a8.counts import BEATS, EPILOGUE, RESULT_READ
from sim.w4a8.fetch import Fetch, cols_valid, is_stalled, rows_valid
from sim.w4a8.plan import E, Plan, R, Y

DRAINER = np.dtype(
    [
        # The step to be issued next.
        ("row_tile", np.int64),
        ("col_tile", np.int64),
        ("row", np.int64),
        ("lane0", np.int64),  # first column of the step
        ("pending", np.int64),
        ("row0", np.int64),  # result row of `row`
        ("rows_back", np.int64),  # result rows given back in this cycle
        ("tile", np.int64),
        # The output register is the pipeline's oldest stage.
        ("stage", np.int64),
        ("enabled", np.int64),
        ("last_cycle", np.int64),  # of the last y transfer
        ("transfers_left", np.int64),
    ]
)


class Drain(NamedTuple):
    """Drain counters and the pipeline, a ring of `epilogue_latency` stages.

    Attributes
    ----------
    drainer : record array of DRAINER, one entry
    lanes : int64[EPI]
        Valid lanes of the step in each stage; 0 is a bubble.
    m, n : int64[EPI]
        Row and first column of the step.
    y : uint16[EPI, E]
        Results of the step; the arithmetic is done at once and the result travels.
    """

    drainer: Any
    lanes: NDArray[np.int64]
    m: NDArray[np.int64]
    n: NDArray[np.int64]
    y: NDArray[np.uint16]


def make_drain(plan: Plan) -> Drain:
    """Return an empty pipeline."""
    drainer = np.zeros(1, dtype=DRAINER).view(np.recarray)
    drainer.pending = 1
    full, rest = divmod(plan.n, plan.cols)
    steps_per_row = full * -(-plan.cols // plan.lanes) + -(-rest // plan.lanes)
    drainer.transfers_left = plan.m * steps_per_row
    stages = plan.epilogue_latency
    return Drain(
        drainer,
        np.zeros(stages, dtype=np.int64),
        np.zeros(stages, dtype=np.int64),
        np.zeros(stages, dtype=np.int64),
        np.zeros((stages, plan.lanes), dtype=np.uint16),
    )


@inner
def output_cycle(
    drain: Drain,
    stalls: Stalls,
    fetch: Fetch,
    counts: NDArray[np.int64],
    y: NDArray[np.uint16],
    t: int,
) -> None:
    """Transfer the output register if it can be, and say whether the pipeline moves."""
    d = drain.drainer[0]
    stage = d.stage
    lanes = drain.lanes[stage]
    d.enabled = 1
    if lanes == 0:
        return
    if is_stalled(stalls, fetch.stall_position, 2 * Y):
        d.enabled = 0
        return
    for lane in range(lanes):
        y[drain.m[stage], drain.n[stage] + lane] = drain.y[stage, lane]
    counts[BEATS + Y] += 1
    d.last_cycle = t
    d.transfers_left -= 1


@inner
def drain_cycle(
    plan: Plan, drain: Drain, fetch: Fetch, array: Array, counts: NDArray[np.int64]
) -> int:
    """Issue a drain step where possible and move the pipeline on; return the number of lanes."""
    d = drain.drainer[0]
    d.rows_back = 0
    if not d.enabled:
        return 0
    stage = d.stage
    d.stage = stage + 1 if stage + 1 < drain.lanes.size else 0
    drain.lanes[stage] = 0
    if (
        not d.pending
        or not array.complete[0]
        or not fetch.streams[E].usable
        or (plan.fp16 and not fetch.streams[R].usable)
    ):
        return 0
    cols = cols_valid(plan, d.col_tile)
    lanes = min(plan.lanes, cols - d.lane0)
    drain.lanes[stage] = lanes
    drain.m[stage] = d.row_tile * plan.tile_rows + d.row
    drain.n[stage] = d.col_tile * plan.cols + d.lane0
    _epilogue(plan, drain, fetch, array, lanes)
    counts[EPILOGUE] += lanes
    counts[RESULT_READ] += lanes
    d.lane0 += lanes
    if d.lane0 == cols:
        d.lane0 = 0
        _row_drained(plan, d, fetch, array)
    return lanes


@inner
def _row_drained(plan: Plan, d: Any, fetch: Fetch, array: Array) -> None:
    """Give back what the row, its R rows, or its tile held; step to the next row."""
    d.row += 1
    tile_done = d.row == rows_valid(plan, d.row_tile)
    if plan.ws:
        array.complete[0] -= 1
        d.rows_back = 1
    elif tile_done:
        array.complete[0] -= 1
        d.rows_back = plan.rows
    # The next row's result address: a whole os tile is given back, its missing rows too.
    d.row0 += 1 if plan.ws or not tile_done else plan.rows - (d.row - 1)
    d.row0 -= plan.result_rows if d.row0 >= plan.result_rows else 0
    if plan.fp16 and (tile_done or (plan.ws and d.row % plan.rows == 0)):
        fetch.streams[R].release = 1
    if not tile_done:
        return
    fetch.streams[E].release = 1
    d.row = 0
    d.tile += 1
    d.col_tile += 1
    if d.col_tile == plan.col_tiles:
        d.col_tile = 0
        d.row_tile += 1
        d.pending = int(d.row_tile < plan.row_tiles)


@inner
def _epilogue(plan: Plan, drain: Drain, fetch: Fetch, array: Array, lanes: int) -> None:
    """Compute the lanes of the step that is being issued (section 1)."""
    d = drain.drainer[0]
    column = fetch.buffers.e[fetch.streams[E].oldest]
    y = drain.y[d.stage - 1 if d.stage else drain.lanes.size - 1]
    sums = array.results[d.row0]
    if plan.fp16:
        row_bits = fetch.buffers.r[fetch.streams[R].oldest, d.row % plan.rows]
        row_scale = np.uint32(row_bits).view(np.float32)
        for lane in range(lanes):
            c = d.lane0 + lane
            scale = np.uint32(column[c] & np.uint64(0xFFFFFFFF)).view(np.float32)
            y[lane] = f32_to_f16(np.float32(np.float32(sums[c]) * scale) * row_scale)
    else:
        for lane in range(lanes):
            c = d.lane0 + lane
            y[lane] = fixed_point(sums[c], column[c], plan.relu, plan.wide) & 0xFFFF
