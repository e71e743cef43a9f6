# SPDX-License-Identifier: Apache-2.0
"""The stepped model: the engine's registers, cycle by cycle.

Read it with docs/engines/w4a8.md, section 5: `fetch` is 5.1, `launch` and `array` are 5.2 and 5.3,
`drain` is 5.4. Memory does not grow with the number of cycles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cosil.engines.w4a8 import W4A8Spec
from sim.lib.kernel import entry
from sim.lib.stalls import Stalls
from sim.w4a8.array import Array, make_array, os_cycle, ws_cycle
from sim.w4a8.drain import Drain, drain_cycle, make_drain, output_cycle
from sim.w4a8.events import Record, note
from sim.w4a8.fetch import Fetch, fetch_cycle, make_fetch
from sim.w4a8.launch import Launch, launch_os, launch_ws, make_launch
from sim.w4a8.plan import Memory, Plan


class Engine(NamedTuple):
    """All registers of the engine."""

    fetch: Fetch
    launch: Launch
    array: Array
    drain: Drain


def simulate(spec: W4A8Spec, plan: Plan, memory: Memory, stalls: Stalls, record: Record) -> int:
    """Run a job cycle by cycle; return its number of cycles and fill `record`."""
    engine = Engine(
        make_fetch(plan, spec.a_beat_bytes, spec.w_beat_bytes),
        make_launch(plan),
        make_array(plan),
        make_drain(plan),
    )
    cycles = int(_run(plan, memory, stalls, engine, record))
    if cycles < 0:
        raise RuntimeError(f"w4a8: the engine stood still after {-cycles} cycles; this is a defect")
    return cycles


@entry
def _run(plan: Plan, memory: Memory, stalls: Stalls, engine: Engine, record: Record) -> int:
    """Step until the last y transfer; return the cycle count, or minus it if nothing moves."""
    fetch, launch, array, drain = engine
    patience = 64 + plan.memory_latency + plan.drain_latency + plan.period
    patience += np.int64(11) * stalls.bits.size
    moved = 0
    t = 0
    while drain.drainer[0].transfers_left:
        output_cycle(drain, stalls, fetch, record.counts, record.y, t)
        tile = drain.drainer[0].tile
        lanes = drain_cycle(plan, drain, fetch, array, record.counts)
        if lanes:
            note(record.tiles, tile, 2, t)
        tile = launch.launcher[0].tile
        if plan.ws:
            cause = launch_ws(plan, fetch, launch, array, record.counts, t)
            ws_cycle(plan, array)
        else:
            cause = launch_os(plan, fetch, launch, array, record.counts, t)
            os_cycle(plan, array)
        if array.edge[0]:
            note(record.tiles, tile, 0, t)
        record.causes[cause] += 1
        launch.launcher[0].free_rows += drain.drainer[0].rows_back
        fetch_cycle(plan, memory, stalls, fetch, record.counts, t)
        if array.edge[0] or lanes or drain.drainer[0].last_cycle == t:
            moved = t
        elif t - moved > patience:
            return -t
        t += 1
    return t
