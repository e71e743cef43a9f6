# SPDX-License-Identifier: Apache-2.0
"""Simulator of the W4A8 array: values, cycles, causes and action counts of one job.

The contract is docs/engines/w4a8.md. Two models share it: `stepped` advances every register cycle
by cycle; the default multiplies whole matrices (`fast`) and gets the cycles from a `recurrence`
over events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from sim.lib.run import Run
from sim.lib.stalls import flatten
from sim.w4a8 import counts as count_names
from sim.w4a8 import stepped
from sim.w4a8.events import make_record, schedule
from sim.w4a8.fast import outputs
from sim.w4a8.plan import CAUSES, STALL_NAMES, Plan, check, make_memory, make_plan
from sim.w4a8.recurrence import count_cycles


def run(
    spec: W4A8Spec,
    job: Job,
    operands: Operands,
    *,
    stalls: Mapping[str, NDArray[np.bool_]] | None = None,
    memory_latency: int = 2,
    step: bool = False,
    trace: bool = False,
) -> Run:
    """Run one matrix product Y = X.W^T.

    Parameters
    ----------
    spec : W4A8Spec
        The array.
    job : Job
        The descriptor; `y_base` and `y_stride` address the hardware's output only.
    operands : Operands
        Memory images that the descriptor points into; what lies past their end reads as 0.
    stalls : mapping of str to bool array, optional
        Per stream, True where it is stalled; cyclic from cycle 0 (section 7). Keys a_req, a, w_req,
        w, s_req, s, e_req, e, r_req, r, y.
    memory_latency : int
        Cycles from a request's transfer to its earliest response, at least 1.
    step : bool
        Advance every register cycle by cycle instead of jumping from event to event.
    trace : bool
        Note when each tile is launched and drained (`Run.events`, `sim.w4a8.events.EVENT`).

    Returns
    -------
    Run
        `y` is float16[M, N] for the fp16 epilogue, int8[M, N] or, wide, int16[M, N] for the fixed
        one. Equal in both models, and to the hardware: outputs, cycles, causes and counts.

    Raises
    ------
    TypeError
        If an operand or a stall pattern has the wrong dtype.
    ValueError
        If the job is not one that the array admits, or a stream is stalled for ever.
    """
    check(spec, job, operands, memory_latency)
    plan = make_plan(spec, job, memory_latency)
    memory = make_memory(operands)
    patterns = flatten(stalls, STALL_NAMES)
    record = make_record(plan, values=step, trace=trace)
    if step:
        cycles = stepped.simulate(spec, plan, memory, patterns, record)
        y = _typed(plan, record.y)
        counts = record.counts.tolist()
    else:
        cycles = count_cycles(plan, patterns, record)
        y = outputs(plan, memory)
        counts = count_names.closed_form(plan, spec.a_beat_bytes, spec.w_beat_bytes)
    return Run(
        y=y,
        cycles=cycles,
        cycles_by_cause=dict(zip(CAUSES, record.causes.tolist(), strict=True)),
        counts=dict(zip(count_names.NAMES, counts, strict=True)),
        utilisation=job.m * job.n * job.k / (spec.array_rows * spec.array_cols * cycles),
        events=schedule(plan, record.tiles),
    )


def _typed(plan: Plan, bits: NDArray[np.uint16]) -> NDArray[Any]:
    """Return result bits as the job's output type."""
    if plan.fp16:
        return bits.view(np.float16)
    return bits.view(np.int16) if plan.wide else bits.astype(np.int8)
