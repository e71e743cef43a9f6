# SPDX-License-Identifier: Apache-2.0
"""One job on one array as plain integers: what the kernels take instead of spec and job.

Section numbers in this package refer to docs/engines/w4a8.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands

A, W, S, E, R, Y = range(6)
"""Streams; a request stream's stall pattern is number 2 s, its response's 2 s + 1, y's is 10."""

STALL_NAMES = ("a_req", "a", "w_req", "w", "s_req", "s", "e_req", "e", "r_req", "r", "y")

CAUSES = ("fill", "compute", "interval", "result", "a", "w", "scale", "drain")
FILL, COMPUTE, INTERVAL, RESULT, WAIT_A, WAIT_W, WAIT_SCALE, DRAIN = range(8)
"""What a cycle was spent on (section 5.2)."""

A_BEATS_WS = 32
PARAMETER_BEATS = 8
"""Buffer depths in beats: activations of a ws array; s, e and r (section 5.1)."""


class Plan(NamedTuple):
    """Numbers of one job on one array (sections 2 and 4).

    A *tile* is a block of results that is drained at once: `tile_rows` x `cols`. Its K codes are
    read in *parts* of `part` codes: chunks (os) or k-tiles (ws).
    """

    ws: int
    rows: int
    cols: int
    pairs: int
    lanes: int
    quant_stages: int
    period: int
    last_gap: int
    drain_latency: int
    epilogue_latency: int
    result_rows: int
    prefetch: int
    overlap: int
    group_scales: int
    offset_code: int
    fp16: int
    memory_latency: int
    tile_rows: int
    row_tiles: int
    col_tiles: int
    part: int
    parts: int
    m: int
    n: int
    k: int
    group: int
    a_base: int
    a_stride: int
    w_base: int
    w_stride: int
    s_base: int
    s_stride: int
    e_base: int
    r_base: int
    relu: int
    wide: int


class Memory(NamedTuple):
    """Memory images; reads past the end give 0.

    Attributes
    ----------
    a, w, r : uint32[...]
    s : uint16[...]
    e : uint64[...]
        One element per column: float32 bits, or bias | mult | shift.
    """

    a: NDArray[np.uint32]
    w: NDArray[np.uint32]
    s: NDArray[np.uint16]
    e: NDArray[np.uint64]
    r: NDArray[np.uint32]


def make_plan(spec: W4A8Spec, job: Job, memory_latency: int) -> Plan:
    """Return the plan of a job; the job has been checked."""
    ws = spec.dataflow == "ws"
    tile_rows = spec.acc_rows if ws else spec.array_rows
    return Plan(
        ws=int(ws),
        rows=spec.array_rows,
        cols=spec.array_cols,
        pairs=spec.pairs,
        lanes=spec.epilogue_lanes,
        quant_stages=spec.requant_stages,
        period=spec.period_min,
        last_gap=3 if ws else spec.array_rows,
        drain_latency=spec.drain_latency,
        epilogue_latency=spec.epilogue_latency,
        result_rows=spec.result_rows,
        prefetch=spec.prefetch_chunks,
        overlap=int(spec.double_buffer),
        group_scales=int(spec.scales == "group"),
        offset_code=int(spec.weight_encoding == "offset"),
        fp16=int(spec.epilogue == "fp16"),
        memory_latency=memory_latency,
        tile_rows=tile_rows,
        row_tiles=-(-job.m // tile_rows),
        col_tiles=-(-job.n // spec.array_cols),
        part=spec.chunk,
        parts=-(-job.k // spec.chunk),
        m=job.m,
        n=job.n,
        k=job.k,
        group=job.group,
        a_base=job.a_base,
        a_stride=job.a_stride,
        w_base=job.w_base,
        w_stride=job.w_stride,
        s_base=job.s_base,
        s_stride=job.s_stride,
        e_base=job.e_base,
        r_base=job.r_base,
        relu=int(bool(job.flags & FLAG_RELU)),
        wide=int(bool(job.flags & FLAG_WIDE)),
    )


def make_memory(operands: Operands) -> Memory:
    """Return the images with one dtype per field, so that kernels have one signature."""
    c = np.ascontiguousarray
    e = operands.e.astype(np.uint64, copy=False)
    return Memory(c(operands.a), c(operands.w), c(operands.s), c(e), c(operands.r))


def check(spec: W4A8Spec, job: Job, operands: Operands, memory_latency: int) -> None:
    """Refuse what the engine does not admit (section 4).

    Raises
    ------
    TypeError
        If an operand has the wrong dtype or is not one-dimensional.
    ValueError
        If a descriptor word or the memory latency is out of range, or a group scale is not finite.
    """
    for name, low, high in (
        ("m", 1, 2**32 - 1),
        ("n", 1, 2**32 - 1),
        ("k", 1, spec.max_k),
        ("group", 1, 2**32 - 1),
        ("a_stride", -(-job.k // 4), 2**32 - 1),
        ("w_stride", -(-job.k // 8), 2**32 - 1),
    ):
        value = getattr(job, name)
        if not low <= value <= high:
            raise ValueError(f"w4a8: {name} of a job must be in {low}..{high}, not {value!r}")
    for name in (
        "a_base",
        "w_base",
        "s_base",
        "s_stride",
        "e_base",
        "r_base",
        "y_base",
        "y_stride",
    ):
        value = getattr(job, name)
        if not 0 <= value < 2**32:
            raise ValueError(f"w4a8: {name} of a job must be in 0..{2**32 - 1}, not {value!r}")
    if memory_latency < 1:
        raise ValueError(f"w4a8: memory_latency must be at least 1 cycle, not {memory_latency!r}")
    column = np.uint32 if spec.epilogue == "fp16" else np.uint64
    for name, dtype in (
        ("a", np.uint32), ("w", np.uint32), ("s", np.uint16), ("e", column), ("r", np.uint32),
    ):  # fmt: skip
        array = getattr(operands, name)
        if array.dtype != dtype or array.ndim != 1:
            raise TypeError(
                f"w4a8: operand {name} must be a one-dimensional {np.dtype(dtype)} array, "
                f"not {array.ndim}-dimensional {array.dtype}"
            )
    if spec.scales == "group" and np.any((operands.s & np.uint16(0x7C00)) == 0x7C00):
        raise ValueError("w4a8: group scales must be finite, not infinite or NaN; pack them again")
