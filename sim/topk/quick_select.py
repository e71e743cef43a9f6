# SPDX-License-Identifier: Apache-2.0
"""Quick-select, register by register (section 4.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import lfsr32_leap
from sim.lib.kernel import inner
from sim.topk.counts import BANK_READ, COMPARE, DRAWS, FIFO_READ, FIFO_WRITE
from sim.topk.plan import Plan, Record, note_pass
from sim.topk.selection import (
    BANK,
    HIGH,
    LOW,
    Select,
    decide,
    decide_trivial,
    issue_row,
    move_stage,
    read_row,
    start_pass,
)

_leap = inner(lfsr32_leap)


@inner
def see_start(plan: Plan, select: Select, record: Record, t: int) -> None:
    """In a START cycle, decide or take the side on which the cut lies."""
    s = select.selector[0]
    if not s.choice:
        return
    if s.first:
        decide_trivial(select, record, t)
        return
    not_smaller = s.keys - s.smaller
    if s.need <= s.greater:
        s.source = HIGH
        s.keys = s.greater
    elif s.need <= not_smaller:
        decide(select, record, s.pivot, plan.key_bits, s.need - s.greater, t)
    else:
        s.source = LOW
        s.need -= not_smaller
        s.keys = s.smaller


@inner
def quick_select_cycle(
    plan: Plan, select: Select, banks: NDArray[np.int64], record: Record, t: int
) -> None:
    """Clock the stage, downstream registers first."""
    s = select.selector[0]
    # Stages: data, comparisons.
    compared, data = 1, 0
    starts = s.choice != 0 and s.decided == 0
    s.choice = 0
    s.first = 0 if starts else s.first
    if select.lanes[compared]:
        _sort_out(plan, select, record)
        s.choice = select.last[compared]
    for lane in range(select.lanes[data]):
        code = select.codes[data, lane]
        select.marks[data, lane] = int(code > s.pivot) - int(code < s.pivot)
    move_stage(select, data)
    if s.pivot_read:
        s.pivot = select.pivot_row[s.pivot_lane]
        s.pivot_read = 0
    if starts:
        _start(plan, select, banks, record, t)
        select.lanes[data] = 0
    elif issue_row(plan, select, banks):
        record.counts[BANK_READ if s.source == BANK else FIFO_READ] += 1


@inner
def _start(plan: Plan, select: Select, banks: NDArray[np.int64], record: Record, t: int) -> None:
    """Draw a pivot and read its row; the pass's rows follow from the next cycle on."""
    s = select.selector[0]
    s.state = _leap(s.state)
    element = (s.state >> 16) * s.keys >> 16
    read_row(plan, select, banks, element // plan.lanes, select.pivot_row)
    s.pivot_lane = element % plan.lanes
    s.pivot_read = 1
    s.smaller = 0
    s.greater = 0
    start_pass(plan, select)
    note_pass(record, s.job, t, s.keys)
    record.counts[DRAWS] += 1
    record.counts[BANK_READ if s.source == BANK else FIFO_READ] += 1


@inner
def _sort_out(plan: Plan, select: Select, record: Record) -> None:
    """Append the compared row's smaller keys to FIFO_L and its greater ones to FIFO_R."""
    s = select.selector[0]
    for lane in range(select.lanes[1]):
        code = select.codes[1, lane]
        mark = select.marks[1, lane]
        if mark < 0:
            select.memory[LOW, s.smaller] = code
            s.smaller += 1
        elif mark > 0:
            select.memory[HIGH, s.greater] = code
            s.greater += 1
        record.counts[FIFO_WRITE] += mark != 0
    record.counts[COMPARE] += select.lanes[1]
