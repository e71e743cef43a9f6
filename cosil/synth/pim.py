# SPDX-License-Identifier: Apache-2.0
"""The PIM engine's part of its package: streams, constants, vectors of the smoke test."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import (
    FLAG_NOISE,
    FLAG_RELU,
    FLAG_TRANSFER,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from cosil.lowering.pim_transfer import Grid, noise_table
from cosil.packed import bitplane
from cosil.packed.decomposition import encoding
from cosil.synth.parts import EngineParts, numbered
from sim.pim import run
from verif.pim.cases import input_beats, result_beats

_JOB_WORDS = {
    "m": "vectors, at least 1",
    "k": "inputs of a vector, 1..rows * groups",
    "n": "outputs, 1..outputs",
    "rows": "rows of a group, 1..array rows",
    "flags": f"sum of {FLAG_WEIGHTS}: load cells, {FLAG_TRANSFER}: load transfer tables, "
    f"{FLAG_NOISE}: load noise and generators, {FLAG_RELU}: clamp at 0, {FLAG_WIDE}: int16 results",
}


def _describe(spec: PimSpec) -> str:
    noise = f"noise of {1 << spec.noise_bits} levels" if spec.noise_bits else "no noise"
    return f"""\
Products of a matrix in memory with vectors: an array of {spec.rows} rows and {spec.columns} columns
for {spec.groups} row groups, decomposition `{spec.decomposition}`, {spec.weight_bits}-bit weights,
{spec.activation_bits}-bit activations in slices of {spec.slice_bits}, {spec.adcs} ADC(s) of
{spec.adc_bits} bits for {spec.mux} column(s) each, {spec.outputs} outputs, {noise}. The analog part
is behavioural: module `macro`, whose ports but those called `tables` are the interface of a real
one. The engine has no registers: a job is one beat of `s_axis_job`, taken while the engine is idle;
it is idle again in the cycle after its last result. What a job does not load stays as it was."""


def _streams(spec: PimSpec) -> dict[str, str]:
    lanes = spec.epilogue_lanes
    streams = {
        "job": "job descriptor, 8 words",
        "w": f"cells, bit r of a word for row r: output, {spec.bit_planes} plane(s), row group, "
        "64 rows",
        "t": f"transfer tables: {spec.adcs} ADC(s) of 16 bits at a position and value, "
        f"{spec.mux} position(s) of {spec.entries} values",
        "n": f"noise table of {spec.noise_entries} entries [15:0], then the states of "
        f"{spec.adcs} generator(s)",
        "e": f"parameters of {lanes} output(s), 64 bits each: bias [31:0], mult [47:32], "
        "shift [53:48], negate [54]",
        "x": f"codes of a row group: {spec.rows} of {spec.activation_bits} bit(s), row 0 low",
        "y": f"{lanes} result(s) of 16 bits [{16 * lanes - 1}:0], which lanes hold one "
        f"[{17 * lanes - 1}:{16 * lanes}]; tlast ends a job",
    }
    if not spec.noise_bits:
        del streams["n"]
    return streams


def _defines(spec: PimSpec) -> dict[str, int]:
    names = (
        "rows", "columns", "groups", "weight_bits", "activation_bits", "slice_bits", "adc_bits",
        "mux", "noise_bits", "epilogue_lanes", "outputs", "adcs", "entries",
    )  # fmt: skip
    return {name: getattr(spec, name) for name in names} | {
        "flag_weights": FLAG_WEIGHTS,
        "flag_transfer": FLAG_TRANSFER,
        "flag_noise": FLAG_NOISE,
        "flag_relu": FLAG_RELU,
        "flag_wide": FLAG_WIDE,
    }


def smoke_vectors(spec: PimSpec, seed: int = 1) -> dict[str, Any]:
    """Return two jobs with the same contents: one that loads them all, and one that loads none.

    The first one's last row group is short, and the second one's generators are where the first
    one left them.
    """
    rng = np.random.default_rng(seed)
    k = max(1, spec.rows * min(2, spec.groups) - 1)
    loads = FLAG_WEIGHTS | FLAG_TRANSFER | (FLAG_NOISE if spec.noise_bits else 0)
    first = Job(m=3, k=k, n=spec.outputs, rows=spec.rows, flags=loads)
    contents = _contents(spec, first, rng)
    jobs = [(first, contents)]
    done = run(spec, first, contents)
    again = replace(first, m=1, flags=FLAG_RELU | FLAG_WIDE)
    left = replace(contents, x=contents.x[:1], states=done.states)
    jobs.append((again, left))
    results = [done, run(spec, again, left)]
    beats = [beat for result in results for beat in result_beats(spec, result.y.tolist())]
    inputs: dict[str, list[int]] = {}
    for job, operands in jobs:
        for stream, words in input_beats(spec, job, operands, padding=seed).items():
            inputs.setdefault(stream.removeprefix("i_"), []).extend(words)
    return {
        "cycles": sum(result.cycles for result in results),
        "inputs": inputs,
        "outputs": {"y": numbered(beats, 17 * spec.epilogue_lanes)},
    }


def _contents(spec: PimSpec, job: Job, rng: np.random.Generator) -> Operands:
    """Return cells, tables with an offset for each column, noise of half an LSB, and vectors."""
    top = (1 << (spec.weight_bits - 1)) - 1
    weights = bitplane.encode(
        rng.integers(-top, top + 1, (job.n, job.k)),
        encoding=encoding(spec.decomposition),
        bits=spec.weight_bits,
        rows=job.rows,
    )
    grid = Grid(
        spec.decomposition, spec.weight_bits, spec.slice_bits, spec.rows, spec.adc_bits
    ).table()
    errors = rng.integers(-12, 13, (spec.columns, 1))
    # The largest sum reaches about 2**8 after the shift.
    shift = 4 + 16 + spec.acc_bits - 1 - 8
    mult = rng.integers(1 << 15, 1 << 16, job.n).astype(np.uint64)
    negate = rng.integers(0, 2, job.n).astype(np.uint64)
    bias = rng.integers(-64, 64, job.n).astype(np.uint32).astype(np.uint64)
    return Operands(
        x=rng.integers(0, 1 << spec.activation_bits, (job.m, job.k)).astype(np.uint8),
        w=weights.words,
        transfer=(grid + errors).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16),
        noise=noise_table(0.5, spec.noise_bits) if spec.noise_bits else np.zeros(0, np.int16),
        states=rng.integers(1, 1 << 32, spec.adcs if spec.noise_bits else 0, dtype=np.uint32),
        e=bias
        | mult << np.uint64(32)
        | np.uint64(shift) << np.uint64(48)
        | negate << np.uint64(54),
    )


PARTS = EngineParts(
    title="processing in memory behind low-resolution ADCs",
    job_words=(
        *((field.name, _JOB_WORDS[field.name]) for field in fields(Job)),
        *((f"reserved{number}", "0") for number in range(3)),
    ),
    describe=_describe,
    streams=_streams,
    defines=_defines,
    vectors=smoke_vectors,
)
