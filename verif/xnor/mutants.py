# SPDX-License-Identifier: Apache-2.0
"""Broken hardware for the XNOR bench, on jobs whose results tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
from verif.lib.generate import break_each
from verif.lib.mutants import Mutant
from verif.xnor.cases import Case
from verif.xnor.operands import packed_operands

FOLDS = 4
"""Most folds of either kind of a `sensitive_job`."""

_FLAGS_WORD = 5


def mutant_cases(spec: XnorSpec, streams: list[str], seed: int = 1) -> list[Case]:
    """Return every mutant on every stream, each on a job that the unbroken array does right.

    The stall pattern makes the broken stream the one that the job waits for, so that a cycle lost
    on it is a cycle of the job. After these, which break first beats, a bit of the last beat of
    every stream is flipped.
    """

    def whole(number: int, stream: str) -> Case:
        job, operands = sensitive_job(spec, np.random.default_rng([seed, number]))
        return Case(stream, [(job, operands)], _critical(spec, job, stream), padding=number)

    cases = break_each(streams, whole)
    job, operands = sensitive_job(spec, np.random.default_rng([seed, len(cases)]))
    loads = spec.load_beats(job.k, job.n, job.classes)
    last = {f"i_{name}": beats - 1 for name, beats in loads.items()} | {
        "i_x": job.m * spec.input_folds(job.k) - 1,
        "o_y": job.m // job.pool * spec.output_folds(job.n) - 1,
    }
    for stream, beat in last.items():
        if beat:
            case = Case(f"flipped_bit on {stream}, beat {beat}", [(job, operands)])
            cases.append(
                replace(case, mutant=Mutant.FLIPPED_BIT, mutant_stream=stream, mutant_beat=beat)
            )
    return cases


def flipped_bits(spec: XnorSpec) -> dict[str, int]:
    """Return the bit of each stream that mutants invert.

    The lowest bit of m, or relu; the first sign of a tile; the lowest bit of a base value; the
    highest bit of a threshold or bias under its sign; the first activation of a beat; the lowest
    bit of a result.
    """
    relu = 32 * _FLAGS_WORD + FLAG_RELU.bit_length() - 1
    return {
        "i_job": 0 if spec.epilogue == "threshold" else relu,
        "i_w": 0, "i_c": 0, "i_e": 30, "i_x": 0, "o_y": 0,
    }  # fmt: skip


def sensitive_job(spec: XnorSpec, rng: np.random.Generator) -> tuple[Job, Operands]:
    """Return a job that loads everything and whose results tell each of `flipped_bits`.

    The first vector has the signs of the first output's weights, the last one those of the first
    output of the last fold; the vectors beside them have the opposite ones. Base values of these
    outputs are odd, and so is the threshold that a vector just reaches: one mismatch more, or a
    base value less by one, and it does not. Results that are not bits are the sums themselves, as
    far as 16 bits hold them.
    """
    # With one input, a vector that no longer matches is the other one of its window.
    pool = 2 if spec.epilogue == "threshold" and spec.max_inputs > 1 else 1
    flags = FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS | FLAG_WIDE
    k, n = min(spec.max_inputs, FOLDS * spec.simd), min(spec.max_outputs, FOLDS * spec.pe)
    job = Job(6, k, n, pool, spec.border_classes, flags)
    signs = rng.integers(2, size=(job.n, job.k), dtype=np.uint8)
    nonzero = rng.integers(2, size=(job.n, job.k), dtype=np.uint8)
    # The first inputs of a row's first and last tile count, and two more for its opposite.
    first, last = 0, (spec.output_folds(job.n) - 1) * spec.pe
    nonzero[:, :2] = 1
    nonzero[:, (spec.input_folds(job.k) - 1) * spec.simd] = 1
    if spec.weights == "binary":
        nonzero[:] = 1
    signs &= nonzero
    x = rng.integers(2, size=(job.m, job.k), dtype=np.uint8)
    x[0], x[1] = signs[first], 1 - signs[first]
    x[-1], x[-2] = signs[last], 1 - signs[last]
    border = rng.integers(job.classes, size=job.m, dtype=np.uint8)
    border[0], border[-1] = 0, job.classes - 1
    base = rng.integers(2 * job.k, size=(job.classes, job.n), dtype=np.uint16, endpoint=True)
    base[:, [first, last]] = 2 * rng.integers(job.k) + 1
    if spec.epilogue == "threshold":
        e = base[0].astype(np.uint64)
    else:
        e = np.full(job.n, 1 << 44 | 16 << 48, dtype=np.uint64)
        # The opposite vectors' sums are under 0, which relu changes.
        base[:, [first, last]] = 1
    w = np.stack([signs, nonzero], axis=1)[:, : spec.weight_planes]
    return job, packed_operands(x, border, w, base, e)


def _critical(
    spec: XnorSpec, job: Job, stream: str
) -> dict[str, NDArray[np.bool_]]:  # fmt: skip
    """Return a pattern that offers a stream's first beat later than the last of all others."""
    if stream in ("i_job", "o_y"):
        return {}
    most = max(spec.load_beats(job.k, job.n, job.classes).values())
    late = np.zeros(1 << 15, dtype=np.bool_)
    late[: most + 8] = True
    return {stream[2:]: late}
