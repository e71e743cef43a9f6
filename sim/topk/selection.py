# SPDX-License-Identifier: Apache-2.0
"""What both architectures of select keep: the job, its cut, and the passes' memories."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.topk.plan import DECIDED, SELECTED, Plan, Record

BANK, LOW, HIGH = range(3)
"""Where a pass reads: the bank, FIFO_L, FIFO_R (quick_select) or the survivor memory (radix)."""

SELECTOR = np.dtype(
    [
        ("busy", np.int64),
        ("job", np.int64),
        ("bank", np.int64),
        ("n", np.int64),
        ("k", np.int64),
        ("need", np.int64),  # keys still wanted of those that are left
        ("choice", np.int64),  # radix: a choice is visible; quick_select: START
        ("decided", np.int64),
        # The cut (section 1).
        ("prefix", np.int64),
        ("level", np.int64),
        ("ties", np.int64),
        # The pass: what it reads, rows issued so far; radix: its digit.
        ("source", np.int64),
        ("keys", np.int64),
        ("row", np.int64),
        ("rows", np.int64),
        ("digit", np.int64),
        # radix: the digit chosen last, keys that have it, keys that the pass found to match.
        ("chosen", np.int64),
        ("equal", np.int64),
        ("matched", np.int64),
        # quick_select: generator, pivot, where the pivot row's lane is, counts.
        ("first", np.int64),
        ("state", np.int64),
        ("pivot_read", np.int64),
        ("pivot_lane", np.int64),
        ("pivot", np.int64),
        ("smaller", np.int64),
        ("greater", np.int64),
    ]
)

STAGES = 4


class Select(NamedTuple):
    """Registers of select and its memories.

    Attributes
    ----------
    selector : record array of SELECTOR, one entry
    memory : int64[3, depth * P]
        FIFO_L and FIFO_R, or the survivor memory; element e is in row e // P, lane e % P.
    lanes : int64[STAGES]
        Valid lanes of the row in each pipeline stage, 0 for a bubble. Stage 0 is what a memory
        gives, one cycle after the issue; each further stage is one cycle later.
    last : int64[STAGES]
        Is it the pass's last row?
    codes, marks : int64[STAGES, P]
        The row's keys, and what was found of each: match (radix); -1, 0, 1 for smaller, equal,
        greater (quick_select).
    digits, bins, counters : int64[P], int64[2**r], int64[2**r]
        radix: digit register, bin counts and counters of the pass.
    pivot_row : int64[P]
        quick_select: what the memory gives for the pivot's row.
    """

    selector: Any
    memory: NDArray[np.int64]
    lanes: NDArray[np.int64]
    last: NDArray[np.int64]
    codes: NDArray[np.int64]
    marks: NDArray[np.int64]
    digits: NDArray[np.int64]
    bins: NDArray[np.int64]
    counters: NDArray[np.int64]
    pivot_row: NDArray[np.int64]


def make_select(plan: Plan) -> Select:
    """Return an idle select stage."""
    selector = np.zeros(1, dtype=SELECTOR).view(np.recarray)
    selector.state = plan.seed
    bins = 1 << int(plan.width.max())
    return Select(
        selector,
        np.zeros((3, plan.depth * plan.lanes), dtype=np.int64),
        np.zeros(STAGES, dtype=np.int64),
        np.zeros(STAGES, dtype=np.int64),
        np.zeros((STAGES, plan.lanes), dtype=np.int64),
        np.zeros((STAGES, plan.lanes), dtype=np.int64),
        np.zeros(plan.lanes, dtype=np.int64),
        np.zeros(bins, dtype=np.int64),
        np.zeros(bins, dtype=np.int64),
        np.zeros(plan.lanes, dtype=np.int64),
    )


@inner
def take_job(select: Select, record: Record, loader: Any, t: int) -> None:
    """Take over the loaded job; its first choice or START is visible in the next cycle."""
    s = select.selector[0]
    s.busy = 1
    s.job = loader.job
    s.bank = loader.bank
    s.n = loader.n
    s.k = loader.k
    s.need = loader.k
    s.choice = 1
    s.first = 1
    s.digit = 0
    s.prefix = 0
    s.level = 0
    s.keys = loader.n
    s.source = BANK
    record.marks[s.job, SELECTED] = t


@inner
def decide(select: Select, record: Record, prefix: int, level: int, ties: int, t: int) -> None:
    """Set the cut; it is given to filter as soon as that is idle."""
    s = select.selector[0]
    s.decided = 1
    s.prefix = prefix
    s.level = level
    s.ties = ties
    record.marks[s.job, DECIDED] = t


@inner
def decide_trivial(select: Select, record: Record, t: int) -> bool:
    """Whether nothing or everything is wanted, for which no pass is needed."""
    s = select.selector[0]
    if s.k == 0:
        decide(select, record, 0, 0, 0, t)
    elif s.k >= s.n:
        decide(select, record, -1, 0, 0, t)
    return s.decided != 0


@inner
def start_pass(plan: Plan, select: Select) -> None:
    """Set the row counters for `keys` keys."""
    s = select.selector[0]
    s.row = 0
    s.rows = -(-s.keys // plan.lanes)


@inner
def issue_row(plan: Plan, select: Select, banks: NDArray[np.int64]) -> bool:
    """Read the pass's next row into stage 0; False, and a bubble there, if none is left."""
    s = select.selector[0]
    select.lanes[0] = 0
    if s.row == s.rows:
        return False
    read_row(plan, select, banks, s.row, select.codes[0])
    select.lanes[0] = min(plan.lanes, s.keys - s.row * plan.lanes)
    s.row += 1
    select.last[0] = s.row == s.rows
    return True


@inner
def read_row(
    plan: Plan, select: Select, banks: NDArray[np.int64], row: int, into: NDArray[np.int64]
) -> None:
    """Read a row of the pass's source."""
    s = select.selector[0]
    for lane in range(plan.lanes):
        if s.source == BANK:
            into[lane] = banks[s.bank, row, lane]
        else:
            into[lane] = select.memory[s.source, row * plan.lanes + lane]


@inner
def move_stage(select: Select, stage: int) -> None:
    """Copy a pipeline stage into the next one."""
    select.lanes[stage + 1] = select.lanes[stage]
    select.last[stage + 1] = select.last[stage]
    for lane in range(select.digits.size):
        select.codes[stage + 1, lane] = select.codes[stage, lane]
        select.marks[stage + 1, lane] = select.marks[stage, lane]
