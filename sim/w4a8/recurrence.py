# SPDX-License-Identifier: Apache-2.0
"""Exact cycles by a recurrence over events instead of cycles.

Every time is the largest of the times that it waits for, moved on to the next cycle in which its
stream is not stalled. Tiles are visited in order; what a tile waits for (credit, result rows, the
drain) is given back by earlier ones, so one pass over the beats suffices, and one over the chunks
where nothing is stalled. Equal to the stepped model under any stall pattern.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import entry, inner
from sim.lib.stalls import Stalls, unstalled
from sim.w4a8.events import Record, note
from sim.w4a8.fetch import cols_valid, rows_valid
from sim.w4a8.plan import (
    A_BEATS_WS,
    COMPUTE,
    DRAIN,
    FILL,
    INTERVAL,
    PARAMETER_BEATS,
    RESULT,
    WAIT_A,
    WAIT_SCALE,
    WAIT_W,
    A,
    E,
    Plan,
    R,
    S,
    W,
    Y,
)

_LONG_AGO = -(1 << 60)


class Times(NamedTuple):
    """Times that later events wait for.

    Attributes
    ----------
    depth : int64[5]
        Credit of each stream in units.
    request, response : int64[5]
        Cycle of each stream's last request and response.
    fetched, consumed : int64[5]
        Units asked for and released.
    released : int64[5, 64]
        Release cycle of unit u at u % depth.
    drained : int64[result_rows]
        Cycle in which a tile (os) or result row (ws) was given back, at its number modulo the
        capacity.
    launched : int64[tile_rows]
        ws: launch cycle of the tile's rows in its last k-tile.
    scale_waits : int64[R, 2]
        ws: cycles from and up to which the load of the pass lacks only a scale beat.
    pipe : int64[EPI]
        Drain steps in the epilogue: enabled cycles before each reaches the output register.
    scalars : int64[6]
        Indexed by the constants below.
    """

    depth: NDArray[np.int64]
    request: NDArray[np.int64]
    response: NDArray[np.int64]
    fetched: NDArray[np.int64]
    consumed: NDArray[np.int64]
    released: NDArray[np.int64]
    drained: NDArray[np.int64]
    launched: NDArray[np.int64]
    scale_waits: NDArray[np.int64]
    pipe: NDArray[np.int64]
    scalars: NDArray[np.int64]


LAST_STEP, LAST_Y, DISABLED, PIPE_HEAD, PIPE_COUNT, LOADED = range(6)
"""Cycle of the last drain step and y transfer; cycles without enable so far; oldest entry and
number of entries of `pipe`; cycle of the last load step."""


def count_cycles(plan: Plan, stalls: Stalls, record: Record) -> int:
    """Return the cycles of a job; fill `record.causes` and `record.tiles`."""
    depth = np.full(5, PARAMETER_BEATS)
    depth[W] = plan.prefetch
    depth[A] = A_BEATS_WS if plan.ws else plan.prefetch
    times = Times(
        depth=depth,
        request=np.zeros(5, dtype=np.int64),
        response=np.zeros(5, dtype=np.int64),
        fetched=np.zeros(5, dtype=np.int64),
        consumed=np.zeros(5, dtype=np.int64),
        released=np.zeros((5, 64), dtype=np.int64),
        drained=np.zeros(plan.result_rows, dtype=np.int64),
        launched=np.zeros(plan.tile_rows if plan.ws else 1, dtype=np.int64),
        scale_waits=np.zeros((plan.rows, 2), dtype=np.int64),
        pipe=np.zeros(plan.epilogue_latency, dtype=np.int64),
        scalars=np.zeros(6, dtype=np.int64),
    )
    return int(_count(plan, stalls, times, record))


@entry
def _count(plan: Plan, stalls: Stalls, times: Times, record: Record) -> int:
    times.scalars[LOADED] = -1
    last_launch = _ws(plan, stalls, times, record) if plan.ws else _os(plan, stalls, times, record)
    _flush(stalls, times, 1 << 62)
    cycles = times.scalars[LAST_Y] + 1
    record.causes[FILL] = 1
    record.causes[DRAIN] = cycles - 1 - last_launch
    return cycles


@inner
def _os(plan: Plan, stalls: Stalls, times: Times, record: Record) -> int:
    """Launch and drain every tile of an output-stationary array; return the last launch."""
    causes = record.causes
    launched = 0
    first = _LONG_AGO
    last = _LONG_AGO
    capacity = plan.result_rows // plan.rows
    for tile in range(plan.row_tiles * plan.col_tiles):
        rows = rows_valid(plan, tile // plan.col_tiles)
        cols = cols_valid(plan, tile % plan.col_tiles)
        k = 0
        while k < plan.k:
            # Waves k up to `stop` follow each other without a wait.
            opens_part = k % plan.part == 0
            stop = min(plan.k, k - k % plan.part + plan.part)
            opens_group = plan.group_scales != 0 and k % plan.group == 0
            if plan.group_scales:
                stop = min(stop, k - k % plan.group + plan.group)
            if plan.k < plan.last_gap and k < plan.k - 1:
                stop = min(stop, plan.k - 1)
            t = launched + 1
            if k == 0:
                t = _wait(causes, t, first + plan.period, INTERVAL)
            if k == plan.k - 1:
                t = _wait(causes, t, last + plan.last_gap, INTERVAL)
            if k == 0 and tile >= capacity:
                t = _wait(causes, t, times.drained[tile % capacity] + 1, RESULT)
            if opens_part:
                t = _wait(causes, t, _fetch(plan, stalls, times, A, rows), WAIT_A)
                t = _wait(causes, t, _fetch(plan, stalls, times, W, cols), WAIT_W)
            if opens_group:
                t = _wait(causes, t, _fetch(plan, stalls, times, S, 1), WAIT_SCALE)
                _release(times, S, t)
            if k == 0:
                first = t
                note(record.tiles, tile, 0, t)
            launched = t + stop - k - 1
            k = stop
            if k % plan.part == 0 or k == plan.k:
                _release(times, A, launched)
                _release(times, W, launched)
        last = launched
        note(record.tiles, tile, 0, last)
        causes[COMPUTE] += plan.k

        e_usable = _fetch(plan, stalls, times, E, 1)
        ready = max(last + plan.drain_latency, e_usable)
        if plan.fp16:
            ready = max(ready, _fetch(plan, stalls, times, R, 1))
        steps = rows * -(-cols // plan.lanes)
        _drain(plan, stalls, times, record, tile, ready, steps)
        times.drained[tile % capacity] = times.scalars[LAST_STEP]
        _release(times, E, times.scalars[LAST_STEP])
        _release(times, R, times.scalars[LAST_STEP])
    return last


@inner
def _ws(plan: Plan, stalls: Stalls, times: Times, record: Record) -> int:
    """Load, launch and drain every tile of a weight-stationary array; return the last launch."""
    causes = record.causes
    launched = 0
    first = _LONG_AGO
    # Number of waves, and of result rows taken before the tile.
    waves = 0
    rows_taken = 0
    # Without stalls an activation beat comes back before its wave's turn, but for the first.
    a_in_time = (
        stalls.length[2 * A] == 1
        and stalls.length[2 * A + 1] == 1
        and plan.memory_latency <= A_BEATS_WS - 2
    )
    for tile in range(plan.row_tiles * plan.col_tiles):
        rows = rows_valid(plan, tile // plan.col_tiles)
        cols = cols_valid(plan, tile % plan.col_tiles)
        for part in range(plan.parts):
            loads = _load(plan, stalls, times, part, cols, first if plan.overlap else launched + 1)
            last = launched
            wave = 0
            while wave < rows:
                t = launched + 1
                if wave == 0:
                    t = _wait(causes, t, first + plan.period, INTERVAL)
                if wave == rows - 1 and waves:
                    t = _wait(causes, t, last + plan.last_gap, INTERVAL)
                if part == 0 and rows_taken + wave >= plan.result_rows:
                    slot = (rows_taken + wave) % plan.result_rows
                    t = _wait(causes, t, times.drained[slot] + 1, RESULT)
                if wave == 0:
                    t = _wait_load(plan, causes, times, t, loads)
                if a_in_time:
                    if waves == 0 and wave == 0:
                        t = _wait(causes, t, plan.memory_latency + 2, WAIT_A)
                else:
                    t = _wait(causes, t, _fetch(plan, stalls, times, A, 1), WAIT_A)
                    _release(times, A, t)
                if wave == 0:
                    first = t
                    if part == 0:
                        note(record.tiles, tile, 0, t)
                # Up to the last wave nothing else can hold back what needs no result row.
                run = 1
                if a_in_time and part and wave:
                    run = max(1, rows - 1 - wave)
                launched = t + run - 1
                if part == plan.parts - 1:
                    for i in range(run):
                        times.launched[wave + i] = t + i
                wave += run
            waves += rows
        causes[COMPUTE] += plan.parts * rows
        note(record.tiles, tile, 0, launched)
        _drain_ws_tile(plan, stalls, times, record, tile, rows_taken)
        rows_taken += rows
    return launched


@inner
def _load(plan: Plan, stalls: Stalls, times: Times, part: int, cols: int, turn: int) -> int:
    """Load a pass's weights; return how many entries of `scale_waits` it made."""
    t = max(max(times.scalars[LOADED] + 1, turn), _fetch(plan, stalls, times, W, cols))
    k0 = part * plan.part
    step = 0
    loads = 0
    if plan.group_scales:
        while step < plan.rows and k0 + step < plan.k:
            usable = _fetch(plan, stalls, times, S, 1)
            if usable > t:
                times.scale_waits[loads, 0] = t
                times.scale_waits[loads, 1] = usable
                loads += 1
                t = usable
            _release(times, S, t)
            following = min(((k0 + step) // plan.group + 1) * plan.group - k0, plan.rows)
            t += following - step
            step = following
    t += plan.rows - step
    times.scalars[LOADED] = t - 1
    _release(times, W, t - 1)
    return loads


@inner
def _wait_load(plan: Plan, causes: NDArray[np.int64], times: Times, t: int, loads: int) -> int:
    """Wait until the pass's weights stand in the array."""
    ready = times.scalars[LOADED] + plan.quant_stages + 1
    if ready <= t:
        return t
    for i in range(loads):
        begin = max(t, times.scale_waits[i, 0])
        end = max(begin, min(ready, times.scale_waits[i, 1]))
        causes[WAIT_SCALE] += end - begin
        causes[WAIT_W] -= end - begin
    causes[WAIT_W] += ready - t
    return ready


@inner
def _drain_ws_tile(
    plan: Plan, stalls: Stalls, times: Times, record: Record, tile: int, rows_taken: int
) -> None:
    """Drain a tile's rows, each as soon as it is complete."""
    rows = rows_valid(plan, tile // plan.col_tiles)
    steps = -(-cols_valid(plan, tile % plan.col_tiles) // plan.lanes)
    e_usable = _fetch(plan, stalls, times, E, 1)
    r_usable = 0
    for row in range(rows):
        if plan.fp16 and row % plan.rows == 0:
            r_usable = _fetch(plan, stalls, times, R, 1)
        ready = max(times.launched[row] + plan.drain_latency, max(e_usable, r_usable))
        _drain(plan, stalls, times, record, tile, ready, steps)
        times.drained[(rows_taken + row) % plan.result_rows] = times.scalars[LAST_STEP]
        if row == rows - 1 or (row + 1) % plan.rows == 0:
            _release(times, R, times.scalars[LAST_STEP])
    _release(times, E, times.scalars[LAST_STEP])


@inner
def _wait(causes: NDArray[np.int64], t: int, until: int, cause: int) -> int:
    """Charge the cycles from t up to `until` to a cause; return the later of both."""
    if until <= t:
        return t
    causes[cause] += until - t
    return until


@inner
def _fetch(plan: Plan, stalls: Stalls, times: Times, stream: int, beats: int) -> int:
    """Ask for the stream's next unit; return the cycle from which it is usable."""
    unit = times.fetched[stream]
    depth = times.depth[stream]
    times.fetched[stream] = unit + 1
    t = times.request[stream] + 1
    if unit >= depth:
        t = max(t, times.released[stream, unit % depth] + 1)
    response = times.response[stream]
    if stalls.length[2 * stream] == 1 and stalls.length[2 * stream + 1] == 1:
        t += beats - 1
        response = t + plan.memory_latency
    else:
        t -= 1
        for _ in range(beats):
            t = unstalled(stalls, 2 * stream, t + 1)
            earliest = max(t + plan.memory_latency, response + 1)
            response = unstalled(stalls, 2 * stream + 1, earliest)
    times.request[stream] = t
    times.response[stream] = response
    return response + 1


@inner
def _release(times: Times, stream: int, t: int) -> None:
    """Give back the stream's oldest unit in cycle t."""
    unit = times.consumed[stream]
    times.released[stream, unit % times.depth[stream]] = t
    times.consumed[stream] = unit + 1


@inner
def _drain(
    plan: Plan, stalls: Stalls, times: Times, record: Record, tile: int, ready: int, steps: int
) -> None:
    """Issue drain steps, the first not before `ready`."""
    scalars = times.scalars
    t = max(ready, scalars[LAST_STEP] + 1)
    if stalls.length[2 * Y] == 1:
        note(record.tiles, tile, 2, t)
        t += steps - 1
        scalars[LAST_Y] = t + plan.epilogue_latency
    else:
        for step in range(steps):
            t = _flush(stalls, times, t + (step > 0))
            note(record.tiles, tile, 2, t)
            tail = (scalars[PIPE_HEAD] + scalars[PIPE_COUNT]) % plan.epilogue_latency
            times.pipe[tail] = t - scalars[DISABLED] + plan.epilogue_latency
            scalars[PIPE_COUNT] += 1
    note(record.tiles, tile, 2, t)
    scalars[LAST_STEP] = t


@inner
def _flush(stalls: Stalls, times: Times, t: int) -> int:
    """Transfer the outputs visible up to cycle t; return the first enabled cycle from t on.

    The pipeline stands still from the cycle in which an output becomes visible up to its transfer.
    """
    scalars = times.scalars
    while scalars[PIPE_COUNT]:
        visible = times.pipe[scalars[PIPE_HEAD]] + scalars[DISABLED]
        if visible > t:
            break
        transfer = unstalled(stalls, 2 * Y, visible)
        scalars[DISABLED] += transfer - visible
        scalars[LAST_Y] = transfer
        scalars[PIPE_HEAD] = (scalars[PIPE_HEAD] + 1) % times.pipe.size
        scalars[PIPE_COUNT] -= 1
        t = max(t, transfer)
    return t
