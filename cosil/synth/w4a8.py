# SPDX-License-Identifier: Apache-2.0
"""The W4A8 engine's part of its package: descriptor, constants, vectors of the smoke test."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.gemm import gemm_job
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands
from cosil.packed import int4
from cosil.synth.parts import EngineParts
from sim.w4a8 import run

_JOB_WORDS = {
    "m": "rows of X and Y",
    "n": "rows of W, columns of Y",
    "k": "inner dimension, at most max_k",
    "group": "codes that share a group scale (k for one group)",
    "a_base": "first row of X, in 32-bit words",
    "a_stride": "from a row of X to the next, in 32-bit words, at least ceil(k / 4)",
    "w_base": "first row of W, in 32-bit words",
    "w_stride": "from a row of W to the next, in 32-bit words, at least ceil(k / 8)",
    "s_base": "group scales of group 0, in elements",
    "s_stride": "from a group's scales to the next group's, in elements",
    "e_base": "column parameters, in elements",
    "r_base": "row scales, in elements",
    "y_base": "first result, in elements",
    "y_stride": "from a row of Y to the next, in elements",
    "flags": f"bit 0 ({FLAG_RELU}): clamp at 0; bit 1 ({FLAG_WIDE}): int16 results; fixed only",
}
_STREAMS = {
    "job": "job descriptor, 16 words",
    "a": "activations of one row, from a 32-bit word address",
    "w": "weights of one row, from a 32-bit word address",
    "s": "float16 group scales, one per column, from an element address",
    "e": "column parameters, one per column, from an element address",
    "r": "float32 row scales, one per row of the array, from an element address",
    "y": "results; tuser is the element address of the first, tkeep has two bits for each",
}
_MEMORY_LATENCY = 2


def _describe(spec: W4A8Spec) -> str:
    return f"""\
{spec.array_rows} x {spec.array_cols} array, dataflow `{spec.dataflow}`, scales `{spec.scales}`,
weights `{spec.weight_encoding}`, epilogue `{spec.epilogue}`. The engine has no registers: a job is
one beat of `s_axis_job`, taken while the engine is idle; it is idle again in the cycle after its
last result."""


def _defines(spec: W4A8Spec) -> dict[str, int]:
    names = (
        "array_rows", "array_cols", "epilogue_lanes", "max_k", "acc_bits", "a_beat_bytes",
        "w_beat_bytes",
    )  # fmt: skip
    return {name: getattr(spec, name) for name in names} | {
        "flag_relu": FLAG_RELU,
        "flag_wide": FLAG_WIDE,
    }


def smoke_vectors(spec: W4A8Spec, seed: int = 1) -> dict[str, Any]:
    """Return a small job with its memories, results and cycles, as `smoke_test.py` reads it.

    One row and one column more than the array, and a K that fills no word: every edge occurs.
    """
    rng = np.random.default_rng(seed)
    m, n, k = spec.array_rows + 1, spec.array_cols + 1, min(19, spec.max_k)
    group = 8 if spec.scales == "group" else 0
    groups = -(-k // group) if group else 0
    weight = int4.encode(
        rng.integers(-8, 8, (n, k), dtype=np.int8),
        encoding=spec.weight_encoding or "twos",
        channel=rng.uniform(0.001, 0.1, n).astype(np.float32),
        group=rng.uniform(0.5, 16.0, (groups, n)).astype(np.float16) if group else None,
        group_size=group,
    )
    bias = rng.integers(-5000, 5000, n, dtype=np.int64).astype(np.uint32).astype(np.uint64)
    scale = rng.integers(100, 60000, n).astype(np.uint64)
    job, operands = gemm_job(
        spec,
        rng.integers(-128, 128, (m, k), dtype=np.int8),
        weight,
        epilogue=bias | scale << np.uint64(32) | np.uint64(22) << np.uint64(48)
        if spec.epilogue == "fixed"
        else None,
        row_scales=rng.uniform(0.001, 0.1, m).astype(np.float32)
        if spec.epilogue == "fp16"
        else None,
    )
    result = run(spec, job, operands, memory_latency=_MEMORY_LATENCY, step=True)
    bits = result.y.view(np.uint16) if result.y.dtype == np.float16 else result.y.astype(np.int16)
    values = bits.astype(np.int64) & 0xFFFF
    return {
        "memory_latency": _MEMORY_LATENCY,
        "cycles": result.cycles,
        "inputs": {"job": [int.from_bytes(job.words().tobytes(), "little")]},
        "memories": _memories(spec, operands),
        "result_bits": 16,
        "outputs": {
            "y": [
                [job.y_base + row * job.y_stride + col, int(values[row, col])]
                for row in range(m)
                for col in range(n)
            ]
        },
    }


def _memories(spec: W4A8Spec, operands: Operands) -> dict[str, Any]:
    shapes = {
        "a": (32, 8 * spec.a_beat_bytes),
        "w": (32, 8 * spec.w_beat_bytes),
        "e": (spec.e_bits, spec.e_bits * spec.array_cols),
    }
    if spec.scales == "group":
        shapes["s"] = (16, 16 * spec.array_cols)
    if spec.epilogue == "fp16":
        shapes["r"] = (32, 32 * spec.array_rows)
    return {
        name: {
            "element_bits": element,
            "beat_bits": beat,
            "elements": getattr(operands, name).reshape(-1).tolist(),
        }
        for name, (element, beat) in shapes.items()
    }


PARTS = EngineParts(
    title="W4A8 systolic array",
    job_words=(*((field.name, _JOB_WORDS[field.name]) for field in fields(Job)), ("reserved", "0")),
    describe=_describe,
    streams=lambda spec: _STREAMS,
    defines=_defines,
    vectors=smoke_vectors,
)
