# SPDX-License-Identifier: Apache-2.0
"""The XNOR array's part of its package: streams, constants, vectors of the smoke test."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from cosil.packed import bits
from cosil.packed.ops import XNOR_POOL_MAX
from cosil.synth.parts import EngineParts, numbered
from sim.xnor import run
from verif.xnor.cases import input_beats, result_beats

_JOB_WORDS = {
    "m": "vectors, at least 1; a multiple of pool",
    "k": "inputs of a vector, 1..max_inputs",
    "n": "outputs, 1..max_outputs",
    "pool": f"vectors whose bits are combined by OR, 1..{XNOR_POOL_MAX}; 1 with the fixed epilogue",
    "classes": "classes of base values, 1..border_classes",
    "flags": f"sum of {FLAG_WEIGHTS}: load weights, {FLAG_BASE}: load base values, "
    f"{FLAG_COLUMNS}: load column parameters, {FLAG_RELU}: clamp at 0, {FLAG_WIDE}: int16 results",
}


def _describe(spec: XnorSpec) -> str:
    results = {"threshold": "bits by thresholds, with OR over pool windows",
               "fixed": "int8 or int16 by multiplier and shift"}  # fmt: skip
    return f"""\
Products of a matrix of signs with vectors of signs: {spec.pe} output(s) by {spec.simd} input(s) a
cycle, `{spec.weights}` weights, up to {spec.max_inputs} inputs and {spec.max_outputs} outputs,
{spec.border_classes} class(es) of base values, results {results[spec.epilogue]}. The array has no
registers: a job is one beat of `s_axis_job`, taken while the array is idle; it is idle again in the
cycle after its last result. What a job does not load stays as it was."""


def _streams(spec: XnorSpec) -> dict[str, str]:
    tile = spec.pe * spec.simd
    planes = f"sign bits [{tile - 1}:0], 1 for +1"
    if spec.weights == "ternary":
        planes += f", non-zero bits [{2 * tile - 1}:{tile}]"
    threshold = spec.epilogue == "threshold"
    value, flag = ("threshold", "flip") if threshold else ("bias", "negate")
    width = 1 if threshold else 16
    data = width * spec.pe
    return {
        "job": "job descriptor, 8 words",
        "w": f"weights of {spec.pe} output(s) by {spec.simd} input(s), inputs of output 0 low: "
        f"{planes}; folds of inputs inner",
        "c": f"base values of {spec.pe} output(s), 16 bits each; folds of outputs inner, classes "
        "outer",
        "e": f"parameters of {spec.pe} output(s), 64 bits each: {value} [31:0], mult [47:32], "
        f"shift [53:48], {flag} [54]",
        "x": f"activations: {spec.simd} bit(s), 1 for +1, then the class of their vector "
        f"[{spec.simd + 7}:{spec.simd}]",
        "y": f"{spec.pe} result(s) of {width} bit(s) [{data - 1}:0], which lanes hold one "
        f"[{data + spec.pe - 1}:{data}]; tlast ends a job",
    }


def _defines(spec: XnorSpec) -> dict[str, int]:
    names = ("pe", "simd", "max_inputs", "max_outputs", "border_classes")
    return {name: getattr(spec, name) for name in names} | {
        "flag_weights": FLAG_WEIGHTS,
        "flag_base": FLAG_BASE,
        "flag_columns": FLAG_COLUMNS,
        "flag_relu": FLAG_RELU,
        "flag_wide": FLAG_WIDE,
    }


def smoke_vectors(spec: XnorSpec, seed: int = 1) -> dict[str, Any]:
    """Return two jobs with the same contents: one that loads them all, and one that loads none.

    Inputs and outputs end in short folds where there is more than one.
    """
    rng = np.random.default_rng(seed)
    threshold = spec.epilogue == "threshold"
    first = Job(
        m=4,
        k=max(1, min(2 * spec.simd, spec.max_inputs) - 1),
        n=max(1, min(2 * spec.pe, spec.max_outputs) - 1),
        pool=2 if threshold else 1,
        classes=spec.border_classes,
        flags=FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS,
    )
    contents = _contents(spec, first, rng)
    again = replace(first, m=1, pool=1, flags=FLAG_RELU | FLAG_WIDE)
    left = replace(contents, x=contents.x[:1], border=contents.border[:1])
    jobs = ((first, contents), (again, left))
    results = [run(spec, job, operands) for job, operands in jobs]
    beats = [beat for result in results for beat in result_beats(spec, result.y.tolist())]
    inputs: dict[str, list[int]] = {}
    for job, operands in jobs:
        for stream, words in input_beats(spec, job, operands, padding=seed).items():
            inputs.setdefault(stream.removeprefix("i_"), []).extend(words)
    lanes = spec.pe if threshold else 16 * spec.pe
    return {
        "cycles": sum(result.cycles for result in results),
        "inputs": inputs,
        "outputs": {"y": numbered(beats, lanes + spec.pe)},
    }


def _contents(spec: XnorSpec, job: Job, rng: np.random.Generator) -> Operands:
    """Return vectors of all classes, weights, and columns that suit their sums."""
    signs = rng.integers(0, 2, (job.n, spec.weight_planes, job.k)).astype(np.uint8)
    if spec.weights == "ternary":
        signs[:, 0] &= signs[:, 1]
    nonzero = signs[:, -1] if spec.weights == "ternary" else np.ones_like(signs[:, 0])
    base = nonzero.sum(axis=1) + rng.integers(-2, 3, (job.classes, job.n))
    # Sums lie around 0, as far as the root of K; products by mult / 2^shift within an int16.
    spread = int(np.sqrt(job.k)) + 1
    value = rng.integers(-spread, spread + 1, job.n) * (1 if spec.epilogue == "threshold" else 16)
    mult = rng.integers(1 << 15, 1 << 16, job.n).astype(np.uint64)
    flip = rng.integers(0, 2, job.n).astype(np.uint64)
    return Operands(
        x=bits.pack(rng.integers(0, 2, (job.m, job.k)).astype(np.uint8)),
        border=(np.arange(job.m) % job.classes).astype(np.uint8),
        w=bits.pack(signs),
        base=base.clip(0, 2 * job.k).astype(np.uint16),
        e=value.astype(np.int32).view(np.uint32).astype(np.uint64)
        | mult << np.uint64(32)
        | np.uint64(16) << np.uint64(48)
        | flip << np.uint64(54),
    )


PARTS = EngineParts(
    title="binary matrix-vector array",
    job_words=(
        *((field.name, _JOB_WORDS[field.name]) for field in fields(Job)),
        *((f"reserved{number}", "0") for number in range(2)),
    ),
    describe=_describe,
    streams=_streams,
    defines=_defines,
    vectors=smoke_vectors,
)
