# SPDX-License-Identifier: Apache-2.0
"""What must hold of every run of the attention engine (section 8), asserted after each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cosil.engines.attention import LSB_BITS, PROBABILITY_BITS
from cosil.lowering.attention import RESET, ROW, TOKENS, State
from cosil.lowering.survivors import Survivors, check_order
from sim.attention.plan import (
    ADD,
    CLEAR_TOKENS,
    K_WANTED,
    MSB_BITS,
    NUMBER,
    OP,
    PROTECTED,
    VALUE_BITS,
    N,
    Program,
    Record,
)


def check_run(start: State, program: Program, record: Record, counts: Mapping[str, int]) -> None:
    """Assert the invariants of a run.

    Parameters
    ----------
    start : State
        What it began with.
    program : Program
    record : Record
        What it left behind.
    counts : mapping of str to int
        Its action counts.

    Raises
    ------
    AssertionError
        If the simulator, not its input, is wrong.
    """
    _check_importance(start, program, record)
    _check_traffic(program, record, counts)
    if len(program.rows) < len(program.commands):
        _check_selections(start, program, record)


def _check_importance(start: State, program: Program, record: Record) -> None:
    commands = program.commands
    clears = np.flatnonzero((commands[:, OP] == RESET) & (commands[:, CLEAR_TOKENS] != 0))
    expected = 0 if clears.size else int(start.importance.sum())
    counted = commands[clears[-1] + 1 if clears.size else 0 :]
    adds = counted[(counted[:, OP] == ROW) & (counted[:, ADD] != 0), NUMBER]
    expected += int(record.added[adds].sum())
    assert expected == record.importance.sum(), "importance is the sum of probabilities"
    one = 1 << PROBABILITY_BITS
    assert np.all(np.abs(record.added - one) <= one >> 7), "a row's probabilities sum to 1"


def _check_traffic(program: Program, record: Record, counts: Mapping[str, int]) -> None:
    rows = program.rows
    dim = record.y.shape[1]
    n, values = rows[:, N], rows[:, K_WANTED]
    fetched_bits = {
        "k_msb_bytes": n @ rows[:, MSB_BITS],
        "k_lsb_bytes": n @ record.redo * LSB_BITS,
        "v_bytes": values @ rows[:, VALUE_BITS],
    }
    for name, bits in fetched_bits.items():
        assert 8 * counts[name] == dim * bits, f"{name} are the bits that were fetched"
    kept = int(values.sum())
    assert counts["value_items"] == kept, "the selector emits the values that are kept"
    assert counts["mac_pv"] == dim * kept, "probabilities meet kept values only"


def _check_selections(start: State, program: Program, record: Record) -> None:
    """Follow the list; heads are selected among all heads, so only their order is promised."""
    survivors = Survivors(start.tokens)
    first = 0
    for command in program.commands[program.commands[:, OP] != ROW]:
        if command[OP] == RESET:
            survivors.reset(int(command[N]))
            continue
        ids = record.kept[first : first + command[K_WANTED]]
        first += int(command[K_WANTED])
        if command[OP] == TOKENS:
            survivors.select(int(command[N]), int(command[N] - command[PROTECTED]), ids)
        else:
            check_order(ids)
    listed = record.tokens[: record.listed[0]]
    assert np.array_equal(listed, survivors.tokens), "the list is what was kept"
