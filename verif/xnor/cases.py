# SPDX-License-Identifier: Apache-2.0
"""Test cases of the XNOR bench, what is expected of them, and both as beats of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_WEIGHTS, Job, Operands
from verif.lib import cases
from verif.lib.beats import grouped, packed

STREAMS = ("w", "c", "e", "x", "y")
"""Streams that a stall pattern can name (section 3)."""

MILESTONES = ("first_issue", "last_issue", "last_output")
"""Cycles of a vector that a monitor sees: its first and last step, and its last output transfer, -1
where it does not end its pool window."""


@dataclass(frozen=True, slots=True, eq=False)
class Case(cases.Case[tuple[Job, Operands]]):
    """A case of `verif.lib.cases`; each of its jobs begins the stall patterns anew.

    Attributes
    ----------
    padding : int
        Seed of what fills lanes and classes that mean nothing.
    """

    padding: int = 0

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Case:
        """Return the case that crossed over by `verif.lib.archive`."""
        jobs = [(Job(**job), Operands(**operands)) for job, operands in tree["jobs"]]
        return cls(**{**tree, "jobs": jobs})


def result_beats(spec: XnorSpec, rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the payloads of `o_y` for results [m / pool][n]: data, a run of keep bits, last."""
    bits = result_bits(spec)
    beats = [
        packed(kept, bits) | ((1 << len(kept)) - 1) << bits * spec.pe
        for row in rows
        for kept in grouped(row, spec.pe)
    ]
    beats[-1] |= 1 << (bits + 1) * spec.pe
    return beats


def result_bits(spec: XnorSpec) -> int:
    """Return the bits of a result on `o_y`."""
    return 1 if spec.epilogue == "threshold" else 16


def input_beats(
    spec: XnorSpec, job: Job, operands: Operands, padding: int
) -> dict[str, list[int]]:  # fmt: skip
    """Return the payloads of the streams that bring a job, by the stream's name.

    What means nothing is filled at random: lanes at or above K of activations, and the classes of
    all but a vector's first beat.
    """
    rng = np.random.default_rng([padding, 0x92])
    base, e, lanes = operands.base.tolist(), operands.e.tolist(), spec.pe
    return {
        "i_job": [int.from_bytes(job.words().tobytes(), "little")],
        "i_w": _weight_beats(spec, job, operands.w) if job.has(FLAG_WEIGHTS) else [],
        "i_c": [packed(fold, 16) for row in base for fold in grouped(row, lanes)]
        if job.has(FLAG_BASE)
        else [],
        "i_e": [packed(fold, 64) for fold in grouped(e, lanes)] if job.has(FLAG_COLUMNS) else [],
        "i_x": _vector_beats(spec, job, operands, rng),
    }


def _weight_beats(spec: XnorSpec, job: Job, w: NDArray[np.uint64]) -> list[int]:
    """Output fold outer, input fold inner; the lanes of output 0 low, the sign plane first."""
    simd, tile = spec.simd, spec.pe * spec.simd
    rows = [[_integer(plane) for plane in row] for row in w]
    beats: list[int] = []
    for fold in grouped(rows, spec.pe):
        for first in range(0, job.k, simd):
            planes = [
                packed((row[plane] >> first for row in fold), simd)
                for plane in range(spec.weight_planes)
            ]
            beats.append(packed(planes, tile))
    return beats


def _vector_beats(
    spec: XnorSpec, job: Job, operands: Operands, rng: np.random.Generator
) -> list[int]:  # fmt: skip
    """Bits of simd inputs, and the class of their vector above them."""
    simd, lanes = spec.simd, spec.input_folds(job.k) * spec.simd
    beats: list[int] = []
    for x, border in zip(operands.x, operands.border.tolist(), strict=True):
        # Lanes at or above K, of which there are fewer than simd.
        row = _integer(x) | int.from_bytes(rng.bytes(simd // 8 + 1), "little") << job.k
        classes = [border, *rng.integers(256, size=lanes // simd - 1).tolist()]
        for fold, number in enumerate(classes):
            beats.append(packed([row >> fold * simd], simd) | number << simd)
    return beats


def _integer(words: NDArray[np.uint64]) -> int:
    return int.from_bytes(words.astype("<u8").tobytes(), "little")
