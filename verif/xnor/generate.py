# SPDX-License-Identifier: Apache-2.0
"""Random jobs for the XNOR bench: awkward shapes, corner operands, what stays, real layers."""

from __future__ import annotations

import numpy as np

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    Job,
    Operands,
)
from cosil.packed.ops import XNOR_POOL_MAX
from verif.lib.generate import random_stalls
from verif.xnor import operands as make
from verif.xnor.cases import STREAMS, Case
from verif.xnor.contents import Contents
from verif.xnor.layers import conv_jobs
from verif.xnor.mutants import mutant_cases

__all__ = ["Chain", "mutant_cases", "random_case"]

CYCLES = 500
"""Bound on the steps of a job: it sets the time that a case takes."""

WEIGHTS = 1 << 18
"""Bound on the weights of a job, which large arrays would take minutes to load."""


class Chain:
    """Jobs one after the other on an array.

    Parameters
    ----------
    spec : XnorSpec
    rng : Generator
        Source of everything.
    """

    def __init__(self, spec: XnorSpec, rng: np.random.Generator) -> None:
        self._spec, self._rng = spec, rng
        self._contents = Contents(spec)
        self._before: Job | None = None
        self.jobs: list[tuple[Job, Operands]] = []

    def append(self, job: Job, operands: Operands) -> None:
        """Run a job."""
        self._contents.load(job, operands)
        self._before = job
        self.jobs.append((job, operands))

    def append_random(self) -> None:
        """Run a job of random shape and styles, which loads what it does not find."""
        spec, rng, contents = self._spec, self._rng, self._contents
        share = 1.0 if self._before is None else float(rng.choice([0.0, 0.0, 0.5, 0.5, 1.0]))
        k, n, classes = self._shape(loads_all=share == 1.0)
        wants = {name: bool(rng.random() < share) for name in "wce"}
        w = None if wants["w"] else contents.weights(k, n)
        base = None if wants["c"] else contents.base(k, n, classes)
        e = None if wants["e"] else contents.columns(n)
        flags = sum(
            flag
            for flag, found in ((FLAG_WEIGHTS, w), (FLAG_BASE, base), (FLAG_COLUMNS, e))
            if found is None
        )
        flags |= int(rng.integers(4)) * FLAG_RELU
        m, pool = self._vectors(spec.interval(k, n), n * k)
        job = Job(m, k, n, pool, classes, flags)
        w = make.weights(spec, rng, job) if w is None else w
        base = make.base(rng, job, w) if base is None else base
        x = make.activations(rng, job, w)
        border = rng.integers(classes, size=m, dtype=np.uint8)
        if e is None:
            e = make.columns(spec, rng, job, make.sums(x, border, w, base))
        self.append(job, make.packed_operands(x, border, w, base, e))

    def _shape(self, *, loads_all: bool) -> tuple[int, int, int]:
        """Return K, n and classes: at ends of folds, words and memories, or as they were."""
        spec, rng, before = self._spec, self._rng, self._before
        simd, pe = spec.simd, spec.pe
        k_max, n_max, classes_max = spec.max_inputs, spec.max_outputs, spec.border_classes
        if before is not None and not loads_all and rng.integers(2):
            n = _pick(rng, (1, pe, before.n - pe, before.n - pe, before.n), before.n)
            classes = (1, before.classes // 2, before.classes, before.classes)
            return before.k, n, _pick(rng, classes, before.classes)
        any_k, folds = int(rng.integers(1, k_max + 1)), int(rng.integers(1, k_max // simd + 1))
        k = _pick(rng, (1, 63, 64, 65, simd - 1, simd, simd + 1, folds * simd, folds * simd,
                        k_max - 1, k_max, k_max, any_k, any_k), k_max)  # fmt: skip
        any_n = int(rng.integers(1, n_max + 1))
        n = _pick(rng, (1, pe - 1, pe, pe + 1, 2 * pe, n_max - 1, n_max, n_max, any_n), n_max)
        n = min(n, max(1, WEIGHTS // k))
        return k, n, _pick(rng, (1, 1, 2, classes_max, classes_max), classes_max)

    def _vectors(self, interval: int, products: int) -> tuple[int, int]:
        """Return m and pool."""
        rng = self._rng
        most = max(1, min(CYCLES // interval, 100_000 // products))
        if self._spec.epilogue == "fixed":
            return _pick(rng, (1, 2, 3, 5, 8, 13, 21, most), min(most, 40)), 1
        pool = _pick(rng, (1, 1, 1, 2, 3, 4, 9, XNOR_POOL_MAX), most)
        return pool * _pick(rng, (1, 2, 3, 5, 8, 13), most // pool), pool


def random_case(spec: XnorSpec, seed: int) -> Case:
    """Return the case of a seed: one to four jobs in a row, stalls on all, one or no stream.

    In one case of four the first jobs are a convolution's.
    """
    rng = np.random.default_rng([seed, spec.max_inputs, spec.max_outputs])
    kind, stalls = random_stalls(rng, seed, STREAMS)
    chain = Chain(spec, rng)
    if seed % 4 == 3:
        for job, operands in conv_jobs(spec, rng):
            chain.append(job, operands)
        jobs = int(rng.integers(3))
    else:
        jobs = int(rng.choice([1, 2, 3, 4]))
    for _ in range(jobs):
        chain.append_random()
    return Case(
        name=f"seed {seed}, {kind} stalls",
        jobs=chain.jobs,
        stalls=stalls,
        padding=int(rng.integers(1 << 31)),
    )


def _pick(rng: np.random.Generator, values: tuple[int, ...], high: int) -> int:
    """Return one of the values that are in 1..high."""
    return int(rng.choice([value for value in values if 1 <= value <= high]))
