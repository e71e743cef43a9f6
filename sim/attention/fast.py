# SPDX-License-Identifier: Apache-2.0
"""The fast model: values of all commands, then their times, and the action counts by formula."""

from __future__ import annotations

import numpy as np

from sim.attention.plan import (
    ADD,
    K_WANTED,
    MSB_BITS,
    VALUE_BITS,
    N,
    Plan,
    Program,
    Record,
    Selectors,
    make_timeline,
    selected,
)
from sim.attention.timing import count_cycles, make_queues
from sim.attention.values import compute, make_work
from sim.lib.stalls import Stalls
from sim.topk import plan as topk
from sim.topk.counts import NAMES as SELECTOR_NAMES


def simulate(
    plan: Plan, selectors: Selectors, program: Program, stalls: Stalls, record: Record
) -> tuple[int, list[int]]:
    """Run commands; return the cycles and both selectors' counts, and fill `record`."""
    commands = program.commands
    rows = program.rows
    values = make_timeline(plan, rows[:, K_WANTED])
    selections = make_timeline(plan, selected(program))
    value_record = selection_record()
    token_record = selection_record()
    compute(
        plan, selectors, program, make_work(plan, selectors), values, selections, value_record,
        token_record, record,
    )  # fmt: skip
    cycles = count_cycles(
        plan, commands, stalls, values, selections, selectors.value.load_latency,
        make_queues(plan, len(rows)), record,
    )  # fmt: skip
    record.counts[:] = closed_form(plan, program, record)
    return int(cycles), [*value_record.counts.tolist(), *token_record.counts.tolist()]


def selection_record() -> topk.Record:
    """Return an empty record of one job of a selector, whose counts go on from job to job.

    What a job keeps stays in the work room.
    """
    return topk.Record(
        np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
        np.zeros(len(SELECTOR_NAMES), dtype=np.int64),
        np.zeros(len(topk.CAUSES), dtype=np.int64),
        np.zeros((1, 7), dtype=np.int64),
        np.zeros((0, 3), dtype=np.int64),
    )


def closed_form(plan: Plan, program: Program, record: Record) -> list[int]:
    """Return the engine's own counts of a whole run, in the order of `ENGINE_NAMES`."""
    rows = program.rows
    n, values, dim = rows[:, N], rows[:, K_WANTED], plan.head_dim
    redo = record.redo
    redone = int(redo.sum())
    keys, keys_redone = int(n.sum()), int(n @ redo)
    keys_passed = keys + keys_redone
    beats = -(-n // plan.lanes)
    rows_of_keys, rows_redone = int(beats.sum()), int(beats @ redo)
    rows_passed = rows_of_keys + rows_redone
    return [
        keys_passed * dim,
        int(values.sum()) * dim,
        keys_passed,
        keys,
        int(n @ rows[:, ADD]),
        rows_passed,
        # Sum reads every pass's scores, an LSB pass what it adds to.
        rows_passed + rows_redone,
        rows_passed,
        rows_of_keys,
        len(rows) * dim,
        int(n @ rows[:, MSB_BITS]) * dim // 8,
        keys_redone * dim // 2,
        int(values @ rows[:, VALUE_BITS]) * dim // 8,
        rows_passed,
        int(np.sum(-(-values // plan.lanes))),
        len(rows),
        len(rows) * plan.out_beats,
        int(np.sum(-(-selected(program) // plan.lanes))),
        len(program.commands),
        redone,
    ]
