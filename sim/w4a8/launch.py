# SPDX-License-Identifier: Apache-2.0
"""Launching waves and loading weights, one cycle at a time (sections 5.2 and 5.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.w4a8.array import FIRST, FIRST_PART, LAST, LAST_PART, WAVE, Array
from sim.w4a8.counts import (
    MAC,
    OPERAND_REG,
    REQUANT,
    RESULT_READ,
    RESULT_WRITE,
    RING_READ,
)
from sim.w4a8.fetch import Fetch, cols_valid, rows_valid
from sim.w4a8.plan import (
    COMPUTE,
    DRAIN,
    FILL,
    INTERVAL,
    RESULT,
    WAIT_A,
    WAIT_SCALE,
    WAIT_W,
    A,
    Plan,
    S,
    W,
)
from sim.w4a8.unpack import requantise, weight_code

LONG_AGO = -(1 << 60)

LAUNCHER = np.dtype(
    [
        # The wave (os: k; ws: result row of the tile) to be launched next.
        ("row_tile", np.int64),
        ("col_tile", np.int64),
        ("part", np.int64),
        ("wave", np.int64),
        ("in_part", np.int64),
        ("in_group", np.int64),
        ("pending", np.int64),  # 1 while waves remain
        ("first_cycle", np.int64),  # of the previous wave 0
        ("last_cycle", np.int64),  # of the previous last wave
        ("free_rows", np.int64),
        ("row0", np.int64),  # result row of the tile's row 0
        ("passes_started", np.int64),
        ("passes_finished", np.int64),
        ("tile", np.int64),
    ]
)

LOADER = np.dtype(
    [
        # The load step to be issued next (ws).
        ("col_tile", np.int64),
        ("row_tile", np.int64),
        ("part", np.int64),
        ("step", np.int64),
        ("pending", np.int64),
        ("passes_loaded", np.int64),
        ("last_cycle", np.int64),  # of the last step of the pass loaded last
    ]
)


class Launch(NamedTuple):
    """Launcher, loader and the scale register of each column."""

    launcher: Any  # record array of LAUNCHER, one entry
    loader: Any  # record array of LOADER, one entry
    scale: NDArray[np.uint16]


def make_launch(plan: Plan) -> Launch:
    """Return a launcher that stands at its first wave."""
    launcher = np.zeros(1, dtype=LAUNCHER).view(np.recarray)
    launcher.pending = 1
    launcher.first_cycle = LONG_AGO
    launcher.last_cycle = LONG_AGO
    launcher.free_rows = plan.result_rows
    loader = np.zeros(1, dtype=LOADER).view(np.recarray)
    loader.pending = plan.ws
    return Launch(launcher, loader, np.zeros(plan.cols, dtype=np.uint16))


@inner
def launch_os(
    plan: Plan, fetch: Fetch, launch: Launch, array: Array, counts: NDArray[np.int64], t: int
) -> int:
    """Launch a wave in cycle t if nothing holds it back; return the cycle's cause."""
    array.edge[0] = 0
    array.edge_a[:] = 0
    array.edge_w[:] = 0
    u = launch.launcher[0]
    if not u.pending:
        return DRAIN
    cause = _os_cause(plan, fetch, u, t)
    if cause == COMPUTE:
        _launch_os_wave(plan, fetch, launch, array, counts, t)
    return cause


@inner
def _os_cause(plan: Plan, fetch: Fetch, u: Any, t: int) -> int:
    if t == 0:
        return FILL
    if u.wave == 0 and t < u.first_cycle + plan.period:
        return INTERVAL
    if u.wave == plan.k - 1 and t < u.last_cycle + plan.last_gap:
        return INTERVAL
    if u.wave == 0 and u.free_rows < plan.rows:
        return RESULT
    if u.in_part == 0 and not fetch.streams[A].usable:
        return WAIT_A
    if u.in_part == 0 and not fetch.streams[W].usable:
        return WAIT_W
    if plan.group_scales and u.in_group == 0 and not fetch.streams[S].usable:
        return WAIT_SCALE
    return COMPUTE


@inner
def _launch_os_wave(
    plan: Plan, fetch: Fetch, launch: Launch, array: Array, counts: NDArray[np.int64], t: int
) -> None:
    u = launch.launcher[0]
    rows, cols = rows_valid(plan, u.row_tile), cols_valid(plan, u.col_tile)
    if plan.group_scales and u.in_group == 0:
        _take_scales(fetch, launch)
    _take_activations(plan, fetch, array, fetch.streams[A].oldest * plan.rows, rows, u.in_part)
    _take_weights(plan, fetch, launch, array, cols, u.in_part)

    first, last = u.wave == 0, u.wave == plan.k - 1
    array.edge[0] = WAVE | (FIRST if first else 0) | (LAST if last else 0)
    array.edge[1] = u.row0
    counts[MAC] += rows * cols
    counts[OPERAND_REG] += rows * ((cols + 1) // 2) + rows * cols
    counts[REQUANT] += plan.group_scales * cols
    counts[RING_READ] += rows + (cols + 1) // 2
    if first:
        u.first_cycle = t
        u.free_rows -= plan.rows
    u.wave += 1
    u.in_part += 1
    u.in_group = u.in_group + 1 if u.in_group + 1 < plan.group else 0
    if last or u.in_part == plan.part:
        u.in_part = 0
        fetch.streams[A].release = 1
        fetch.streams[W].release = 1
    if last:
        counts[RESULT_WRITE] += rows * cols
        u.last_cycle = t
        u.wave = 0
        u.in_group = 0
        u.tile += 1
        u.row0 += plan.rows
        u.row0 -= plan.result_rows if u.row0 >= plan.result_rows else 0
        _next_tile(plan, u)


@inner
def launch_ws(
    plan: Plan, fetch: Fetch, launch: Launch, array: Array, counts: NDArray[np.int64], t: int
) -> int:
    """Launch a wave and issue a load step in cycle t where possible; return the cycle's cause."""
    array.edge[0] = 0
    array.edge[2] = -1
    array.edge_a[:] = 0
    array.edge_w[:] = 0
    u = launch.launcher[0]
    cause = DRAIN
    if u.pending:
        cause = _ws_cause(plan, fetch, launch, t)
        if cause == COMPUTE:
            _launch_ws_wave(plan, fetch, u, array, counts, t)
    v = launch.loader[0]
    if v.pending and _tile_loadable(plan, fetch, launch) and _scale_usable(plan, fetch, v):
        _load_step(plan, fetch, launch, array, counts, t)
    u.passes_finished += int(array.edge[0] & LAST != 0)  # seen by the loader in the next cycle
    return cause


@inner
def _ws_cause(plan: Plan, fetch: Fetch, launch: Launch, t: int) -> int:
    u, v = launch.launcher[0], launch.loader[0]
    if t == 0:
        return FILL
    if u.wave == 0 and t < u.first_cycle + plan.period:
        return INTERVAL
    if u.wave == rows_valid(plan, u.row_tile) - 1 and t < u.last_cycle + plan.last_gap:
        return INTERVAL
    if u.part == 0 and u.free_rows < 1:
        return RESULT
    if u.wave == 0:
        if v.passes_loaded == u.passes_started:
            lacks_scale = _tile_loadable(plan, fetch, launch) and not _scale_usable(plan, fetch, v)
            return WAIT_SCALE if lacks_scale else WAIT_W
        if t < v.last_cycle + plan.quant_stages + 1:
            return WAIT_W
    if not fetch.streams[A].usable:
        return WAIT_A
    return COMPUTE


@inner
def _tile_loadable(plan: Plan, fetch: Fetch, launch: Launch) -> bool:
    """Whether the loader's next step has its turn and its weights."""
    u, v = launch.launcher[0], launch.loader[0]
    turn = u.passes_started if plan.overlap else u.passes_finished
    return v.step > 0 or (turn >= v.passes_loaded and fetch.streams[W].usable > 0)


@inner
def _needs_scale(plan: Plan, v: Any) -> bool:
    k = v.part * plan.part + v.step
    return plan.group_scales != 0 and k < plan.k and (v.step == 0 or k % plan.group == 0)


@inner
def _scale_usable(plan: Plan, fetch: Fetch, v: Any) -> bool:
    return not _needs_scale(plan, v) or fetch.streams[S].usable > 0


@inner
def _launch_ws_wave(
    plan: Plan, fetch: Fetch, u: Any, array: Array, counts: NDArray[np.int64], t: int
) -> None:
    rows, cols = rows_valid(plan, u.row_tile), cols_valid(plan, u.col_tile)
    k0 = u.part * plan.part
    codes = min(plan.rows, plan.k - k0)
    # Array row r holds k0 + R - 1 - r, so the activations enter upside down.
    beat = fetch.buffers.a[fetch.streams[A].oldest]
    for i in range(plan.rows):
        x = k0 % 4 + plan.rows - 1 - i
        array.edge_a[i] = _signed_byte(beat[x >> 2], x & 3)
    fetch.streams[A].release = 1

    first, last = u.wave == 0, u.wave == rows - 1
    first_part, last_part = u.part == 0, u.part == plan.parts - 1
    array.edge[0] = WAVE | (FIRST if first else 0) | (LAST if last else 0)
    array.edge[0] |= (FIRST_PART if first_part else 0) | (LAST_PART if last_part else 0)
    row = u.row0 + u.wave
    array.edge[1] = row - plan.result_rows if row >= plan.result_rows else row
    counts[MAC] += codes * cols
    counts[OPERAND_REG] += codes * ((cols + 1) // 2)
    counts[RING_READ] += plan.rows
    counts[RESULT_WRITE] += cols
    if first_part:
        u.free_rows -= 1
    else:
        counts[RESULT_READ] += cols
    if first:
        u.first_cycle = t
        u.passes_started += 1
    u.wave += 1
    if not last:
        return
    u.last_cycle = t
    u.wave = 0
    u.part += 1
    if last_part:
        u.part = 0
        u.tile += 1
        u.row0 += rows
        u.row0 -= plan.result_rows if u.row0 >= plan.result_rows else 0
        _next_tile(plan, u)


@inner
def _load_step(
    plan: Plan, fetch: Fetch, launch: Launch, array: Array, counts: NDArray[np.int64], t: int
) -> None:
    v = launch.loader[0]
    cols = cols_valid(plan, v.col_tile)
    k0 = v.part * plan.part
    if _needs_scale(plan, v):
        _take_scales(fetch, launch)
    if k0 + v.step < plan.k:
        _take_weights(plan, fetch, launch, array, cols, k0 % 8 + v.step)
    array.edge[2] = v.step
    counts[OPERAND_REG] += (v.step + 1) * cols
    counts[REQUANT] += plan.group_scales * cols
    counts[RING_READ] += (cols + 1) // 2
    v.step += 1
    if v.step < plan.rows:
        return
    v.step = 0
    v.last_cycle = t
    v.passes_loaded += 1
    fetch.streams[W].release = 1
    v.part += 1
    if v.part == plan.parts:
        v.part = 0
        _next_tile(plan, v)


@inner
def _next_tile(plan: Plan, u: Any) -> None:
    """Step to the next tile: row tiles outer, column tiles inner."""
    u.col_tile += 1
    if u.col_tile == plan.col_tiles:
        u.col_tile = 0
        u.row_tile += 1
        u.pending = int(u.row_tile < plan.row_tiles)


@inner
def _take_scales(fetch: Fetch, launch: Launch) -> None:
    slot = fetch.streams[S].oldest
    for c in range(launch.scale.size):
        launch.scale[c] = fetch.buffers.s[slot, c]
    fetch.streams[S].release = 1


@inner
def _take_activations(
    plan: Plan, fetch: Fetch, array: Array, slot: int, rows: int, code: int
) -> None:
    for i in range(rows):
        array.edge_a[i] = _signed_byte(fetch.buffers.a[slot + i, code >> 2], code & 3)


@inner
def _take_weights(
    plan: Plan, fetch: Fetch, launch: Launch, array: Array, cols: int, code: int
) -> None:
    """Put code number `code` of each column's beat on the weight edge, requantised if grouped."""
    slot = fetch.streams[W].oldest * plan.cols
    for c in range(cols):
        q = weight_code(fetch.buffers.w[slot + c, code >> 3], code & 7, plan.offset_code)
        array.edge_w[c] = requantise(q, launch.scale[c]) if plan.group_scales else q


@inner
def _signed_byte(word: np.uint32, byte: int) -> Any:
    value = (np.int64(word) >> (8 * byte)) & 0xFF
    return (value ^ 0x80) - 0x80
