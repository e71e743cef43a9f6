# SPDX-License-Identifier: Apache-2.0
"""The stepped model: the macro's registers, cycle by cycle.

Read it with docs/engines/pim.md, section 5: `rows` is load, input and row drive, `convert` the
converters up to the result store, `drain` the output. In a cycle everything is decided from what
the registers show, then they are clocked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import entry, inner
from sim.lib.record import Record
from sim.lib.stalls import Stalls, is_stalled
from sim.pim.convert import Convert, begin_conversion, convert_cycle, make_convert
from sim.pim.drain import Drain, drain_cycle, make_drain, output_valid, transfer_beat
from sim.pim.plan import (
    CONVERT,
    DRAIN,
    FILL,
    LOAD,
    RESULT,
    ROW,
    STALLED_IN,
    STALLED_OUT,
    Y_STREAM,
    Contents,
    Plan,
)
from sim.pim.rows import (
    Rows,
    beat_usable,
    can_launch,
    input_cycle,
    launch_cycle,
    load_cycle,
    make_rows,
    sample_cycle,
)


class Engine(NamedTuple):
    """All registers of the macro and its periphery."""

    rows: Rows
    convert: Convert
    drain: Drain


def simulate(
    plan: Plan, contents: Contents, stalls: Stalls, record: Record
) -> tuple[int, NDArray[Any], NDArray[np.uint32]]:
    """Run a job cycle by cycle; return cycles, Y and the generators' states, fill `record`."""
    engine = Engine(make_rows(plan), make_convert(plan, contents), make_drain(plan))
    y = np.zeros((plan.m, plan.n), dtype=np.int64)
    # Between two output transfers everything may be loaded, and a vector be brought and converted.
    events = int(plan.load_beats.max()) + plan.groups + plan.steps
    period = plan.row_cycles + plan.mux * plan.conversion_cycles + stalls.bits.size
    cycles = int(_run(plan, contents, stalls, engine, record, y, 64 + events * period))
    if cycles < 0:
        raise RuntimeError(f"pim: the engine stood still after {-cycles} cycles; this is a defect")
    states = engine.convert.states.astype(np.uint32)[: contents.states.size]
    return cycles, y.astype(np.int16 if plan.wide else np.int8), states


@entry
def _run(
    plan: Plan,
    contents: Contents,
    stalls: Stalls,
    engine: Engine,
    record: Record,
    y: NDArray[np.int64],
    patience: int,
) -> int:
    """Step until the last output transfer; return the cycle count, or minus it if it hangs."""
    rows, convert, drain = engine
    left = drain.drainer[0].transfers_left
    moved = np.int64(0)
    t = np.int64(0)
    while left:
        sampled = rows.sampled[convert.converter[0].step % plan.banks] != 0
        full = begin_conversion(plan, convert, sampled, record, t)
        blocked = output_valid(drain) and is_stalled(stalls, Y_STREAM, t)
        record.causes[_cause(plan, engine, full, blocked)] += 1
        _clock(plan, contents, stalls, engine, record, y, blocked, t)
        if drain.drainer[0].transfers_left < left:
            left = drain.drainer[0].transfers_left
            moved = t
        elif t - moved > patience:
            return int(-t)
        t += 1
    return int(t)


@inner
def _clock(
    plan: Plan,
    contents: Contents,
    stalls: Stalls,
    engine: Engine,
    record: Record,
    y: NDArray[np.int64],
    blocked: bool,
    t: int,
) -> None:
    """Clock all registers at the end of cycle t; `blocked`: the output register is not taken."""
    rows, convert, drain = engine
    s = convert.converter[0]
    if not blocked:
        if output_valid(drain):
            transfer_beat(plan, drain, record, y, t)
        if drain_cycle(plan, contents, drain, convert):
            s.reserved -= 1
    bank = s.step % plan.banks
    # In its last cycle of conversion a sample can be overwritten, once it is read.
    freed = bank if s.left == 1 else -1
    launched = can_launch(plan, rows, freed)
    if convert_cycle(plan, contents, convert, rows.samples[bank], record, t):
        rows.sampled[bank] = 0
        rows.held[bank] = 0
    input_cycle(plan, contents, rows, stalls, record, t)
    sample_cycle(plan, contents, rows, record)
    if launched:
        launch_cycle(plan, rows, record, t)
    load_cycle(plan, rows, stalls, record, t)


@inner
def _cause(plan: Plan, engine: Engine, full: bool, blocked: bool) -> int:
    """Return what the cycle is charged to; `full`: a sample waits for a place for its result."""
    rows, convert, _ = engine
    s, c = rows.sequencer[0], convert.converter[0]
    if c.left:
        return CONVERT
    if full:
        return RESULT
    if s.driving:
        return ROW
    if not s.loaded:
        return LOAD
    if s.vector < plan.m and not beat_usable(s):
        return STALLED_IN
    if blocked:
        return STALLED_OUT
    return FILL if c.vector < plan.m else DRAIN
