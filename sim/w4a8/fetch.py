# SPDX-License-Identifier: Apache-2.0
"""Operand fetchers and the memory behind them, one cycle at a time (sections 5.1 and 7)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.lib.stalls import Stalls
from sim.w4a8.counts import BEATS, RING_WRITE
from sim.w4a8.plan import A_BEATS_WS, PARAMETER_BEATS, A, E, Memory, Plan, R, S, W

FETCHER = np.dtype(
    [
        # The request that is presented: position in the loops row tile > column tile > part > beat.
        ("row_tile", np.int64),
        ("col_tile", np.int64),
        ("part", np.int64),
        ("beat", np.int64),
        ("pending", np.int64),  # 1 while requests remain
        # Credit in units: a unit is what is reserved and released at once.
        ("depth", np.int64),
        ("reserved", np.int64),
        ("usable", np.int64),
        ("release", np.int64),  # set in this cycle by the consumer of the oldest unit
        ("oldest", np.int64),  # buffer position of the oldest unit
        ("newest", np.int64),  # buffer position of the unit that is requested
        ("unit_beats", np.int64),  # beats that a unit may have
        # Requests on their way through the memory, oldest first.
        ("flight_head", np.int64),
        ("flight_count", np.int64),
    ]
)


class Flight(NamedTuple):
    """Requests in the memory, a ring per stream: [stream, position].

    Attributes
    ----------
    due : int64
        First cycle in which the response may come.
    address : int64
    slot : int64
        Beat of the stream's buffer that the response fills.
    closes : int64
        1 for the last beat of a unit.
    """

    due: NDArray[np.int64]
    address: NDArray[np.int64]
    slot: NDArray[np.int64]
    closes: NDArray[np.int64]


class Buffers(NamedTuple):
    """Operand buffers: beats as they came from the memory, [slot, element]."""

    a: NDArray[np.uint32]
    w: NDArray[np.uint32]
    s: NDArray[np.uint16]
    e: NDArray[np.uint64]
    r: NDArray[np.uint32]


class Fetch(NamedTuple):
    """Everything between the memory and the launcher."""

    streams: Any  # record array of FETCHER, one per stream a, w, s, e, r
    flight: Flight
    buffers: Buffers
    stall_position: NDArray[np.int64]


def make_fetch(plan: Plan, a_beat_bytes: int, w_beat_bytes: int) -> Fetch:
    """Return empty buffers, and fetchers that stand at their first request."""
    depth, unit_beats = [PARAMETER_BEATS] * 5, [1] * 5
    depth[A], unit_beats[A] = (A_BEATS_WS, 1) if plan.ws else (plan.prefetch, plan.rows)
    depth[W], unit_beats[W] = plan.prefetch, plan.cols
    beats = [units * per_unit for units, per_unit in zip(depth, unit_beats, strict=True)]
    streams: Any = np.zeros(5, dtype=FETCHER).view(np.recarray)
    streams.pending = [1, 1, plan.group_scales, 1, plan.fp16]
    streams.depth = depth
    streams.unit_beats = unit_beats
    flight = Flight(*(np.zeros((5, max(beats)), dtype=np.int64) for _ in range(4)))
    buffers = Buffers(
        np.zeros((beats[A], a_beat_bytes // 4), dtype=np.uint32),
        np.zeros((beats[W], w_beat_bytes // 4), dtype=np.uint32),
        np.zeros((beats[S], plan.cols), dtype=np.uint16),
        np.zeros((beats[E], plan.cols), dtype=np.uint64),
        np.zeros((beats[R], plan.rows), dtype=np.uint32),
    )
    return Fetch(streams, flight, buffers, np.zeros(11, dtype=np.int64))


@inner
def rows_valid(plan: Plan, row_tile: int) -> int:
    """Rows of a tile that exist."""
    return min(plan.tile_rows, plan.m - row_tile * plan.tile_rows)


@inner
def cols_valid(plan: Plan, col_tile: int) -> int:
    """Columns of a tile that exist."""
    return min(plan.cols, plan.n - col_tile * plan.cols)


@inner
def is_stalled(stalls: Stalls, position: NDArray[np.int64], pattern: int) -> bool:
    """Whether a pattern stalls its stream in the current cycle."""
    return stalls.bits[stalls.start[pattern] + position[pattern]] != 0


@inner
def fetch_cycle(
    plan: Plan, memory: Memory, stalls: Stalls, fetch: Fetch, counts: NDArray[np.int64], t: int
) -> None:
    """Clock all fetchers and their memory ports through cycle t; modified in place."""
    for stream in range(5):
        f = fetch.streams[stream]
        requested = 0
        arrived = 0
        opens_unit = f.beat == 0 or f.unit_beats == 1
        if (
            f.pending
            and t >= 1
            and (not opens_unit or f.reserved < f.depth)
            and not is_stalled(stalls, fetch.stall_position, 2 * stream)
        ):
            requested = int(opens_unit)
            _send_request(plan, fetch, stream, t)
        if (
            f.flight_count
            and fetch.flight.due[stream, f.flight_head] <= t
            and not is_stalled(stalls, fetch.stall_position, 2 * stream + 1)
        ):
            arrived = _take_response(memory, fetch, stream, counts)
        if f.release:
            f.oldest = f.oldest + 1 if f.oldest + 1 < f.depth else 0
        f.reserved += requested - f.release
        f.usable += arrived - f.release
        f.release = 0
    position = fetch.stall_position
    for pattern in range(position.size):
        following = position[pattern] + 1
        position[pattern] = following if following < stalls.length[pattern] else 0


@inner
def _send_request(plan: Plan, fetch: Fetch, stream: int, t: int) -> None:
    """Move the presented request into the memory and present the next one."""
    f = fetch.streams[stream]
    flight = fetch.flight
    capacity = flight.due.shape[1]
    tail = f.flight_head + f.flight_count
    tail -= capacity if tail >= capacity else 0
    in_unit = 0 if f.unit_beats == 1 else f.beat
    flight.due[stream, tail] = t + plan.memory_latency
    flight.address[stream, tail] = _address(plan, stream, f)
    flight.slot[stream, tail] = f.newest * f.unit_beats + in_unit
    f.flight_count += 1

    f.beat = _next_beat(plan, stream, f)
    part_done = f.beat >= _beats(plan, stream, f)
    closes = part_done or f.unit_beats == 1
    flight.closes[stream, tail] = int(closes)
    if closes:
        f.newest = f.newest + 1 if f.newest + 1 < f.depth else 0
    if not part_done:
        return
    f.beat = 0
    f.part += 1
    if f.part < _parts(plan, stream):
        return
    f.part = 0
    f.col_tile += 1
    if f.col_tile < plan.col_tiles:
        return
    f.col_tile = 0
    f.row_tile += 1
    f.pending = int(f.row_tile < plan.row_tiles)


@inner
def _address(plan: Plan, stream: int, f: Any) -> int:
    """Return the address of the presented request: words for a and w, else elements."""
    row = f.row_tile * plan.tile_rows
    col = f.col_tile * plan.cols
    if stream == A:
        return plan.a_base + (row + f.beat) * plan.a_stride + f.part * plan.part // 4
    if stream == W:
        return plan.w_base + (col + f.beat) * plan.w_stride + f.part * plan.part // 8
    if stream == S:
        g = (f.part * plan.part + f.beat) // plan.group if plan.ws else f.part
        return plan.s_base + g * plan.s_stride + col
    if stream == E:
        return plan.e_base + col
    return plan.r_base + row + f.beat * plan.rows


@inner
def _next_beat(plan: Plan, stream: int, f: Any) -> int:
    """Return the beat after the presented one; a ws scale beat serves up to the group's end."""
    if stream == S and plan.ws:
        k0 = f.part * plan.part
        return ((k0 + f.beat) // plan.group + 1) * plan.group - k0
    return f.beat + 1


@inner
def _beats(plan: Plan, stream: int, f: Any) -> int:
    """Return the number of beats in the presented request's part."""
    if stream == A:
        return rows_valid(plan, f.row_tile)
    if stream == W:
        return cols_valid(plan, f.col_tile)
    if stream == S and plan.ws:
        return min(plan.part, plan.k - f.part * plan.part)
    if stream == R and plan.ws:
        return -(-rows_valid(plan, f.row_tile) // plan.rows)
    return 1


@inner
def _parts(plan: Plan, stream: int) -> int:
    """Return the parts per tile that a stream is asked for."""
    if stream == S and not plan.ws:
        return -(-plan.k // plan.group)
    return plan.parts if stream <= S else 1


@inner
def _take_response(memory: Memory, fetch: Fetch, stream: int, counts: NDArray[np.int64]) -> int:
    """Store the oldest response; return 1 if it completes a unit."""
    f = fetch.streams[stream]
    head = f.flight_head
    address = fetch.flight.address[stream, head]
    slot = fetch.flight.slot[stream, head]
    closes = fetch.flight.closes[stream, head]
    f.flight_head = head + 1 if head + 1 < fetch.flight.due.shape[1] else 0
    f.flight_count -= 1
    counts[BEATS + stream] += 1
    buffers = fetch.buffers
    if stream == A:
        _read(memory.a, address, buffers.a[slot])
        counts[RING_WRITE] += 4 * buffers.a.shape[1]
    elif stream == W:
        _read(memory.w, address, buffers.w[slot])
        counts[RING_WRITE] += 4 * buffers.w.shape[1]
    elif stream == S:
        _read(memory.s, address, buffers.s[slot])
    elif stream == E:
        _read(memory.e, address, buffers.e[slot])
    else:
        _read(memory.r, address, buffers.r[slot])
    return closes


@inner
def _read(memory: NDArray[Any], address: int, beat: NDArray[Any]) -> None:
    """Fill `beat` from `memory`, with 0 past the end."""
    for x in range(beat.size):
        beat[x] = memory[address + x] if address + x < memory.size else 0
