# SPDX-License-Identifier: Apache-2.0
"""The stepped model: the engine's registers, cycle by cycle.

Read it with docs/engines/topk.md, section 4: `load` is 4.1, `select` with `radix` and
`quick_select` 4.2 and 4.3, `filter` 4.4. In a cycle everything is decided from what the registers
show, then they are clocked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.lib.kernel import entry, inner
from sim.lib.stalls import Stalls, is_stalled
from sim.topk.filter import (
    Filter,
    filter_cycle,
    finish_job,
    make_filter,
    take_cut,
    transfer_beat,
)
from sim.topk.load import Load, accept_job, hand_off_load, load_cycle, make_load
from sim.topk.plan import (
    FILTER,
    HANDOFF,
    ITEMS_STREAM,
    JOB_STREAM,
    KEYS_STREAM,
    LOAD,
    SELECT,
    STALLED_IN,
    STALLED_OUT,
    Jobs,
    Plan,
    Record,
)
from sim.topk.quick_select import quick_select_cycle, see_start
from sim.topk.radix import choose, radix_cycle, see_choice
from sim.topk.selection import Select, make_select, take_job


class Engine(NamedTuple):
    """All registers of the engine."""

    load: Load
    select: Select
    filter_: Filter


def simulate(plan: Plan, jobs: Jobs, stalls: Stalls, record: Record) -> int:
    """Run jobs cycle by cycle; return the number of cycles and fill `record`."""
    cycles = int(_run(plan, jobs, stalls, make_engine(plan), record))
    if cycles < 0:
        raise RuntimeError(f"topk: the engine stood still after {-cycles} cycles; this is a defect")
    return cycles


def make_engine(plan: Plan) -> Engine:
    """Return the engine after reset."""
    return Engine(make_load(plan), make_select(plan), make_filter(plan))


@entry
def _run(plan: Plan, jobs: Jobs, stalls: Stalls, engine: Engine, record: Record) -> int:
    """Step until the last output transfer; return the cycle count, or minus it if it hangs."""
    loader, filterer = engine.load.loader[0], engine.filter_.filterer[0]
    # The longest time between two of a job's transfers is a select of many small passes.
    patience = 64 + 8 * plan.depth * plan.lanes * (plan.depth + 4) + 4 * np.int64(stalls.bits.size)
    # Each name has one type throughout: another would compile everything that it is given to twice.
    moved = np.int64(0)
    jobs_left = np.int64(jobs.k.size)
    t = np.int64(0)
    while jobs_left:
        show(plan, engine, record, t)
        blocked = filterer.o_valid != 0 and is_stalled(stalls, ITEMS_STREAM, t)
        offered = loader.job < jobs.k.size and (t == 0 or not is_stalled(stalls, JOB_STREAM, t))
        accepted = offered and job_ready(engine)
        keys_ready = loader.busy != 0 and loader.row < loader.rows
        transferred = keys_ready and not is_stalled(stalls, KEYS_STREAM, t)
        record.causes[_cause(engine, blocked, transferred, keys_ready)] += 1
        if accepted or transferred or (filterer.o_valid != 0 and not blocked):
            moved = t
        elif t - moved > patience:
            return int(-t)
        jobs_left -= clock(plan, jobs, engine, record, accepted, transferred, blocked, t)
        t += 1
    return int(t)


@inner
def show(plan: Plan, engine: Engine, record: Record, t: int) -> None:
    """Let select see its choice or START, before anything else of cycle t."""
    if plan.radix:
        see_choice(plan, engine.select, record, t)
    else:
        see_start(plan, engine.select, record, t)


@inner
def job_ready(engine: Engine) -> bool:
    """Whether a job would be accepted in this cycle."""
    loader = engine.load.loader[0]
    return loader.busy == 0 and engine.load.occupied[loader.bank] == 0


@inner
def clock(
    plan: Plan,
    jobs: Jobs,
    engine: Engine,
    record: Record,
    accepted: bool,
    transferred: bool,
    blocked: bool,
    t: int,
) -> bool:
    """Clock all registers at the end of cycle t, downstream first.

    Parameters
    ----------
    accepted, transferred : bool
        A job, a row of keys is transferred.
    blocked : bool
        The output register holds a beat that is not taken.

    Returns
    -------
    bool
        Whether a job's last beat was transferred.
    """
    load, select, filter_ = engine
    loader, selector, filterer = load.loader[0], select.selector[0], filter_.filterer[0]
    selected = loader.complete != 0 and selector.busy == 0
    filtered = selector.decided != 0 and filterer.busy == 0
    last = False
    bank = filterer.bank
    if not blocked:
        last = filterer.o_valid != 0 and transfer_beat(filter_, record, t)
        filter_cycle(plan, filter_, load.banks, record)
        if last:
            finish_job(filter_)
    if plan.radix:
        radix_cycle(plan, select, load.banks, record, t)
    else:
        quick_select_cycle(plan, select, load.banks, record, t)
    if filtered:
        take_cut(plan, filter_, record, selector, t)
        selector.busy = 0
        selector.decided = 0
    load_cycle(plan, jobs, load, record, transferred, t)
    if selected:
        take_job(select, record, loader, t)
        if plan.radix:
            choose(plan, select, load.counters, loader.n)
        hand_off_load(load)
    if accepted:
        accept_job(plan, jobs, load, record, t)
    if last:
        load.occupied[bank] = 0
    return last


@inner
def _cause(engine: Engine, blocked: bool, transferred: bool, keys_ready: bool) -> int:
    """Return what the cycle is charged to (section 6)."""
    if blocked:
        return STALLED_OUT
    if engine.filter_.filterer[0].busy:
        return FILTER
    if engine.select.selector[0].busy:
        return SELECT
    if transferred:
        return LOAD
    return STALLED_IN if keys_ready else HANDOFF
