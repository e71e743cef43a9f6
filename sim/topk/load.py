# SPDX-License-Identifier: Apache-2.0
"""Load, register by register (section 4.1): rows go to a bank, digit 0 to a histogram."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.topk.counts import BANK_WRITE, HISTOGRAM, JOB_BEATS, KEYS_BEATS
from sim.topk.plan import ACCEPTED, LAST_INPUT, Jobs, Plan, Record

LOADER = np.dtype(
    [
        ("busy", np.int64),
        ("job", np.int64),  # the job being loaded, or, when idle, the next to be offered
        ("bank", np.int64),  # likewise
        ("n", np.int64),
        ("k", np.int64),
        ("rows", np.int64),
        ("row", np.int64),  # rows transferred
        ("complete", np.int64),
        # Keys in the input register and behind the bin counts, 0 for none; of the last row?
        ("in_keys", np.int64),
        ("in_last", np.int64),
        ("bins_keys", np.int64),
        ("bins_last", np.int64),
    ]
)


class Load(NamedTuple):
    """Registers of load, and the banks.

    Attributes
    ----------
    loader : record array of LOADER, one entry
    banks : int64[buffers, depth, P]
        Order codes; lanes past the last key hold what was there before.
    occupied : int64[buffers]
    digits : int64[P]
        Input register: digit 0 of each lane.
    bins : int64[2**r]
        Per bin b, keys of the row whose digit is at least b.
    counters : int64[2**r]
        The same of all rows counted so far, less k.
    """

    loader: Any
    banks: NDArray[np.int64]
    occupied: NDArray[np.int64]
    digits: NDArray[np.int64]
    bins: NDArray[np.int64]
    counters: NDArray[np.int64]


def make_load(plan: Plan) -> Load:
    """Return an idle load stage and free banks."""
    bins = 1 << int(plan.width[0])
    return Load(
        np.zeros(1, dtype=LOADER).view(np.recarray),
        np.zeros((plan.buffers, plan.depth, plan.lanes), dtype=np.int64),
        np.zeros(plan.buffers, dtype=np.int64),
        np.zeros(plan.lanes, dtype=np.int64),
        np.zeros(bins, dtype=np.int64),
        np.zeros(bins, dtype=np.int64),
    )


@inner
def accept_job(plan: Plan, jobs: Jobs, load: Load, record: Record, t: int) -> None:
    """Take the job that is offered."""
    s = load.loader[0]
    s.busy = 1
    s.n = jobs.first[s.job + 1] - jobs.first[s.job]
    s.k = jobs.k[s.job]
    s.rows = -(-s.n // plan.lanes)
    s.row = 0
    load.occupied[s.bank] = 1
    for b in range(load.counters.size):
        load.counters[b] = -s.k
    record.counts[JOB_BEATS] += 1
    record.marks[s.job, ACCEPTED] = t


@inner
def hand_off_load(load: Load) -> None:
    """Give the loaded job to select."""
    s = load.loader[0]
    s.busy = 0
    s.complete = 0
    s.job += 1
    s.bank = s.bank + 1 if s.bank + 1 < load.occupied.size else 0


@inner
def load_cycle(
    plan: Plan, jobs: Jobs, load: Load, record: Record, transferred: bool, t: int
) -> None:
    """Clock the stage, downstream registers first; `transferred`: a row comes in."""
    s = load.loader[0]
    if plan.radix:
        _count_digits(load, record)
    if transferred:
        valid = min(plan.lanes, s.n - s.row * plan.lanes)
        source = jobs.first[s.job] + s.row * plan.lanes
        top = (1 << plan.width[0]) - 1
        for lane in range(valid):
            code = jobs.codes[source + lane]
            load.banks[s.bank, s.row, lane] = code
            load.digits[lane] = code >> plan.shift[0] & top
        s.row += 1
        s.in_keys = valid
        s.in_last = s.row == s.rows
        record.counts[BANK_WRITE] += 1
        record.counts[KEYS_BEATS] += 1
        if s.in_last:
            record.marks[s.job, LAST_INPUT] = t
            if not plan.radix:
                s.complete = 1


@inner
def _count_digits(load: Load, record: Record) -> None:
    """Move on the histogram's two stages behind the input register."""
    s = load.loader[0]
    if s.bins_keys:
        for b in range(load.bins.size):
            load.counters[b] += load.bins[b]
        if s.bins_last:
            s.complete = 1
    s.bins_keys = s.in_keys
    s.bins_last = s.in_last
    if s.in_keys:
        count_at_least(load.bins, load.digits, s.in_keys)
        record.counts[HISTOGRAM] += s.in_keys
    s.in_keys = 0
    s.in_last = 0


@inner
def count_at_least(bins: NDArray[np.int64], digits: NDArray[np.int64], lanes: int) -> None:
    """Set each bin b to the number of digits that are at least b."""
    for b in range(bins.size):
        total = 0
        for lane in range(lanes):
            total += digits[lane] >= b
        bins[b] = total
