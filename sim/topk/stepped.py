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
from sim.topk.select import Select, make_select, take_job


class Engine(NamedTuple):
    """All registers of the engine."""

    load: Load
    select: Select
    filter_: Filter


def simulate(plan: Plan, jobs: Jobs, stalls: Stalls, record: Record) -> int:
    """Run jobs cycle by cycle; return the number of cycles and fill `record`."""
    engine = Engine(make_load(plan), make_select(plan), make_filter(plan))
    cycles = int(_run(plan, jobs, stalls, engine, record))
    if cycles < 0:
        raise RuntimeError(f"topk: the engine stood still after {-cycles} cycles; this is a defect")
    return cycles


@entry
def _run(plan: Plan, jobs: Jobs, stalls: Stalls, engine: Engine, record: Record) -> int:
    """Step until the last output transfer; return the cycle count, or minus it if it hangs."""
    load, select, filter_ = engine
    loader, selector, filterer = load.loader[0], select.selector[0], filter_.filterer[0]
    # The longest time between two of a job's transfers is a select of many small passes.
    patience = 64 + 8 * plan.depth * plan.lanes * (plan.depth + 4) + 4 * np.int64(stalls.bits.size)
    moved = 0
    jobs_left = jobs.k.size
    t = 0
    while jobs_left:
        # What the registers show.
        if plan.radix:
            see_choice(plan, select, record, t)
        else:
            see_start(plan, select, record, t)
        blocked = filterer.o_valid and is_stalled(stalls, ITEMS_STREAM, t)
        offered = loader.job < jobs.k.size and (t == 0 or not is_stalled(stalls, JOB_STREAM, t))
        accepted = offered and not loader.busy and not load.occupied[loader.bank]
        keys_ready = loader.busy and loader.row < loader.rows
        transferred = keys_ready and not is_stalled(stalls, KEYS_STREAM, t)
        selected = loader.complete and not selector.busy
        filtered = selector.decided and not filterer.busy
        cause = _cause(blocked, filterer.busy, selector.busy, transferred, keys_ready)
        record.causes[cause] += 1
        if accepted or transferred or (filterer.o_valid and not blocked):
            moved = t
        elif t - moved > patience:
            return -t

        # The clock edge, downstream first.
        if not blocked:
            last = filterer.o_valid and transfer_beat(filter_, record, t)
            bank = filterer.bank
            filter_cycle(plan, filter_, load.banks, record)
            if last:
                finish_job(filter_)
                jobs_left -= 1
        else:
            last = False
            bank = 0
        if plan.radix:
            radix_cycle(plan, select, load.banks, record, t)
        else:
            quick_select_cycle(plan, select, load.banks, record, t)
        if filtered:
            take_cut(plan, jobs, filter_, record, selector, t)
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
        t += 1
    return t


@inner
def _cause(
    blocked: bool, filter_busy: bool, select_busy: bool, transferred: bool, keys_ready: bool
) -> int:
    """Return what the cycle is charged to (section 6)."""
    if blocked:
        return STALLED_OUT
    if filter_busy:
        return FILTER
    if select_busy:
        return SELECT
    if transferred:
        return LOAD
    return STALLED_IN if keys_ready else HANDOFF
