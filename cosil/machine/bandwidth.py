# SPDX-License-Identifier: Apache-2.0
"""Memory bandwidth as stall patterns of an engine's streams: the rule, and the array's beats.

A job's beats are known before it runs. Its streams share the bandwidth in proportion to the bytes
that they move: if all of a job's bytes take T cycles at full bandwidth, a stream with b beats may
transfer one every T / b cycles, evenly spaced from the first cycle in which a response can come.
So no span of cycles moves more than the bandwidth allows plus one beat of each stream. The shares
are static, which is what a time-division arbiter does: a stream that has nothing to move does not
lend its slots. The simulator runs under these patterns as under any other, and the bench can apply
them to the hardware; the cycles are therefore simulated, not a bound.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job
from cosil.machine.spec import Memory

PERIOD = 1 << 16
"""Cycles after which a pattern repeats; slots in a period are rounded down, at least one."""


def beat_bytes(spec: W4A8Spec) -> dict[str, int]:
    """Return the bytes of one beat of each stream (docs/engines/w4a8.md, section 3)."""
    return {
        "a": spec.a_beat_bytes,
        "w": spec.w_beat_bytes,
        "s": 2 * spec.array_cols,
        "e": spec.e_bits // 8 * spec.array_cols,
        "r": 4 * spec.array_rows,
        "y": 2 * spec.epilogue_lanes,
    }


def beats(spec: W4A8Spec, job: Job) -> dict[str, int]:
    """Return the beats of each stream of a job (section 5.1)."""
    ws = spec.dataflow == "ws"
    tile_rows = spec.acc_rows if ws else spec.array_rows
    row_tiles, col_tiles = -(-job.m // tile_rows), -(-job.n // spec.array_cols)
    tiles, parts = row_tiles * col_tiles, -(-job.k // spec.chunk)
    last_cols = job.n - (col_tiles - 1) * spec.array_cols
    lanes = spec.epilogue_lanes
    steps = (col_tiles - 1) * -(-spec.array_cols // lanes) + -(-last_cols // lanes)
    starts = set(range(0, job.k, job.group))
    if ws:
        starts |= set(range(0, job.k, spec.array_rows))
    last_rows = job.m - (row_tiles - 1) * tile_rows
    row_beats = (row_tiles - 1) * -(-tile_rows // spec.array_rows) + -(
        -last_rows // spec.array_rows
    )
    return {
        "a": job.m * col_tiles * parts,
        "w": job.n * row_tiles * parts,
        "s": tiles * len(starts) if spec.scales == "group" else 0,
        "e": tiles,
        "r": col_tiles * row_beats if spec.epilogue == "fp16" else 0,
        "y": job.m * steps,
    }


def job_bytes(spec: W4A8Spec, job: Job) -> int:
    """Return the bytes that a job moves on all its streams, both ways."""
    width = beat_bytes(spec)
    return sum(count * width[name] for name, count in beats(spec, job).items())


def stalls(spec: W4A8Spec, job: Job, memory: Memory) -> dict[str, NDArray[np.bool_]]:
    """Return the stall patterns that hold a job to the memory's bandwidth."""
    return patterns(beats(spec, job), beat_bytes(spec), memory)


def patterns(
    beats: Mapping[str, int], beat_bytes: Mapping[str, int], memory: Memory
) -> dict[str, NDArray[np.bool_]]:
    """Return the stall pattern of each stream that would have to wait, by its name.

    Parameters
    ----------
    beats, beat_bytes : mapping of str to int
        Transfers of each stream in a job, and bytes of one; a stream that has none of the latter
        does not touch the memory.
    memory : Memory
    """
    if not memory.bytes_per_cycle:
        return {}
    cycles = sum(beats[name] * width for name, width in beat_bytes.items()) / memory.bytes_per_cycle
    found: dict[str, NDArray[np.bool_]] = {}
    for name in beat_bytes:
        count = beats[name]
        if not count or count >= cycles:
            continue
        slots = max(1, int(count / cycles * PERIOD))
        free = np.arange(slots, dtype=np.int64) * PERIOD // slots
        pattern = np.ones(PERIOD, dtype=np.bool_)
        pattern[(free + 1 + memory.latency_cycles) % PERIOD] = False
        found[name] = pattern
    return found
