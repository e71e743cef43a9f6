# SPDX-License-Identifier: Apache-2.0
"""Select by digits, register by register (section 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.topk.counts import BANK_READ, FIFO_READ, FIFO_WRITE, HISTOGRAM
from sim.topk.load import count_at_least
from sim.topk.plan import Plan, Record, note_pass
from sim.topk.selection import (
    BANK,
    HIGH,
    Select,
    decide,
    decide_trivial,
    issue_row,
    move_stage,
    start_pass,
)


@inner
def choose(plan: Plan, select: Select, counters: NDArray[np.int64], total: int) -> None:
    """Choose a digit from final counters of `total` keys; visible in the next cycle."""
    s = select.selector[0]
    chosen = 0
    for b in range(1, 1 << plan.width[s.digit]):
        if counters[b] >= 0:
            chosen = b
    above = 0
    if chosen + 1 < 1 << plan.width[s.digit]:
        above = counters[chosen + 1] + s.need
    at_least = counters[chosen] + s.need if chosen else total
    s.chosen = chosen
    s.equal = at_least - above
    s.need -= above
    s.prefix = s.prefix << plan.width[s.digit] | chosen
    s.level += plan.width[s.digit]
    s.choice = 1


@inner
def see_choice(plan: Plan, select: Select, record: Record, t: int) -> None:
    """Decide in the cycle in which a choice is visible, if nothing is left to choose."""
    s = select.selector[0]
    if not s.choice or decide_trivial(select, record, t):
        return
    if s.need == s.equal or s.digit == plan.shift.size - 1:
        decide(select, record, s.prefix, s.level, s.need, t)


@inner
def radix_cycle(
    plan: Plan, select: Select, banks: NDArray[np.int64], record: Record, t: int
) -> None:
    """Clock the stage, downstream registers first."""
    s = select.selector[0]
    # Stages: data, matches and digits, bin counts, counters.
    counted, binned, matched, data = 3, 2, 1, 0
    starts = s.choice != 0 and s.decided == 0
    s.choice = 0
    if select.lanes[counted]:
        if s.digit < plan.shift.size - 1:
            _write_survivors(plan, select, record)
        if select.last[counted]:
            choose(plan, select, select.counters, s.equal)
    if select.lanes[binned]:
        for b in range(1 << plan.width[s.digit]):
            select.counters[b] += select.bins[b]
    move_stage(select, binned)
    if select.lanes[matched]:
        _count_matches(plan, select, record)
    move_stage(select, matched)
    if select.lanes[data]:
        _match(plan, select)
    move_stage(select, data)
    if starts:
        _start(plan, select, record, t)
    if issue_row(plan, select, banks):
        record.counts[BANK_READ if s.source == BANK else FIFO_READ] += 1


@inner
def _start(plan: Plan, select: Select, record: Record, t: int) -> None:
    """Begin the pass for the digit after the one chosen."""
    s = select.selector[0]
    if s.digit:
        s.source = HIGH
        s.keys = s.matched
    s.digit += 1
    s.matched = 0
    start_pass(plan, select)
    note_pass(record, s.job, t, s.keys)
    for b in range(select.counters.size):
        select.counters[b] = -s.need


@inner
def _match(plan: Plan, select: Select) -> None:
    """Find the keys of stage 0 that have the digit chosen, and their next digit."""
    s = select.selector[0]
    above, here = s.digit - 1, s.digit
    for lane in range(select.lanes[0]):
        code = select.codes[0, lane]
        digit = code >> plan.shift[above] & ((1 << plan.width[above]) - 1)
        select.marks[0, lane] = digit == s.chosen
        select.digits[lane] = code >> plan.shift[here] & ((1 << plan.width[here]) - 1)


@inner
def _count_matches(plan: Plan, select: Select, record: Record) -> None:
    """Form the bin counts of stage 1's matching lanes."""
    matches = 0
    for lane in range(select.lanes[1]):
        if select.marks[1, lane]:
            # Only what matches is counted: in front, as a compaction would have it.
            select.digits[matches] = select.digits[lane]
            matches += 1
    count_at_least(select.bins, select.digits, matches)
    record.counts[HISTOGRAM] += matches


@inner
def _write_survivors(plan: Plan, select: Select, record: Record) -> None:
    """Append stage 3's matching keys to the survivor memory."""
    s = select.selector[0]
    for lane in range(select.lanes[3]):
        if select.marks[3, lane]:
            select.memory[HIGH, s.matched] = select.codes[3, lane]
            s.matched += 1
            record.counts[FIFO_WRITE] += 1
