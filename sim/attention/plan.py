# SPDX-License-Identifier: Apache-2.0
"""Commands on one engine as plain integers: what the kernels take, and what they leave behind.

Section numbers in this package refer to docs/engines/attention.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import (
    CONTEXT_ROWS,
    EPILOGUE_LATENCY,
    IMPORTANCE_BITS,
    SCORE_BANKS,
    AttentionSpec,
    log_table,
    pow_table,
)
from cosil.lowering.attention import (
    HEADS,
    RESET,
    ROW,
    ROW_FIELDS,
    TOKENS,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    State,
    TokensCommand,
)
from sim.attention.counts import ENGINE_NAMES
from sim.topk import plan as topk

STALL_NAMES = ("cmd", "q", "k_req", "k", "v_req", "v", "e", "kept")
CMD, Q, K_REQ, K, V_REQ, V, E, KEPT = range(8)
"""Streams; the number of a stream's stall pattern."""

IMPORTANCE_MOST = (1 << IMPORTANCE_BITS) - 1
"""Key of a token that is kept whatever its importance."""

CAUSES = ("qk", "pv", "dram", "softmax", "topk", "output", "handoff")
QK, PV, DRAM, SOFTMAX, TOPK, OUTPUT, HANDOFF = range(7)
"""What a cycle was spent on (section 6)."""

MSB_PLANE, LSB_PLANE = range(2)

COMMAND_FIELDS = ("op", *ROW_FIELDS, "clear_tokens", "clear_heads", "protected", "number")
(
    OP, N, K_WANTED, TAG, ADD, MSB_BITS, VALUE_BITS, KEY_MSB, KEY_LSB, VALUE, HEAD, MULT, SHIFT,
    LSB_LOW, LSB_HIGH, OUT_MULT, OUT_SHIFT, CLEAR_TOKENS, CLEAR_HEADS, PROTECTED, NUMBER,
) = range(len(COMMAND_FIELDS))  # fmt: skip
"""Columns of `Program.commands`: n is T of tokens and reset, heads of heads; k is a row's values;
`protected` is the first id that tokens keeps whatever its importance; `number` counts rows (op 0)
or selections (op 1 and 2)."""

MARK_NAMES = (
    "start", "complete", "sum", "decided", "handover", "first_value", "last_value", "last_output",
)  # fmt: skip
START, COMPLETE, SUM, DECIDED, HANDOVER, FIRST_VALUE, LAST_VALUE, LAST_OUTPUT = range(8)
"""Columns of `Record.marks`: cycles in which a row's fetch starts (at first), its scores are
complete (at last), its sum starts (at last), is decided (at last), is handed to weigh, in which its
first and last value beat launch, and its last output beat is transferred."""

ROW_RECORD = np.dtype(
    [("command", np.int64), ("n", np.int64), ("values", np.int64), ("redo", np.int64)]
    + [(name, np.int64) for name in MARK_NAMES]
)
"""One row command: its position among the commands, keys, values, whether its LSBs were fetched,
and its cycles."""

SELECTION_FIRST_KEYS = 3
"""Cycles from a selection's start to its first row of keys, without the lane tree (section 5.6)."""


class Plan(NamedTuple):
    """Numbers of one engine and its memory (sections 2 and 5)."""

    shared: int
    lanes: int
    head_dim: int
    max_tokens: int
    fetch_beats: int
    score_banks: int
    context_rows: int
    score_tree: int
    lane_tree: int
    stored_latency: int  # launch -> score written
    complete_latency: int  # last launch -> scores of the row complete
    decision_latency: int  # sum's start + B + this = decision
    weigh_latency: int  # handover + B + this = weigh idle
    out_lanes: int
    out_beats: int
    out_latency: int  # last value launch -> first output step
    epilogue_latency: int
    clear_cycles: int
    memory_latency: int
    bytes_per_cycle: int  # 0: no limit
    pow: NDArray[np.int32]
    log: NDArray[np.int32]


class Program(NamedTuple):
    """Commands and memories.

    Attributes
    ----------
    commands : int64[commands, fields]
        `COMMAND_FIELDS`.
    rows : int64[rows, fields]
        Those that are row commands.
    query : int16[rows, D]
    key_msb, value : int8[rows, D]
    key_lsb : uint8[rows, D]
    """

    commands: NDArray[np.int64]
    rows: NDArray[np.int64]
    query: NDArray[np.int16]
    key_msb: NDArray[np.int8]
    key_lsb: NDArray[np.uint8]
    value: NDArray[np.int8]


class Record(NamedTuple):
    """What a simulation leaves behind; filled in place.

    Attributes
    ----------
    y : int16[rows, D]
        Outputs.
    kept : int64[...]
        Ids that the selections keep, one selection after the other.
    redo : int64[rows]
        Was the row flat?
    added : int64[rows]
        Sum of the row's probabilities.
    tokens, listed : int64[max_tokens], int64[1]
        The list and its length.
    importance, head_importance : int64[max_tokens], int64[max_heads]
        I and H.
    counts : int64[...]
        In the order of `sim.attention.counts.ENGINE_NAMES`.
    causes : int64[...]
        In the order of `CAUSES`.
    marks : int64[rows, 8]
        `MARK_NAMES`.
    """

    y: NDArray[np.int16]
    kept: NDArray[np.int64]
    redo: NDArray[np.int64]
    added: NDArray[np.int64]
    tokens: NDArray[np.int64]
    listed: NDArray[np.int64]
    importance: NDArray[np.int64]
    head_importance: NDArray[np.int64]
    counts: NDArray[np.int64]
    causes: NDArray[np.int64]
    marks: NDArray[np.int64]


class Timeline(NamedTuple):
    """What the data say of each row's, or selection's, way through its selector.

    Attributes
    ----------
    passes : int64[jobs]
        Cycles of select's passes.
    first : int64[jobs + 1]
        Where a job's beats begin in `beats`.
    beats : int32[...]
        Row of keys, counted from the job's first, after which a beat is emitted.
    """

    passes: NDArray[np.int64]
    first: NDArray[np.int64]
    beats: NDArray[np.int32]


class Selectors(NamedTuple):
    """The two selectors, values first.

    Attributes
    ----------
    value, token : sim.topk.plan.Plan
    value_mask, token_mask : int
        A key exclusive-or this is its order code.
    """

    value: topk.Plan
    token: topk.Plan
    value_mask: int
    token_mask: int


def make_plan(spec: AttentionSpec, memory_latency: int, bytes_per_cycle: int | None) -> Plan:
    """Return the engine's numbers."""
    score, lanes = spec.score_tree, spec.lane_tree
    return Plan(
        shared=int(spec.pool == "shared"),
        lanes=spec.lanes,
        head_dim=spec.head_dim,
        max_tokens=spec.max_tokens,
        fetch_beats=spec.fetch_beats,
        score_banks=SCORE_BANKS,
        context_rows=CONTEXT_ROWS,
        score_tree=score,
        lane_tree=lanes,
        stored_latency=3 + score,
        complete_latency=4 + score + lanes,
        decision_latency=12 + lanes,
        weigh_latency=8,
        out_lanes=spec.out_lanes,
        out_beats=spec.out_beats,
        out_latency=4 + lanes,
        epilogue_latency=EPILOGUE_LATENCY,
        clear_cycles=spec.rows,
        memory_latency=memory_latency,
        bytes_per_cycle=bytes_per_cycle or 0,
        pow=_POW,
        log=_LOG,
    )


@cache
def make_selectors(spec: AttentionSpec) -> Selectors:
    """Return the selectors' numbers."""
    value, token = spec.value_selector, spec.importance_selector
    return Selectors(topk.make_plan(value), topk.make_plan(token), value.code_mask, token.code_mask)


def make_program(
    commands: Sequence[Command], fields: NDArray[np.int64], operands: Operands
) -> Program:
    """Return commands, with the fields of their rows, as numbers, and contiguous memories."""
    table = np.zeros((len(commands), len(COMMAND_FIELDS)), dtype=np.int64)
    others = [
        (number, command)
        for number, command in enumerate(commands)
        if not isinstance(command, RowCommand)
    ]
    rows = np.ones(len(commands), dtype=np.bool_)
    rows[[number for number, _ in others]] = False
    table[rows, N:CLEAR_TOKENS] = fields
    table[rows, NUMBER] = np.arange(len(fields))
    selections = 0
    for number, command in others:
        line = table[number]
        match command:
            case TokensCommand():
                line[[OP, N, K_WANTED, NUMBER]] = TOKENS, command.tokens, command.k, selections
                line[PROTECTED] = command.tokens - command.recent
                selections += 1
            case HeadsCommand():
                line[[OP, N, K_WANTED, NUMBER]] = HEADS, command.heads, command.k, selections
                selections += 1
            case ResetCommand():
                line[[OP, N]] = RESET, command.tokens
                line[[CLEAR_TOKENS, CLEAR_HEADS]] = command.clear_tokens, command.clear_heads
    c = np.ascontiguousarray
    return Program(
        table,
        table[rows] if others else table,
        c(operands.query),
        c(operands.key_msb),
        c(operands.key_lsb),
        c(operands.value),
    )


def make_record(spec: AttentionSpec, program: Program, state: State) -> Record:
    """Return an empty record that begins with a state."""
    rows = len(program.rows)
    tokens = np.zeros(spec.max_tokens, dtype=np.int64)
    tokens[: state.tokens.size] = state.tokens
    return Record(
        y=np.zeros((rows, spec.head_dim), dtype=np.int16),
        kept=np.zeros(int(selected(program).sum()), dtype=np.int64),
        redo=np.zeros(rows, dtype=np.int64),
        added=np.zeros(rows, dtype=np.int64),
        tokens=tokens,
        listed=np.array([state.tokens.size]),
        importance=state.importance.copy(),
        head_importance=state.head_importance.copy(),
        counts=np.zeros(len(ENGINE_NAMES), dtype=np.int64),
        causes=np.zeros(len(CAUSES), dtype=np.int64),
        marks=np.full((rows, len(MARK_NAMES)), -1, dtype=np.int64),
    )


def selected(program: Program) -> NDArray[np.int64]:
    """Return how many ids each selection keeps."""
    op = program.commands[:, OP]
    if len(program.rows) == op.size:
        return np.zeros(0, dtype=np.int64)
    return program.commands[(op == TOKENS) | (op == HEADS), K_WANTED]


def make_timeline(plan: Plan, wanted: NDArray[np.int64]) -> Timeline:
    """Return an empty timeline of jobs that keep so many keys each."""
    beats = np.maximum(1, -(-wanted // plan.lanes))
    first = np.append(0, np.cumsum(beats))
    return Timeline(np.zeros(wanted.size, np.int64), first, np.zeros(int(first[-1]), np.int32))


def row_table(program: Program, record: Record) -> NDArray[np.void]:
    """Return the ROW_RECORD of each row command."""
    position = np.flatnonzero(program.commands[:, OP] == ROW)
    table = np.zeros(position.size, dtype=ROW_RECORD)
    table["command"] = position
    table["n"] = program.rows[:, N]
    table["values"] = program.rows[:, K_WANTED]
    table["redo"] = record.redo
    for column, name in enumerate(MARK_NAMES):
        table[name] = record.marks[:, column]
    return table


_POW = np.array(pow_table(), dtype=np.int32)
_LOG = np.array(log_table(), dtype=np.int32)
