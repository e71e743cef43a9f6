# SPDX-License-Identifier: Apache-2.0
"""The fast model: what each job selects, and its times by a recurrence over jobs, rows and beats.

Select and filter depend on the keys alone, in numbers of passes, rows and beats. Every time is then
the largest of the times that it waits for, moved on to the next cycle in which its stream is free.
Equal to the stepped model under any stall pattern.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import FILTER_LATENCY
from cosil.packed.generators import lfsr32_leap
from sim.lib.kernel import entry, inner
from sim.lib.stalls import Stalls, unstalled
from sim.topk.counts import (
    BANK_READ,
    BANK_WRITE,
    COMPARE,
    DRAWS,
    FIFO_READ,
    FIFO_WRITE,
    HISTOGRAM,
    ITEMS,
    ITEMS_BEATS,
    JOB_BEATS,
    KEYS_BEATS,
    PASSES,
)
from sim.topk.plan import (
    ACCEPTED,
    DECIDED,
    FILTER,
    FILTERED,
    HANDOFF,
    ITEMS_STREAM,
    JOB_STREAM,
    KEYS_STREAM,
    LAST_INPUT,
    LAST_OUTPUT,
    LOAD,
    SELECT,
    SELECTED,
    STALLED_IN,
    STALLED_OUT,
    Jobs,
    Plan,
    Record,
    note_pass,
)

_leap = inner(lfsr32_leap)

COPIES = 4
"""Counters of a digit."""


class Work(NamedTuple):
    """What kernels need besides the record.

    Attributes
    ----------
    bins : int64[COPIES * 2 ** widest digit]
        Keys of each digit come first.
    low, high : int64[max n + 1]
        Survivors: of quick-select FIFO_L and FIFO_R, of radix the latter. Then `high` holds the
        positions that are kept.
    beats : int64[rows + 2]
        Rows, counted from the job's first, after which a beat is emitted.
    """

    bins: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    beats: NDArray[np.int64]


class Cut(NamedTuple):
    """What a selection ends with (section 1), and how long its passes took.

    A key is kept if its first `level` bits exceed `prefix`, or equal it and fewer than `ties` such
    keys came before it. -1 as prefix admits all, no level and no tie admits none.
    """

    prefix: int
    level: int
    ties: int
    cycles: int


def simulate(plan: Plan, jobs: Jobs, stalls: Stalls, record: Record) -> int:
    """Run jobs; return the number of cycles and fill `record`."""
    work = make_work(plan, int(np.diff(jobs.first).max()))
    return int(_run(plan, jobs, stalls, work, record))


def make_work(plan: Plan, most: int) -> Work:
    """Return the room that jobs of at most so many keys need."""
    return Work(
        np.zeros(COPIES << int(plan.width.max()), dtype=np.int64),
        np.zeros(most + 1, dtype=np.int64),
        np.zeros(most + 1, dtype=np.int64),
        np.zeros(-(-most // plan.lanes) + 2, dtype=np.int64),
    )


@entry
def _run(plan: Plan, jobs: Jobs, stalls: Stalls, work: Work, record: Record) -> int:
    """Select, filter and time every job in turn; return the cycles."""
    state = np.int64(plan.seed)
    for job in range(jobs.k.size):
        first_pass = record.counts[PASSES]
        cut, state, beats = select(plan, jobs, job, work, record, state)
        _time(plan, jobs, stalls, work, record, job, cut.cycles, beats)
        for number in range(first_pass, min(record.counts[PASSES], record.passes.shape[0])):
            record.passes[number, 1] += record.marks[job, SELECTED] + 1
    return record.marks[jobs.k.size - 1, LAST_OUTPUT] + 1


@inner
def select(
    plan: Plan, jobs: Jobs, job: int, work: Work, record: Record, state: int
) -> tuple[Cut, int, int]:
    """Select and filter one job, without its times.

    Items and counts go to `record`, passes too, relative to the cycle after the handoff to select.

    Returns
    -------
    cut : Cut
    state : int
        The generator's, after the job's draws.
    beats : int
        Beats emitted; their rows are in `work.beats`.
    """
    counts = record.counts
    codes = jobs.codes[jobs.first[job] : jobs.first[job + 1]]
    k = jobs.k[job]
    if k == 0 or k >= codes.size:
        cut = Cut(-1 if k else 0, 0, 0, 0)
    elif plan.radix:
        cut = _radix(plan, codes, job, work, record, k)
    else:
        cut, state = _quick_select(plan, codes, job, work, record, k, state)
    beats = _filter(plan, jobs, job, cut, work, record)
    rows = -(-codes.size // plan.lanes)
    counts[BANK_WRITE] += rows
    counts[BANK_READ] += min(rows, work.beats[beats - 1] + FILTER_LATENCY + 1)
    counts[HISTOGRAM] += plan.radix * codes.size
    counts[ITEMS] += min(k, codes.size)
    counts[JOB_BEATS] += 1
    counts[KEYS_BEATS] += rows
    counts[ITEMS_BEATS] += beats
    return cut, state, beats


@inner
def _radix(
    plan: Plan, codes: NDArray[np.int64], job: int, work: Work, record: Record, k: int
) -> Cut:
    """Choose digit by digit (section 4.2); passes are noted relative to the first choice."""
    counts = record.counts
    source = codes
    size = codes.size
    need = k
    prefix = 0
    level = 0
    cycles = 0
    for digit in range(plan.shift.size):
        shift = plan.shift[digit]
        top = (1 << plan.width[digit]) - 1
        _count_digits(source, size, shift, top, work.bins)
        chosen = top
        while work.bins[chosen] < need:
            need -= int(work.bins[chosen])
            chosen -= 1
        equal = int(work.bins[chosen])
        prefix = prefix << plan.width[digit] | chosen
        level = plan.key_bits - shift
        if need == equal or digit == plan.shift.size - 1:
            break
        rows = -(-size // plan.lanes)
        note_pass(record, job, cycles, size)
        counts[FIFO_READ if digit else BANK_READ] += rows
        counts[HISTOGRAM] += equal
        if digit < plan.shift.size - 2:
            counts[FIFO_WRITE] += equal
        cycles += rows + plan.pass_latency
        matched = 0
        for i in range(size):
            code = source[i]
            work.high[matched] = code
            matched += code >> shift & top == chosen
        source = work.high
        size = matched
    return Cut(prefix, level, need, cycles)


@inner
def _count_digits(
    source: NDArray[np.int64], size: int, shift: int, top: int, bins: NDArray[np.int64]
) -> None:
    """Set bins[0..top] to the number of keys of each digit.

    Keys take turns with COPIES counters, so that equal digits do not wait for each other.
    """
    # Unsigned, an index needs no test for a negative one.
    span, mask, by = np.uint64(top + 1), np.uint64(top), np.uint64(shift)
    for b in range(COPIES * (top + 1)):
        bins[b] = 0
    whole = size // COPIES * COPIES
    for i in range(0, whole, COPIES):
        bins[(np.uint64(source[i]) >> by) & mask] += 1
        bins[span + ((np.uint64(source[i + 1]) >> by) & mask)] += 1
        bins[span + span + ((np.uint64(source[i + 2]) >> by) & mask)] += 1
        bins[span + span + span + ((np.uint64(source[i + 3]) >> by) & mask)] += 1
    for i in range(whole, size):
        bins[(np.uint64(source[i]) >> by) & mask] += 1
    for b in range(top + 1):
        for copy in range(1, COPIES):
            bins[b] += bins[copy * (top + 1) + b]


@inner
def _quick_select(
    plan: Plan,
    codes: NDArray[np.int64],
    job: int,
    work: Work,
    record: Record,
    k: int,
    state: int,
) -> tuple[Cut, int]:
    """Divide by random pivots (section 4.3); passes are noted relative to the first START."""
    counts = record.counts
    source = codes
    size = codes.size
    need = k
    cycles = 0
    in_bank = 1
    while True:
        state = _leap(state)
        pivot = source[(state >> 16) * size >> 16]
        rows = -(-size // plan.lanes)
        note_pass(record, job, cycles, size)
        counts[BANK_READ if in_bank else FIFO_READ] += rows + 1
        cycles += rows + plan.pass_latency
        smaller = 0
        greater = 0
        # In place where the source is one of the two: what is written was read before.
        for i in range(size):
            code = source[i]
            work.low[smaller] = code
            smaller += code < pivot
            work.high[greater] = code
            greater += code > pivot
        counts[DRAWS] += 1
        counts[COMPARE] += size
        counts[FIFO_WRITE] += smaller + greater
        in_bank = 0
        if need <= greater:
            source = work.high
            size = greater
        elif need <= size - smaller:
            return Cut(pivot, plan.key_bits, need - greater, cycles), state
        else:
            need -= size - smaller
            source = work.low
            size = smaller


@inner
def _filter(plan: Plan, jobs: Jobs, job: int, cut: Cut, work: Work, record: Record) -> int:
    """Emit the kept items; return the number of beats, their rows in `work.beats` (section 4.4)."""
    codes = jobs.codes[jobs.first[job] : jobs.first[job + 1]]
    first = jobs.first_item[job]
    total = jobs.first_item[job + 1] - first
    if total == 0:
        work.beats[0] = 0
        return 1
    shift = plan.key_bits - cut.level
    # Which keys are kept is hard to predict, so that none is skipped: what is not is overwritten.
    kept = work.high
    items = 0
    least = cut.prefix << shift
    for i in range(codes.size):
        kept[np.uint64(items)] = i
        items += int(codes[i] >= least)
    if items > total:  # too many ties: the first are kept
        ties = cut.ties
        candidates = items
        items = 0
        for candidate in range(candidates):
            i = kept[candidate]
            tied = int(codes[i] >> shift == cut.prefix)
            kept[items] = i
            items += (1 - tied) | int(ties > 0)
            ties -= tied
    # A row adds at most a beat's items, so none fills two beats.
    beats = total // plan.lanes
    for beat in range(beats):
        work.beats[beat] = kept[(beat + 1) * plan.lanes - 1] // plan.lanes
    if total % plan.lanes:
        row = kept[total - 1] // plan.lanes
        work.beats[beats] = row + int(beats > 0 and work.beats[beats - 1] == row)
        beats += 1
    for item in range(total):
        record.item_codes[first + item] = codes[kept[item]]
        record.item_indices[first + item] = kept[item]
    return beats


@inner
def _time(
    plan: Plan,
    jobs: Jobs,
    stalls: Stalls,
    work: Work,
    record: Record,
    job: int,
    passes_cycles: int,
    beats: int,
) -> None:
    """Fill the job's marks and charge its cycles to causes."""
    marks = record.marks
    causes = record.causes
    # Until then the job before was in filter, and select was another's.
    filter_busy = marks[job - 1, LAST_OUTPUT] if job else -1
    accepted = 0
    if job:
        accepted = marks[job - 1, SELECTED] + 1
        if job >= plan.buffers:
            accepted = max(accepted, marks[job - plan.buffers, LAST_OUTPUT] + 1)
        accepted = unstalled(stalls, JOB_STREAM, accepted)

    rows = -(-(jobs.first[job + 1] - jobs.first[job]) // plan.lanes)
    last_input = accepted + rows
    rows_alone = max(0, last_input - max(accepted, filter_busy))
    if stalls.length[KEYS_STREAM] > 1:
        last_input = accepted
        rows_alone = 0
        for _ in range(rows):
            last_input = unstalled(stalls, KEYS_STREAM, last_input + 1)
            rows_alone += last_input > filter_busy
    selected = last_input + plan.load_latency
    if job:
        selected = max(selected, marks[job - 1, FILTERED] + 1)
    decided = selected + 1 + passes_cycles
    filtered = max(decided, filter_busy + 1)

    # Of the pipeline's enabled cycles, the one with this number is cycle t.
    number = -1
    t = filtered
    blocked = 0
    for beat in range(beats):
        transfer_number = work.beats[beat] + FILTER_LATENCY
        visible = t + transfer_number - number
        t = unstalled(stalls, ITEMS_STREAM, visible)
        blocked += t - visible
        number = transfer_number

    marks[job, ACCEPTED] = accepted
    marks[job, LAST_INPUT] = last_input
    marks[job, SELECTED] = selected
    marks[job, DECIDED] = decided
    marks[job, FILTERED] = filtered
    marks[job, LAST_OUTPUT] = t

    gap = max(0, selected - filter_busy)
    waiting = max(0, last_input - max(accepted, filter_busy)) - rows_alone
    causes[STALLED_OUT] += blocked
    causes[FILTER] += t - filtered - blocked
    causes[SELECT] += filtered - max(selected, filter_busy)
    causes[LOAD] += rows_alone
    causes[STALLED_IN] += waiting
    causes[HANDOFF] += gap - rows_alone - waiting
