# SPDX-License-Identifier: Apache-2.0
"""Test cases of the PIM bench, what is expected of them, and both as beats of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_NOISE, FLAG_TRANSFER, FLAG_WEIGHTS, Job, Operands
from verif.lib import cases
from verif.lib.beats import grouped, packed

STREAMS = ("w", "t", "n", "e", "x", "y")
"""Streams that a stall pattern can name (section 3)."""

MILESTONES = (
    "first_launch", "last_launch", "first_conversion", "last_conversion", "last_output",
)  # fmt: skip
"""Cycles of a vector that a monitor sees: d of its first and last step, the first and last cycle of
its conversions, and its last output transfer."""


@dataclass(frozen=True, slots=True, eq=False)
class Case(cases.Case[tuple[Job, Operands]]):
    """A case of `verif.lib.cases`; each of its jobs begins the stall patterns anew.

    Attributes
    ----------
    padding : int
        Seed of what fills lanes and bits that mean nothing.
    """

    padding: int = 0

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Case:
        """Return the case that crossed over by `verif.lib.archive`."""
        jobs = [(Job(**job), Operands(**operands)) for job, operands in tree["jobs"]]
        return cls(**{**tree, "jobs": jobs})


def result_beats(spec: PimSpec, rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the payloads of `o_y` for results [m][n]: data, a run of keep bits, last."""
    lanes = spec.epilogue_lanes
    beats = [
        packed(kept, 16) | ((1 << len(kept)) - 1) << 16 * lanes
        for row in rows
        for kept in grouped(row, lanes)
    ]
    beats[-1] |= 1 << 17 * lanes
    return beats


def input_beats(
    spec: PimSpec, job: Job, operands: Operands, padding: int
) -> dict[str, list[int]]:  # fmt: skip
    """Return the payloads of the streams that bring a job, by the stream's name.

    What means nothing is filled at random: rows past the group or K, lanes past n, the upper half
    of a noise entry.
    """
    rng = np.random.default_rng([padding, 0x91])
    beats = {
        "i_job": [int.from_bytes(job.words().tobytes(), "little")],
        "i_w": [int(word) for word in operands.w.ravel()] if job.has(FLAG_WEIGHTS) else [],
        "i_t": _transfer_beats(spec, operands) if job.has(FLAG_TRANSFER) else [],
        "i_e": _parameter_beats(spec, operands, rng),
        "i_x": _code_beats(spec, job, operands, rng),
    }
    if spec.noise_bits:
        beats["i_n"] = _noise_beats(operands, rng) if job.has(FLAG_NOISE) else []
    return beats


def _transfer_beats(spec: PimSpec, operands: Operands) -> list[int]:
    """Position outer, value inner; an entry of every ADC in a beat."""
    by_adc = operands.transfer.reshape(spec.adcs, spec.mux, spec.entries)
    rows = by_adc.transpose(1, 2, 0).reshape(-1, spec.adcs).astype("<i2")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _noise_beats(operands: Operands, rng: np.random.Generator) -> list[int]:
    table = operands.noise.view(np.uint16).astype(np.uint32)
    table |= rng.integers(1 << 16, size=table.size, dtype=np.uint32) << np.uint32(16)
    return [*table.tolist(), *operands.states.tolist()]


def _parameter_beats(spec: PimSpec, operands: Operands, rng: np.random.Generator) -> list[int]:
    lanes = spec.epilogue_lanes
    columns = operands.e.tolist()
    while len(columns) % lanes:
        columns.append(int(rng.integers(1 << 55)))
    return [packed(step, 64) for step in grouped(columns, lanes)]


def _code_beats(
    spec: PimSpec, job: Job, operands: Operands, rng: np.random.Generator
) -> list[int]:  # fmt: skip
    levels = 1 << spec.activation_bits
    rows = rng.integers(levels, size=(job.m, job.groups, spec.rows))
    for group, first in enumerate(range(0, job.k, job.rows)):
        codes = operands.x[:, first : first + job.rows]
        rows[:, group, : codes.shape[1]] = codes
    return [packed(row, spec.activation_bits) for row in rows.reshape(-1, spec.rows).tolist()]
