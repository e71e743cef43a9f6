# SPDX-License-Identifier: Apache-2.0
"""The stepped model: the engine's registers, cycle by cycle.

Read it with docs/engines/attention.md, section 5: `score` is 5.1 and 5.2, `weigh` 5.3 and 5.4,
`value` 5.5, this file 5.6. In a cycle everything is decided from what the registers show, then they
are clocked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.lowering.attention import HEADS, RESET, ROW, TOKENS
from sim.attention.counts import CMD_BEATS, KEPT_BEATS
from sim.attention.memory import port_cycle
from sim.attention.plan import (
    CLEAR_HEADS,
    CLEAR_TOKENS,
    CMD,
    DRAM,
    HANDOFF,
    IMPORTANCE_MOST,
    K_REQ,
    K_WANTED,
    KEPT,
    NUMBER,
    OP,
    OUTPUT,
    PROTECTED,
    PV,
    QK,
    SELECTION_FIRST_KEYS,
    SOFTMAX,
    TOPK,
    V_REQ,
    E,
    K,
    N,
    Plan,
    Program,
    Q,
    Record,
    Selectors,
    V,
    selected,
)
from sim.attention.score import (
    Score,
    make_score,
    receive_keys,
    request_keys,
    score_cycle,
    start_redo,
    start_row,
)
from sim.attention.value import (
    Value,
    accept_items,
    delay_taken,
    launch_values,
    make_value,
    output_cycle,
    receive_values,
    request_values,
    value_asks,
    value_there,
)
from sim.attention.weigh import (
    DECISION,
    IDLE,
    Weigh,
    hand_over,
    make_weigh,
    sum_cycle,
    weigh_cycle,
)
from sim.lib.kernel import entry, inner, outlined
from sim.lib.stalls import Stalls, is_stalled
from sim.topk import plan as topk
from sim.topk.stepped import Engine as Selector
from sim.topk.stepped import clock, job_ready, make_engine, show

CONTROL = np.dtype(
    [
        ("next", np.int64),  # command that is offered
        ("held", np.int64),  # command in the register, -1 if it is empty
        ("in_flight", np.int64),  # rows
        # A command other than a row: at work, cycles until its keys or its end, next row of keys.
        ("busy", np.int64),
        ("wait", np.int64),
        ("row", np.int64),
        ("rows", np.int64),
        # o_kept.
        ("kept_valid", np.int64),
        ("kept_last", np.int64),
        ("kept_items", np.int64),
        ("kept", np.int64),  # ids transferred, of all selections
        ("listed", np.int64),  # ids of the selection written to the list
    ]
)


class Engine(NamedTuple):
    """All registers of the engine.

    Attributes
    ----------
    control : record array of CONTROL, one entry
    kept_ids : int64[G]
        What o_kept shows.
    queue : int64[1]
        Where the last byte asked for ends (bandwidth limit).
    """

    control: Any
    kept_ids: NDArray[np.int64]
    queue: NDArray[np.int64]
    score: Score
    weigh: Weigh
    value: Value
    value_selector: Selector
    token_selector: Selector


class Selections(NamedTuple):
    """What the two selectors work on and leave behind."""

    value_jobs: topk.Jobs
    token_jobs: topk.Jobs
    value_record: topk.Record
    token_record: topk.Record


def simulate(
    plan: Plan, selectors: Selectors, program: Program, stalls: Stalls, record: Record
) -> tuple[int, list[int]]:
    """Run commands; return the cycles and both selectors' counts, and fill `record`."""
    commands = program.commands
    rows = commands[commands[:, OP] == ROW]
    chosen = commands[(commands[:, OP] == TOKENS) | (commands[:, OP] == HEADS)]
    value_jobs = _jobs(rows[:, N], rows[:, K_WANTED])
    token_jobs = _jobs(chosen[:, N], selected(program))
    selections = Selections(
        value_jobs,
        token_jobs,
        topk.make_record(selectors.value, value_jobs, trace=False),
        topk.make_record(selectors.token, token_jobs, trace=False),
    )
    control = np.zeros(1, dtype=CONTROL).view(np.recarray)
    control.held = -1
    engine = Engine(
        control,
        np.zeros(plan.lanes, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        make_score(plan),
        make_weigh(plan, record.importance),
        make_value(plan),
        make_engine(selectors.value),
        make_engine(selectors.token),
    )
    cycles = int(_run(plan, selectors, program, stalls, engine, selections, record))
    if cycles < 0:
        raise RuntimeError(
            f"attention: the engine stood still after {-cycles} cycles; this is a defect"
        )
    record.importance[:] = engine.weigh.importance.sum(axis=0)
    counts = (selections.value_record.counts, selections.token_record.counts)
    return cycles, np.concatenate(counts).tolist()


def _jobs(n: NDArray[np.int64], k: NDArray[np.int64]) -> topk.Jobs:
    """Return jobs whose keys are written when they are known."""
    first = np.append(0, np.cumsum(n))
    codes = np.zeros(int(first[-1]), dtype=np.int64)
    return topk.Jobs(codes, first, k.copy(), np.append(0, np.cumsum(np.minimum(n, k))))


# The two selectors share these.
_show = outlined(show)
_clock = outlined(clock)


@entry
def _run(
    plan: Plan,
    selectors: Selectors,
    program: Program,
    stalls: Stalls,
    engine: Engine,
    selections: Selections,
    record: Record,
) -> Any:
    """Step until the last command is done; return the cycle count, or minus it if it hangs."""
    control, kept_ids, queue, score, weigh, value, values, tokens = engine
    value_jobs, token_jobs, value_record, token_record = selections
    c, f, s, w = control[0], score.fetch[0], weigh.summer[0], weigh.weigher[0]
    v = value.stage[0]
    commands = program.commands
    value_filter = values.filter_.filterer[0]
    token_filter = tokens.filter_.filterer[0]
    patience = 64 * (plan.max_tokens + plan.memory_latency + stalls.bits.size)
    patience += 2 * plan.max_tokens * (plan.max_tokens // plan.lanes + 4)
    # Each name has one type throughout: another would compile what it is given to twice.
    moved = np.int64(0)
    left = np.int64(commands.shape[0])
    t = np.int64(0)
    while left:
        _show(selectors.value, values, value_record, t)
        _show(selectors.token, tokens, token_record, t)

        # What the registers show.
        k_reserved = score.port.port[0].sent - f.launched
        k_there = score.port.port[0].usable > f.launched
        v_reserved = v.taken - v.launched
        v_there = value_there(plan, value)
        last_value = v_there and value.last[v.launched & (plan.fetch_beats - 1)] != 0
        launch_v = v_there and not (last_value and v.busy != 0)
        launch_k = k_there and not (plan.shared != 0 and launch_v)
        k_sent = score.port.port[0].sent
        v_sent = value.port.port[0].sent
        asks_k = f.busy != 0 and f.delay == 0 and k_reserved < plan.fetch_beats
        ask_k = asks_k and not is_stalled(stalls, K_REQ, t)
        ask_v = value_asks(plan, value) and not is_stalled(stalls, V_REQ, t)
        sum_starts = s.state == IDLE and score.complete[s.bank] != 0
        handed = (
            s.state == DECISION
            and w.busy == 0
            and job_ready(values)
            and v.context_in - v.context_out < plan.context_rows
        )
        held = c.held
        holds_row = held >= 0 and commands[held, OP] == ROW
        redo = f.busy == 0 and f.redo != 0
        row = f.busy == 0 and f.redo == 0 and holds_row and f.free_banks > 0
        row = row and not is_stalled(stalls, Q, t)
        other = held >= 0 and not holds_row and c.busy == 0 and c.in_flight == 0
        e_blocked = value.steps[plan.epilogue_latency - 1] >= 0 and is_stalled(stalls, E, t)
        items_blocked = value_filter.o_valid != 0 and v_reserved == plan.fetch_beats
        kept_blocked = c.kept_valid != 0 and is_stalled(stalls, KEPT, t)
        chosen_blocked = token_filter.o_valid != 0 and kept_blocked
        command = held < 0 and c.next < commands.shape[0]
        command = command and (t == 0 or not is_stalled(stalls, CMD, t))
        waits = (k_reserved > 0 and not k_there) or (v_reserved > 0 and not v_there)
        busy = s.state != IDLE or w.busy != 0
        choosing = _selects(values) or _selects(tokens)
        cause = _cause(launch_k, launch_v, waits, busy, choosing, v.busy != 0)
        record.causes[cause] += 1
        if launch_k or launch_v or command or ask_k or ask_v or c.kept_valid != 0:
            moved = t
        elif t - moved > patience:
            return -t

        # The clock edge. Keys and items reach the selectors in the cycle of their transfer.
        job = value_jobs.first[values.load.loader[0].job] if w.busy else 0
        keyed = weigh_cycle(
            plan, program, weigh, record.tokens, value_jobs.codes[job:], selectors.value_mask,
            record, t,
        )  # fmt: skip
        delay_taken(value)
        if value_filter.o_valid != 0 and not items_blocked:
            accept_items(
                plan, program, value, value_filter.o_items, value_filter.o_last != 0,
                values.filter_.output, value_filter.job % plan.context_rows, selectors.value_mask,
            )  # fmt: skip
        _clock(selectors.value, value_jobs, values, value_record, handed, keyed, items_blocked, t)
        chosen_keys = c.busy != 0 and c.row < c.rows and c.wait == 0
        if chosen_keys:
            _write_keys(
                plan, commands[held], c.row, weigh, record, token_jobs, selectors.token_mask
            )
        left -= _finish_kept(c, kept_ids, kept_blocked, record)
        if token_filter.o_valid != 0 and not chosen_blocked:
            _show_kept(commands[held], c, kept_ids, tokens, record)
        starts_job = other and commands[held, OP] != RESET
        _clock(
            selectors.token, token_jobs, tokens, token_record, starts_job, chosen_keys,
            chosen_blocked, t,
        )  # fmt: skip
        left -= _other_cycle(plan, commands[held], c, weigh, record, other)
        if output_cycle(plan, program, value, e_blocked, record, t):
            c.in_flight -= 1
            left -= 1
        sum_cycle(plan, program, score, weigh, sum_starts, record, t)
        if handed:
            slot = v.context_in % plan.context_rows
            v.context_in += 1
            value.contexts[slot] = score.command[s.bank]
            value.levels[slot] = s.level
            hand_over(plan, program, score, weigh, record, t)
        f.delay -= f.delay > 0
        if ask_k:
            request_keys(plan, program, score, record.tokens, queue, record.counts, t)
        if ask_v:
            request_values(plan, program, value, record.tokens, queue, record.counts, t)
        if launch_v:
            launch_values(plan, program, value, record, t)
        score_cycle(plan, program, score, launch_k, record, t)
        slot = port_cycle(plan, score.port, stalls, K, k_sent, t)
        if slot >= 0:
            receive_keys(plan, program, score, slot, record.counts)
        slot = port_cycle(plan, value.port, stalls, V, v_sent, t)
        if slot >= 0:
            receive_values(plan, program, value, slot, record.counts)
        if redo:
            start_redo(program, score)
        if row:
            start_row(program, score, held, record, t)
            c.held = -1
            c.in_flight += 1
        if command:
            c.held = c.next
            c.next += 1
            record.counts[CMD_BEATS] += 1
        t += 1
    return t


@inner
def _selects(selector: Selector) -> bool:
    """Whether a selector waits for keys, selects or filters."""
    loader = selector.load.loader[0]
    loading = loader.busy != 0 and loader.row < loader.rows
    selecting = selector.select.selector[0].busy != 0
    return loading or selecting or selector.filter_.filterer[0].busy != 0


@inner
def _cause(
    launch_k: bool, launch_v: bool, waits: bool, softmax: bool, choosing: bool, output: bool
) -> int:
    """Return what the cycle is charged to (section 6)."""
    if launch_k:
        return QK
    if launch_v:
        return PV
    if waits:
        return DRAM
    if softmax:
        return SOFTMAX
    if choosing:
        return TOPK
    return OUTPUT if output else HANDOFF


@outlined
def _other_cycle(
    plan: Plan, command: NDArray[np.int64], c: Any, weigh: Weigh, record: Record, starts: bool
) -> int:
    """Clock a command other than a row; return 1 if it is a reset that is complete."""
    if starts:
        c.busy = 1
        c.row = 0
        c.rows = -(-command[N] // plan.lanes)
        c.listed = 0
        # A reset's first cycle is this one.
        c.wait = SELECTION_FIRST_KEYS + plan.lane_tree - 1
        if command[OP] == RESET:
            c.wait = plan.clear_cycles - 1 if command[CLEAR_TOKENS] else 0
    elif not c.busy:
        return 0
    elif c.wait:
        c.wait -= 1
    elif c.row < c.rows:
        c.row += 1
    if command[OP] != RESET or c.wait:
        return 0
    record.listed[0] = command[N]
    for i in range(command[N]):
        record.tokens[i] = i
    if command[CLEAR_TOKENS]:
        weigh.importance[:] = 0
    if command[CLEAR_HEADS]:
        record.head_importance[:] = 0
    c.busy = 0
    c.held = -1
    return 1


@outlined
def _write_keys(
    plan: Plan,
    command: NDArray[np.int64],
    row: int,
    weigh: Weigh,
    record: Record,
    jobs: topk.Jobs,
    mask: int,
) -> None:
    """Give the importance selector a row of keys: the copies' sums, or heads."""
    first = jobs.first[command[NUMBER]]
    for i in range(row * plan.lanes, min((row + 1) * plan.lanes, command[N])):
        key = record.head_importance[i] if command[OP] == HEADS else np.int64(0)
        if command[OP] == TOKENS:
            for lane in range(plan.lanes):
                key += weigh.importance[lane, i]
            if i >= command[PROTECTED]:
                key = np.int64(IMPORTANCE_MOST)
        jobs.codes[first + i] = key ^ mask


@outlined
def _show_kept(
    command: NDArray[np.int64],
    c: Any,
    kept_ids: NDArray[np.int64],
    selector: Selector,
    record: Record,
) -> None:
    """Take a beat of the importance selector into the register of o_kept and into the list."""
    filterer = selector.filter_.filterer[0]
    c.kept_valid = 1
    c.kept_last = filterer.o_last
    c.kept_items = filterer.o_items
    for lane in range(filterer.o_items):
        kept_ids[lane] = selector.filter_.output[1, lane]
        if command[OP] == TOKENS:
            record.tokens[c.listed + lane] = kept_ids[lane]
    c.listed += filterer.o_items
    if command[OP] == TOKENS:
        record.listed[0] = c.listed


@outlined
def _finish_kept(c: Any, kept_ids: NDArray[np.int64], blocked: bool, record: Record) -> int:
    """Transfer what o_kept shows; return 1 if that ends the command."""
    if not c.kept_valid or blocked:
        return 0
    for lane in range(c.kept_items):
        record.kept[c.kept + lane] = kept_ids[lane]
    c.kept += c.kept_items
    c.kept_valid = 0
    record.counts[KEPT_BEATS] += 1
    if not c.kept_last:
        return 0
    c.busy = 0
    c.held = -1
    return 1
