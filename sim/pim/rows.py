# SPDX-License-Identifier: Apache-2.0
"""Load, input banks, row drive and sampling, register by register (section 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.lib.record import Record, mark
from sim.lib.stalls import Stalls, is_stalled
from sim.pim.counts import CELL_OPS, JOB_BEATS, LOAD_BEATS, ROW_DRIVES, SAMPLES, X_BEATS
from sim.pim.plan import (
    FIRST_LAUNCH,
    LAST_LAUNCH,
    X_STREAM,
    Contents,
    Plan,
)

SEQUENCER = np.dtype(
    [
        ("busy", np.int64),  # a job was transferred
        ("loaded", np.int64),
        # The beat that i_x brings next.
        ("in_vector", np.int64),
        ("in_group", np.int64),
        # The step that is launched next, and its number.
        ("vector", np.int64),
        ("slice", np.int64),
        ("group", np.int64),
        ("step", np.int64),
        # Cycles in which rows are still driven, 0 when they are not, and what they are driven for.
        ("driving", np.int64),
        ("drive_group", np.int64),
        ("drive_bank", np.int64),
    ]
)


class Rows(NamedTuple):
    """Registers up to the sample-and-hold.

    Attributes
    ----------
    sequencer : record array of SEQUENCER, one entry
    load_left : int64[4]
        Beats that i_w, i_t, i_n and i_e still bring.
    codes : uint8[2, G, rows]
        Input banks.
    levels : int64[rows]
        Slices that the rows are driven with.
    samples : int64[banks, columns]
        Sampled values of the columns that are used.
    held : int64[banks]
        A bank is given to a step that is launched and not yet converted.
    sampled : int64[banks]
        It holds the step's sample.
    """

    sequencer: Any
    load_left: NDArray[np.int64]
    codes: NDArray[np.uint8]
    levels: NDArray[np.int64]
    samples: NDArray[np.int64]
    held: NDArray[np.int64]
    sampled: NDArray[np.int64]


def make_rows(plan: Plan) -> Rows:
    """Return an idle engine's registers."""
    return Rows(
        np.zeros(1, dtype=SEQUENCER).view(np.recarray),
        plan.load_beats.copy(),
        np.zeros((2, plan.groups, plan.rows), dtype=np.uint8),
        np.zeros(plan.rows, dtype=np.int64),
        np.zeros((plan.banks, plan.n * plan.planes), dtype=np.int64),
        np.zeros(plan.banks, dtype=np.int64),
        np.zeros(plan.banks, dtype=np.int64),
    )


@inner
def beat_usable(s: Any) -> bool:
    """Whether the beat of the next step to be launched is usable."""
    return s.in_vector > s.vector or (s.in_vector == s.vector and s.in_group > s.group)


@inner
def load_cycle(plan: Plan, rows: Rows, stalls: Stalls, record: Record, t: int) -> None:
    """Transfer the job, or what its streams load."""
    s = rows.sequencer[0]
    if not s.busy:
        s.busy = 1
        record.counts[JOB_BEATS] += 1
        return
    left = 0
    for stream in range(rows.load_left.size):
        if rows.load_left[stream] and not is_stalled(stalls, stream, t):
            rows.load_left[stream] -= 1
            record.counts[LOAD_BEATS + stream] += 1
        left += rows.load_left[stream]
    s.loaded = left == 0


@inner
def input_cycle(
    plan: Plan, contents: Contents, rows: Rows, stalls: Stalls, record: Record, t: int
) -> None:
    """Transfer a row group's codes; called before `launch_cycle`, which frees banks."""
    s = rows.sequencer[0]
    # The bank is free once all steps of the vector before last are launched.
    ready = s.busy and s.in_vector < plan.m and s.vector >= s.in_vector - 1
    if not ready or is_stalled(stalls, X_STREAM, t):
        return
    bank = rows.codes[s.in_vector & 1, s.in_group]
    first = s.in_group * plan.rows
    for r in range(plan.rows):
        bank[r] = contents.x[s.in_vector, first + r] if first + r < plan.k else 0
    s.in_group += 1
    if s.in_group == plan.groups:
        s.in_group = 0
        s.in_vector += 1
    record.counts[X_BEATS] += 1


@inner
def sample_cycle(plan: Plan, contents: Contents, rows: Rows, record: Record) -> None:
    """Drive the rows for a cycle; in the last one, sample the columns that are used."""
    s = rows.sequencer[0]
    if s.driving == 0:
        return
    s.driving -= 1
    if s.driving:
        return
    rows.sampled[s.drive_bank] = 1
    samples = rows.samples[s.drive_bank]
    driven = min(plan.rows, plan.k - s.drive_group * plan.rows)
    for column in range(samples.size):
        output, plane = divmod(column, plan.planes)
        value = np.int64(0)
        for bit in range(plan.cell_bits):
            words = contents.w[output, plane * plan.cell_bits + bit, s.drive_group]
            total = np.int64(0)
            for r in range(driven):
                cell = words[r >> 6] >> np.uint64(r & 63) & np.uint64(1)
                total += np.int64(cell) * rows.levels[r]
            value += plan.cell_weights[bit] * total
        samples[column] = value
    record.counts[ROW_DRIVES] += driven
    record.counts[CELL_OPS] += driven * samples.size * plan.cell_bits
    record.counts[SAMPLES] += samples.size


@inner
def can_launch(plan: Plan, rows: Rows, freed_bank: int) -> bool:
    """Whether the next step is launched; `freed_bank` is in its last cycle of conversion, or -1."""
    s = rows.sequencer[0]
    bank = s.step % plan.banks
    return (
        s.vector < plan.m
        and s.loaded != 0
        and beat_usable(s)
        and s.driving <= 1
        and (rows.held[bank] == 0 or freed_bank == bank)
    )


@inner
def launch_cycle(plan: Plan, rows: Rows, record: Record, t: int) -> None:
    """Launch a step: latch its slices, take its sample-and-hold bank."""
    s = rows.sequencer[0]
    if s.slice == 0 and s.group == 0:
        mark(record, s.vector, FIRST_LAUNCH, t)
    codes = rows.codes[s.vector & 1, s.group]
    shift = (plan.slices - 1 - s.slice) * plan.slice_bits
    for r in range(plan.rows):
        rows.levels[r] = (codes[r] >> shift) & ((1 << plan.slice_bits) - 1)
    s.drive_group = s.group
    s.drive_bank = s.step % plan.banks
    s.driving = plan.row_cycles
    rows.held[s.drive_bank] = 1
    s.step += 1
    s.group += 1
    if s.group == plan.groups:
        s.group = 0
        s.slice += 1
        if s.slice == plan.slices:
            s.slice = 0
            mark(record, s.vector, LAST_LAUNCH, t)
            s.vector += 1
