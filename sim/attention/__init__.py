# SPDX-License-Identifier: Apache-2.0
"""Simulator of the sparse attention engine: values, cycles, causes and action counts of commands.

The contract is docs/engines/attention.md. Two models share it: `stepped` advances every register
cycle by cycle; the default computes the `values` of each command and then its `timing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import Command, Operands, State, check, power_up
from sim.attention import fast, stepped
from sim.attention.counts import NAMES
from sim.attention.invariants import check_run
from sim.attention.plan import (
    CAUSES,
    STALL_NAMES,
    make_plan,
    make_program,
    make_record,
    make_selectors,
    row_table,
    selected,
)
from sim.lib.run import Run
from sim.lib.stalls import flatten


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AttentionRun(Run):
    """Result of a sequence of commands.

    Attributes
    ----------
    kept : list of int64[k]
        Ids that each tokens and heads command keeps.
    redo : bool[rows]
        Rows whose LSBs were fetched.
    added : int64[rows]
        Sum of each row's probabilities, Q0.22.
    state : State
        The list, I and H at the end.
    """

    kept: list[NDArray[np.int64]]
    redo: NDArray[np.bool_]
    added: NDArray[np.int64]
    state: State


def run(
    spec: AttentionSpec,
    commands: Sequence[Command],
    operands: Operands,
    *,
    state: State | None = None,
    stalls: Mapping[str, NDArray[np.bool_]] | None = None,
    memory_latency: int = 2,
    bytes_per_cycle: int | None = None,
    step: bool = False,
) -> AttentionRun:
    """Run commands.

    Parameters
    ----------
    spec : AttentionSpec
        The engine.
    commands : sequence of commands
        In their order.
    operands : Operands
        Queries and memory images; what lies past a memory's end reads as 0.
    state : State, optional
        What the engine holds at first; without it what it holds at power-up.
    stalls : mapping of str to bool array, optional
        Per stream, True where it is stalled; cyclic from cycle 0 (section 3). Keys cmd, q, k_req,
        k, v_req, v, e, kept.
    memory_latency : int
        Cycles from a request's transfer to its earliest response, at least 1.
    bytes_per_cycle : int, optional
        Bytes that keys and values together can bring in a cycle; without it there is no limit.
    step : bool
        Advance every register cycle by cycle.

    Returns
    -------
    AttentionRun
        `y` is int16[rows, D], the outputs of the row commands; `jobs` has a record for each of them
        (`sim.attention.plan.ROW_RECORD`). Equal in both models, and to the hardware: outputs,
        kept ids, state, cycles, causes and counts. `utilisation` is of the multipliers.

    Raises
    ------
    TypeError
        If a command, an operand, the state or a stall pattern has the wrong type.
    ValueError
        If the engine does not admit a command, or a stream is stalled for ever.
    """
    start = power_up(spec) if state is None else state
    fields = check(spec, commands, operands, start)
    for name, value in (("memory_latency", memory_latency), ("bytes_per_cycle", bytes_per_cycle)):
        if value is not None and value < 1:
            raise ValueError(f"attention: {name} must be at least 1, not {value!r}")
    plan = make_plan(spec, memory_latency, bytes_per_cycle)
    selectors = make_selectors(spec)
    program = make_program(commands, fields, operands)
    record = make_record(spec, program, start)
    patterns = flatten(stalls, STALL_NAMES)
    model = stepped if step else fast
    cycles, selector_counts = model.simulate(plan, selectors, program, patterns, record)
    counts = dict(zip(NAMES, [*record.counts.tolist(), *selector_counts], strict=True))
    check_run(start, program, record, counts)
    products = counts["mac_qk"] + counts["mac_pv"]
    ends = np.cumsum(selected(program))
    return AttentionRun(
        y=record.y,
        cycles=cycles,
        cycles_by_cause=dict(zip(CAUSES, record.causes.tolist(), strict=True)),
        counts=counts,
        utilisation=products / (spec.multipliers * cycles),
        events=np.zeros(0, dtype=np.dtype([])),
        jobs=row_table(program, record),
        kept=np.split(record.kept, ends[:-1]) if ends.size else [],
        redo=record.redo.astype(np.bool_),
        added=record.added,
        state=State(
            record.tokens[: record.listed[0]].copy(), record.importance, record.head_importance
        ),
    )
