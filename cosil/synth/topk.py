# SPDX-License-Identifier: Apache-2.0
"""The top-k engine's part of its package: streams, constants, vectors of the smoke test."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosil.engines.topk import TopkSpec
from cosil.synth.parts import EngineParts, numbered
from sim.topk import items, run
from verif.topk.cases import Job, item_beats, job_word, key_rows
from verif.topk.generate import key_range


def _describe(spec: TopkSpec) -> str:
    order = "largest" if spec.largest else "smallest"
    sign = "signed" if spec.signed else "unsigned"
    return f"""\
Keeps the k {order} of at most {spec.max_n} {sign} {spec.key_bits}-bit keys, in input order, with
their indices; of equal keys the first. Architecture `{spec.architecture}`, {spec.lanes} keys a
beat, {spec.buffers} buffer(s). The engine has no registers: a job is one beat of `s_axis_job`, its
keys follow on `s_axis_keys`. A job is taken as soon as the one before is loaded and a buffer is
free, so up to {min(3, spec.buffers)} are inside."""


def _streams(spec: TopkSpec) -> dict[str, str]:
    lanes, index_at = spec.lanes, spec.lanes * spec.key_bits
    keep_at = index_at + lanes * spec.index_bits
    return {
        "job": "job descriptor, 2 words",
        "keys": f"{lanes} keys of {spec.key_bits} bits, the first in the low bits; a job has "
        f"ceil(n / {lanes}) beats, and what lanes beyond its last key hold does not matter",
        "items": f"kept items: keys [{index_at - 1}:0], indices of {spec.index_bits} bits "
        f"[{keep_at - 1}:{index_at}], which lanes hold one [{keep_at + lanes - 1}:{keep_at}]; "
        "tlast ends a job",
    }


def _defines(spec: TopkSpec) -> dict[str, int]:
    return {
        "lanes": spec.lanes, "key_bits": spec.key_bits, "key_signed": int(spec.signed),
        "largest": int(spec.largest), "index_bits": spec.index_bits, "max_n": spec.max_n,
        "buffers": spec.buffers,
    }  # fmt: skip


def smoke_vectors(spec: TopkSpec, seed: int = 1) -> dict[str, Any]:
    """Return three jobs in a row: ties in a part-filled row, none kept, all kept."""
    rng = np.random.default_rng(seed)
    low, high = key_range(spec)
    many = min(spec.max_n, 4 * spec.lanes + 1)
    keys = rng.choice(rng.integers(low, high, many, endpoint=True), many)
    jobs: list[Job] = [
        (keys, many // 2 + 1),
        (keys[: spec.lanes], 0),
        (rng.integers(low, high, many, endpoint=True), many),
    ]
    result = run(spec, jobs)
    beats = [
        beat
        for kept in items(result)
        for beat in item_beats(spec, kept["key"].tolist(), kept["index"].tolist())
    ]
    last_at = spec.lanes * (spec.key_bits + spec.index_bits + 1)
    return {
        "cycles": result.cycles,
        "inputs": {
            "job": [job_word(job) for job in jobs],
            "keys": key_rows(spec, jobs, padding=seed),
        },
        "outputs": {"items": numbered(beats, last_at)},
    }


PARTS = EngineParts(
    title="exact streaming top-k engine",
    job_words=(("n", "keys, 1..max_n"), ("k", "how many to keep")),
    describe=_describe,
    streams=_streams,
    defines=_defines,
    vectors=smoke_vectors,
)
