# SPDX-License-Identifier: Apache-2.0
"""The stepped model: the array's registers, cycle by cycle.

Read it with docs/engines/xnor.md, section 5: `issue` is load, input and steps, `pipeline` all that
a step goes through. In a cycle everything is decided from what the registers show, then they are
clocked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import entry, inner
from sim.lib.record import Record
from sim.lib.stalls import Stalls, is_stalled
from sim.xnor.issue import Front, can_issue, input_cycle, issue_step, load_cycle, make_front
from sim.xnor.pipeline import (
    Pipeline,
    make_pipeline,
    move,
    output_valid,
    transfer_beat,
)
from sim.xnor.plan import (
    COMPUTE,
    DRAIN,
    LOAD,
    STALLED_IN,
    STALLED_OUT,
    Y_STREAM,
    Contents,
    Plan,
    output_dtype,
)


def simulate(
    plan: Plan, contents: Contents, stalls: Stalls, record: Record
) -> tuple[int, NDArray[Any]]:
    """Run a job cycle by cycle; return cycles and Y, fill `record`."""
    front, pipeline = make_front(plan), make_pipeline(plan)
    y = np.zeros((plan.m // plan.pool, plan.n), dtype=np.int64)
    # Between two output transfers everything may be loaded, and a window be brought and computed.
    events = int(plan.load_beats.max()) + 2 * plan.pool * plan.output_folds * plan.input_folds
    patience = (64 + events) * (1 + stalls.bits.size)
    cycles = int(_run(plan, contents, stalls, front, pipeline, record, y, patience))
    if cycles < 0:
        raise RuntimeError(f"xnor: the engine stood still after {-cycles} cycles; this is a defect")
    return cycles, y.astype(output_dtype(plan))


@entry
def _run(
    plan: Plan,
    contents: Contents,
    stalls: Stalls,
    front: Front,
    pipeline: Pipeline,
    record: Record,
    y: NDArray[np.int64],
    patience: int,
) -> int:
    """Step until the last output transfer; return the cycle count, or minus it if it hangs."""
    left = plan.m // plan.pool * plan.output_folds
    moved = np.int64(0)
    t = np.int64(0)
    while left:
        valid = output_valid(pipeline)
        blocked = valid and is_stalled(stalls, Y_STREAM, t)
        issued = not blocked and can_issue(plan, front)
        record.causes[_cause(plan, front, issued, blocked)] += 1
        input_cycle(plan, contents, front, stalls, record, t)
        if not blocked:
            if valid:
                transfer_beat(plan, pipeline, record, y, t)
                left -= 1
                moved = t
            entered = move(plan, contents, pipeline, record)
            if issued:
                issue_step(plan, contents, front, pipeline, entered, record, t)
        load_cycle(front, stalls, record, t)
        if t - moved > patience:
            return int(-t)
        t += 1
    return int(t)


@inner
def _cause(plan: Plan, front: Front, issued: bool, blocked: bool) -> int:
    """Return what the cycle is charged to; `blocked`: the output register is not taken."""
    s = front.sequencer[0]
    if issued:
        return COMPUTE
    if blocked:
        return STALLED_OUT
    if not s.loaded:
        return LOAD
    return STALLED_IN if s.vector < plan.m else DRAIN
