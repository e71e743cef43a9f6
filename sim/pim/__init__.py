# SPDX-License-Identifier: Apache-2.0
"""Simulator of the PIM macro: values, generator states, cycles, causes and counts of one job.

The contract is docs/engines/pim.md. Two models share it: `stepped` advances every register cycle by
cycle; the default counts bits (`values`) and gets the cycles from a recurrence (`fast`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import Job, Operands, check_job
from sim.lib.record import vector_table
from sim.lib.run import Run
from sim.lib.stalls import flatten
from sim.pim import fast, stepped
from sim.pim.counts import NAMES
from sim.pim.plan import (
    CAUSES,
    STALL_NAMES,
    VECTOR,
    make_contents,
    make_plan,
    make_record,
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PimRun(Run):
    """Result of one job.

    Attributes
    ----------
    states : uint32[A]
        The generators after the job; empty without noise hardware.
    """

    states: NDArray[np.uint32]


def run(
    spec: PimSpec,
    job: Job,
    operands: Operands,
    *,
    stalls: Mapping[str, NDArray[np.bool_]] | None = None,
    step: bool = False,
    trace: bool = False,
) -> PimRun:
    """Run one job.

    Parameters
    ----------
    spec : PimSpec
        The macro.
    job : Job
        The descriptor; its flags say what it loads, which costs cycles.
    operands : Operands
        What the macro holds in the job, whether this job or an earlier one loads it.
    stalls : mapping of str to bool array, optional
        Per stream (w, t, n, e, x, y), True where it is stalled; cyclic from cycle 0 (section 3).
    step : bool
        Advance every register cycle by cycle instead of jumping from event to event.
    trace : bool
        Note the cycles of each vector (`Run.events`, `sim.pim.plan.VECTOR`).

    Returns
    -------
    PimRun
        `y` is int8[M, n] or, wide, int16[M, n]; `utilisation` is section 6's. Equal in both
        models, and to the hardware: outputs, states, cycles, causes and counts.

    Raises
    ------
    TypeError
        If an operand or a stall pattern has the wrong dtype.
    ValueError
        If the macro cannot run the job, or a stream is stalled for ever.
    """
    check_job(spec, job, operands)
    plan = make_plan(spec, job)
    patterns = flatten(stalls, STALL_NAMES)
    record = make_record(plan, trace=trace)
    model = stepped if step else fast
    cycles, y, states = model.simulate(plan, make_contents(operands), patterns, record)
    counts: dict[str, int] = dict(zip(NAMES, record.counts.tolist(), strict=True))
    peak = spec.rows * spec.outputs / (spec.slices * spec.period)
    return PimRun(
        y=y,
        cycles=cycles,
        cycles_by_cause=dict(zip(CAUSES, record.causes.tolist(), strict=True)),
        counts=counts,
        utilisation=counts["mac"] / (cycles * peak),
        events=vector_table(record, VECTOR),
        states=states,
    )
