# SPDX-License-Identifier: Apache-2.0
"""The fast model: what each job selects, and its times by a recurrence over jobs, rows and beats.

Select and filter depend on the keys alone, in numbers of passes, rows and beats. Every time is then
the largest of the times that it waits for, moved on to the next cycle in which its stream is free.
Equal to the stepped model under any stall pattern.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Work(NamedTuple):
    """What kernels need besides the record.

    Attributes
    ----------
    low, high : int64[max n + 1], or int32 as the keys' codes
        Survivors: of quick-select FIFO_L and FIFO_R, of radix the latter.
    kept : int64[max n + 1]
        Positions of the keys that are kept, in order.
    beats : int64[rows + 2]
        Rows, counted from the job's first, after which a beat is emitted.
    """

    low: NDArray[np.int64] | NDArray[np.int32]
    high: NDArray[np.int64] | NDArray[np.int32]
    kept: NDArray[np.int64]
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


def make_work(plan: Plan, most: int, dtype: Any = np.int64) -> Work:
    """Return the room that jobs of at most so many keys of a dtype need."""
    return Work(
        np.zeros(most + 1, dtype=dtype),
        np.zeros(most + 1, dtype=dtype),
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
        first, last = jobs.first_item[job], jobs.first_item[job + 1]
        for item in range(last - first):
            position = work.kept[item]
            record.item_codes[first + item] = jobs.codes[jobs.first[job] + position]
            record.item_indices[first + item] = position
        _time(plan, jobs, stalls, work, record, job, cut.cycles, beats)
        for number in range(first_pass, min(record.counts[PASSES], record.passes.shape[0])):
            record.passes[number, 1] += record.marks[job, SELECTED] + 1
    return record.marks[jobs.k.size - 1, LAST_OUTPUT] + 1


@inner
def select(
    plan: Plan, jobs: Jobs, job: int, work: Work, record: Record, state: int
) -> tuple[Cut, int, int]:
    """Select and filter one job, without its times; what it keeps is in `work.kept`.

    Counts go to `record`, passes too, relative to the cycle after the handoff to select.

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
    beats = _filter(plan, jobs, job, cut, work)
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
    """Choose digit by digit (section 4.2); passes are noted relative to the first choice.

    The hardware counts all values of a digit at once. Here its bits are found one after the other,
    each by counting the keys from a code on: comparisons run in vectors, counters would not.
    """
    counts = record.counts
    digits = plan.shift.size
    source = codes
    size = codes.size
    need = k
    prefix = 0
    level = 0
    cycles = 0
    passed = size  # keys that the hardware's next pass reads
    # Of the source's keys, how many lie from the prefix on, and how many past it.
    reached = size
    past = 0
    for digit in range(digits):
        shift = plan.shift[digit]
        prefix <<= plan.width[digit]
        for bit in range(plan.width[digit] - 1, -1, -1):
            candidate = prefix | 1 << bit
            number = _count_from(source, size, candidate << shift)
            enough = number >= need
            prefix = candidate if enough else prefix
            reached = number if enough else reached
            past = past if enough else number
        equal = reached - past
        level = plan.key_bits - shift
        if need - past == equal or digit == digits - 1:
            break
        rows = -(-passed // plan.lanes)
        note_pass(record, job, cycles, passed)
        counts[FIFO_READ if digit else BANK_READ] += rows
        counts[HISTOGRAM] += equal
        if digit < digits - 2:
            counts[FIFO_WRITE] += equal
        cycles += rows + plan.pass_latency
        passed = equal
        # The last digit is sooner found among all keys than survivors are picked for it.
        if digit < digits - 2:
            matched = 0
            for i in range(size):
                code = source[i]
                work.high[matched] = code
                matched += code >> shift == prefix
            source = work.high
            size = reached = equal
            need -= past
            past = 0
    return Cut(prefix, level, need - past, cycles)


@inner
def _count_from(source: NDArray[np.int64], size: int, least: int) -> Any:
    """Return how many keys are at least `least`, as int64."""
    number = np.int32(0)
    for i in range(size):
        number = np.int32(number + np.int32(source[i] >= source.dtype.type(least)))
    return np.int64(number)


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
        pivot: Any = np.int64(source[(state >> 16) * size >> 16])
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
def _filter(plan: Plan, jobs: Jobs, job: int, cut: Cut, work: Work) -> int:
    """Emit the kept items; return the number of beats, their rows in `work.beats` (section 4.4)."""
    codes = jobs.codes[jobs.first[job] : jobs.first[job + 1]]
    total = jobs.first_item[job + 1] - jobs.first_item[job]
    if total == 0:
        work.beats[0] = 0
        return 1
    kept = work.kept
    shift = plan.key_bits - cut.level
    least = cut.prefix << shift
    most = least | ((1 << shift) - 1)
    # Which keys are kept is hard to predict, so that none is skipped: what is not is overwritten.
    items = np.uint64(0)  # unsigned, an index needs no test for a negative one
    one = np.uint64(1)
    i = np.uint64(0)
    ties = cut.ties
    while ties > 0 and i < np.uint64(codes.size):
        code = codes[i]
        kept[items] = i
        items += np.uint64(code >= least)
        ties -= int(code >= least) & int(code <= most)
        i += one
    for rest in range(i, codes.size):
        kept[items] = rest
        items += np.uint64(codes[rest] > most)
    # A row adds at most a beat's items, so none fills two beats.
    beats = total // plan.lanes
    for beat in range(beats):
        work.beats[beat] = kept[(beat + 1) * plan.lanes - 1] // plan.lanes
    if total % plan.lanes:
        row = kept[total - 1] // plan.lanes
        work.beats[beats] = row + int(beats > 0 and work.beats[beats - 1] == row)
        beats += 1
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
