# SPDX-License-Identifier: Apache-2.0
"""Simulator of the XNOR array: values, cycles, causes and counts of one job.

The contract is docs/engines/xnor.md. Two models share it: `stepped` advances every register cycle
by cycle; the default counts bits of whole rows (`values`) and gets the cycles from a recurrence
(`fast`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import Job, Operands, check_job
from sim.lib.record import vector_table
from sim.lib.run import Run
from sim.lib.stalls import flatten
from sim.xnor import fast, stepped
from sim.xnor.counts import NAMES
from sim.xnor.plan import (
    CAUSES,
    STALL_NAMES,
    VECTOR,
    make_contents,
    make_plan,
    make_record,
)


def run(
    spec: XnorSpec,
    job: Job,
    operands: Operands,
    *,
    stalls: Mapping[str, NDArray[np.bool_]] | None = None,
    step: bool = False,
    trace: bool = False,
) -> Run:
    """Run one job.

    Parameters
    ----------
    spec : XnorSpec
        The array.
    job : Job
        The descriptor; its flags say what it loads, which costs cycles.
    operands : Operands
        What the array holds in the job, whether this job or an earlier one loads it.
    stalls : mapping of str to bool array, optional
        Per stream (w, c, e, x, y), True where it is stalled; cyclic from cycle 0 (section 3).
    step : bool
        Advance every register cycle by cycle instead of jumping from event to event.
    trace : bool
        Note the cycles of each vector (`Run.events`, `sim.xnor.plan.VECTOR`).

    Returns
    -------
    Run
        `y` is int8[m / pool, n] of bits (threshold), or int8[m, n] and, wide, int16[m, n] (fixed);
        `utilisation` is section 6's. Equal in both models, and to the hardware: outputs, cycles,
        causes and counts.

    Raises
    ------
    TypeError
        If an operand or a stall pattern has the wrong dtype.
    ValueError
        If the array cannot run the job, or a stream is stalled for ever.
    """
    check_job(spec, job, operands)
    plan = make_plan(spec, job)
    patterns = flatten(stalls, STALL_NAMES)
    record = make_record(plan, trace=trace)
    model = stepped if step else fast
    cycles, y = model.simulate(plan, make_contents(operands), patterns, record)
    counts: dict[str, int] = dict(zip(NAMES, record.counts.tolist(), strict=True))
    return Run(
        y=y,
        cycles=cycles,
        cycles_by_cause=dict(zip(CAUSES, record.causes.tolist(), strict=True)),
        counts=counts,
        utilisation=counts["xnor"] / (cycles * spec.pe * spec.simd),
        events=vector_table(record, VECTOR),
    )
