# SPDX-License-Identifier: Apache-2.0
"""Filter, register by register (section 4.4): rows of the bank become packed beats."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.topk.counts import BANK_READ, ITEMS, ITEMS_BEATS
from sim.topk.plan import FILTERED, LAST_OUTPUT, Plan, Record

FILTERER = np.dtype(
    [
        ("busy", np.int64),
        ("job", np.int64),
        ("bank", np.int64),
        ("n", np.int64),
        ("prefix", np.int64),
        ("level", np.int64),
        ("ties", np.int64),  # still to be kept
        ("wanted", np.int64),  # items of the job
        ("row", np.int64),
        ("rows", np.int64),
        ("arrived", np.int64),  # items that the packer has received
        ("emitted", np.int64),  # items that were put into the output register
        ("packed", np.int64),  # items in the packer
        ("finished", np.int64),  # the last beat was put into the output register
        ("o_valid", np.int64),
        ("o_last", np.int64),
        ("o_items", np.int64),
        ("written", np.int64),  # items transferred, of all jobs
    ]
)

DATA, FLAGS, KEPT, RANKS, CONCENTRATED = range(5)
TIE, ABOVE = 1, 2


class Filter(NamedTuple):
    """Registers of filter.

    Attributes
    ----------
    filterer : record array of FILTERER, one entry
    lanes : int64[5]
        Lanes of the row in each stage that may hold an item; -1 is a bubble.
    base : int64[5]
        Index of the row's lane 0.
    codes, marks, indices : int64[5, P]
        Keys; TIE or ABOVE, from KEPT on 1 where kept; index in the job, from CONCENTRATED on.
    packer, output : int64[2, 2 P], int64[2, P]
        Keys and indices that wait for a full beat, and those of the output register.
    """

    filterer: Any
    lanes: NDArray[np.int64]
    base: NDArray[np.int64]
    codes: NDArray[np.int64]
    marks: NDArray[np.int64]
    indices: NDArray[np.int64]
    packer: NDArray[np.int64]
    output: NDArray[np.int64]


def make_filter(plan: Plan) -> Filter:
    """Return an idle filter stage."""
    stages, lanes = 5, plan.lanes
    return Filter(
        np.zeros(1, dtype=FILTERER).view(np.recarray),
        np.full(stages, -1, dtype=np.int64),
        np.zeros(stages, dtype=np.int64),
        np.zeros((stages, lanes), dtype=np.int64),
        np.zeros((stages, lanes), dtype=np.int64),
        np.zeros((stages, lanes), dtype=np.int64),
        np.zeros((2, 2 * lanes), dtype=np.int64),
        np.zeros((2, lanes), dtype=np.int64),
    )


@inner
def take_cut(plan: Plan, filter_: Filter, record: Record, selector: Any, t: int) -> None:
    """Take over the decided job."""
    s = filter_.filterer[0]
    s.busy = 1
    s.job = selector.job
    s.bank = selector.bank
    s.n = selector.n
    s.prefix = selector.prefix
    s.level = selector.level
    s.ties = selector.ties
    s.wanted = min(selector.k, selector.n)
    s.row = 0
    s.rows = -(-s.n // plan.lanes)
    s.arrived = 0
    s.emitted = 0
    s.packed = 0
    s.finished = 0
    record.marks[s.job, FILTERED] = t


@inner
def transfer_beat(filter_: Filter, record: Record, t: int) -> bool:
    """Transfer the output register; whether that was the job's last beat."""
    s = filter_.filterer[0]
    for lane in range(s.o_items):
        record.item_codes[s.written + lane] = filter_.output[0, lane]
        record.item_indices[s.written + lane] = filter_.output[1, lane]
    s.written += s.o_items
    record.counts[ITEMS] += s.o_items
    record.counts[ITEMS_BEATS] += 1
    if s.o_last:
        record.marks[s.job, LAST_OUTPUT] = t
    return s.o_last != 0


@inner
def filter_cycle(plan: Plan, filter_: Filter, banks: NDArray[np.int64], record: Record) -> None:
    """Clock the stage in an enabled cycle, downstream registers first."""
    s = filter_.filterer[0]
    _pack(plan, filter_)
    for stage in range(CONCENTRATED, 0, -1):
        filter_.lanes[stage] = filter_.lanes[stage - 1]
        filter_.base[stage] = filter_.base[stage - 1]
        for lane in range(plan.lanes):
            filter_.codes[stage, lane] = filter_.codes[stage - 1, lane]
            filter_.marks[stage, lane] = filter_.marks[stage - 1, lane]
    _concentrate(filter_)
    _keep(filter_)
    _flag(plan, filter_)
    filter_.lanes[DATA] = -1
    if s.busy and s.row < s.rows:
        filter_.lanes[DATA] = min(plan.lanes, s.n - s.row * plan.lanes)
        filter_.base[DATA] = s.row * plan.lanes
        for lane in range(plan.lanes):
            filter_.codes[DATA, lane] = banks[s.bank, s.row, lane]
        s.row += 1
        record.counts[BANK_READ] += 1


@inner
def finish_job(filter_: Filter) -> None:
    """Become idle after the last transfer; rows behind it are dropped."""
    s = filter_.filterer[0]
    s.busy = 0
    s.o_valid = 0
    for stage in range(filter_.lanes.size):
        filter_.lanes[stage] = -1


@inner
def _flag(plan: Plan, filter_: Filter) -> None:
    """Compare the keys that enter stage FLAGS with the cut."""
    s = filter_.filterer[0]
    for lane in range(filter_.lanes[FLAGS]):
        head = filter_.codes[FLAGS, lane] >> (plan.key_bits - s.level)
        tied = TIE if head == s.prefix else 0
        filter_.marks[FLAGS, lane] = ABOVE if head > s.prefix else tied


@inner
def _keep(filter_: Filter) -> None:
    """Keep what is above the cut, and the first ties, in stage KEPT."""
    s = filter_.filterer[0]
    for lane in range(filter_.lanes[KEPT]):
        mark = filter_.marks[KEPT, lane]
        tied = mark == TIE and s.ties > 0
        s.ties -= tied
        filter_.marks[KEPT, lane] = mark == ABOVE or tied


@inner
def _concentrate(filter_: Filter) -> None:
    """Move the kept lanes of stage CONCENTRATED to its front; `lanes` becomes their number."""
    stage = CONCENTRATED
    kept = 0
    for lane in range(filter_.lanes[stage]):
        if filter_.marks[stage, lane]:
            filter_.codes[stage, kept] = filter_.codes[stage, lane]
            filter_.indices[stage, kept] = filter_.base[stage] + lane
            kept += 1
    if filter_.lanes[stage] >= 0:
        filter_.lanes[stage] = kept


@inner
def _pack(plan: Plan, filter_: Filter) -> None:
    """Add the concentrated row to the packer, and fill the output register if a beat is due."""
    s = filter_.filterer[0]
    s.o_valid = 0
    if s.finished:
        return
    arriving = filter_.lanes[CONCENTRATED]
    for lane in range(arriving):
        filter_.packer[0, s.packed + lane] = filter_.codes[CONCENTRATED, lane]
        filter_.packer[1, s.packed + lane] = filter_.indices[CONCENTRATED, lane]
    s.packed += max(arriving, 0)
    s.arrived += max(arriving, 0)
    complete = s.arrived == s.wanted and (arriving >= 0 or s.packed > 0)
    if s.packed < plan.lanes and not complete:
        return
    s.o_valid = 1
    s.o_items = min(s.packed, plan.lanes)
    for part in range(2):
        for lane in range(plan.lanes):
            filter_.output[part, lane] = filter_.packer[part, lane]
            filter_.packer[part, lane] = filter_.packer[part, plan.lanes + lane]
    s.packed -= s.o_items
    s.emitted += s.o_items
    s.o_last = s.emitted == s.wanted
    s.finished = s.o_last
