# SPDX-License-Identifier: Apache-2.0
"""The fast model's cycles: no data, only when things happen (section 5).

What a row does depends on its data in few numbers: whether it is flat, how long its selection
takes, after which rows the selector emits beats. With them, each cycle is a handful of comparisons
of counters and of times that are already known. In a cycle, what reads a register comes before what
writes it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import FILTER_LATENCY
from cosil.lowering.attention import RESET, ROW
from sim.attention.plan import (
    CLEAR_TOKENS,
    CMD,
    COMPLETE,
    DECIDED,
    DRAM,
    FIRST_VALUE,
    HANDOFF,
    HANDOVER,
    K_REQ,
    K_WANTED,
    KEPT,
    LAST_OUTPUT,
    LAST_VALUE,
    LSB_PLANE,
    MSB_BITS,
    MSB_PLANE,
    NUMBER,
    OP,
    OUTPUT,
    PV,
    QK,
    SELECTION_FIRST_KEYS,
    SOFTMAX,
    START,
    SUM,
    TOPK,
    V_REQ,
    VALUE_BITS,
    E,
    K,
    N,
    Plan,
    Q,
    Record,
    Timeline,
    V,
)
from sim.lib.kernel import entry, inner
from sim.lib.stalls import Stalls, is_stalled, unstalled

_NEVER = 1 << 62


class Queues(NamedTuple):
    """Rings of the kernel.

    Attributes
    ----------
    k_usable, v_usable : int64[F]
        Cycle from which a beat can launch.
    v_accepted : int64[F]
        Cycle in which the selector's beat was accepted.
    v_row, v_lanes, v_last : int64[F]
        Row of a value beat, its kept lanes, and whether it is the row's last.
    complete : int64[rows]
        Cycle from which a row's scores are complete.
    commands : int64[rows]
        Position of a row's command.
    passes : int64[8, 2]
        Row and score beats of the passes that are requested and not all launched, in order.
    """

    k_usable: NDArray[np.int64]
    v_usable: NDArray[np.int64]
    v_accepted: NDArray[np.int64]
    v_row: NDArray[np.int64]
    v_lanes: NDArray[np.int64]
    v_last: NDArray[np.int64]
    complete: NDArray[np.int64]
    commands: NDArray[np.int64]
    passes: NDArray[np.int64]


def make_queues(plan: Plan, rows: int) -> Queues:
    """Return empty rings."""

    def ring() -> NDArray[np.int64]:
        return np.zeros(plan.fetch_beats, dtype=np.int64)

    return Queues(
        ring(), ring(), ring(), ring(), ring(), ring(),
        np.full(rows, _NEVER, dtype=np.int64),
        np.zeros(rows, dtype=np.int64),
        np.zeros((8, 2), dtype=np.int64),
    )  # fmt: skip


@entry
def count_cycles(
    plan: Plan,
    commands: NDArray[np.int64],
    stalls: Stalls,
    values: Timeline,
    selections: Timeline,
    load_latency: int,
    queues: Queues,
    record: Record,
) -> int:
    """Return the cycles of a run; fill its marks and causes."""
    marks = record.marks
    redo_rows = record.redo
    lanes = plan.lanes
    depth = plan.fetch_beats
    mask = depth - 1
    complete = queues.complete

    left = commands.shape[0]
    next_command = 0
    held = -1  # command in the register
    # Rows whose fetch started, whose sum is next, that weigh took, select holds, were output.
    started = summed = 0
    in_flight = 0
    # Fetch.
    fetch_row = -1
    fetch_at = fetch_left = plane = 0
    fetch_bits = 0
    banks = plan.score_banks
    redo_pending = -1
    # Score.
    k_sent = k_launched = 0
    k_response = v_response = -1
    drained = 0  # bytes' end in the shared queue
    pass_in = pass_out = 0
    pass_left = 0
    # Sum and weigh.
    sum_busy = retried = False
    decision = 0
    weigh_free = 0
    contexts = 0
    # Value selector.
    load_row = select_row = filter_row = -1
    load_last = -1
    load_complete = decided = 0
    selector_banks = 3
    filter_number = filter_beat = 0
    # Value.
    v_taken = v_asked = v_launched = 0
    # Output.
    out_row = -1
    out_number = 0
    out_at = 0

    t = 0
    while left:
        if held >= 0 and in_flight == 0 and commands[held, OP] != ROW:
            line = commands[held]
            t = _alone(plan, line, stalls, selections, load_latency, record.causes, t)
            held = -1
            left -= 1
            continue
        k_reserved = k_sent - k_launched
        v_reserved = v_taken - v_launched
        head_v = v_launched & mask
        v_there = v_reserved > 0 and queues.v_usable[head_v] <= t
        launch_v = v_there and (not queues.v_last[head_v] or out_row < 0)
        k_there = k_reserved > 0 and queues.k_usable[k_launched & mask] <= t
        launch_k = k_there and not (launch_v and plan.shared)
        if launch_k:
            cause = QK
        elif launch_v:
            cause = PV
        elif (k_reserved > 0 and not k_there) or (v_reserved > 0 and not v_there):
            cause = DRAM
        elif sum_busy or t < weigh_free:
            cause = SOFTMAX
        elif t <= load_last or select_row >= 0 or filter_row >= 0:
            cause = TOPK
        elif out_row >= 0:
            cause = OUTPUT
        else:
            cause = HANDOFF
        record.causes[cause] += 1

        # Sum: start, decision, handover.
        banks_now = banks
        if not sum_busy:
            if summed < started and complete[summed] <= t:
                sum_busy = True
                marks[summed, SUM] = t
                marks[summed, COMPLETE] = complete[summed]
                beats = -(-commands[queues.commands[summed], N] // lanes)
                decision = t + beats + plan.decision_latency
        elif t >= decision:
            if t == decision:
                marks[summed, DECIDED] = t
            if redo_rows[summed] and not retried:
                retried = True
                redo_pending = summed
                complete[summed] = _NEVER
                sum_busy = False
            elif (
                t >= weigh_free
                and load_row < 0
                and selector_banks > 0
                and contexts < plan.context_rows
            ):
                beats = -(-commands[queues.commands[summed], N] // lanes)
                marks[summed, HANDOVER] = t
                weigh_free = t + beats + plan.weigh_latency
                load_row = summed
                load_last = t + beats + 1
                load_complete = load_last + load_latency
                selector_banks -= 1
                contexts += 1
                banks += 1
                sum_busy = False
                retried = False
                summed += 1

        # Fetch: start, or a request. A command leaves the register only here and below.
        empty = held < 0
        if fetch_row < 0:
            if redo_pending >= 0:
                fetch_row = redo_pending
                plane = LSB_PLANE
                redo_pending = -1
            elif (
                held >= 0
                and commands[held, OP] == ROW
                and banks_now > 0
                and not is_stalled(stalls, Q, t)
            ):
                fetch_row = started
                plane = MSB_PLANE
                queues.commands[fetch_row] = held
                marks[fetch_row, START] = t
                held = -1
                started += 1
                in_flight += 1
                banks -= 1
            if fetch_row >= 0:
                command = queues.commands[fetch_row]
                fetch_at = t + 3
                fetch_left = commands[command, N]
                fetch_bits = commands[command, MSB_BITS] if plane == MSB_PLANE else 4
                slot = pass_in & 7
                queues.passes[slot, 0] = fetch_row
                queues.passes[slot, 1] = -(-fetch_left // lanes)
                pass_in += 1
        elif t >= fetch_at and k_reserved < depth and not is_stalled(stalls, K_REQ, t):
            kept = min(lanes, fetch_left)
            earliest = t + plan.memory_latency
            if plan.bytes_per_cycle:
                size = kept * plan.head_dim * fetch_bits // 8
                drained = max(drained, (t + 1) * plan.bytes_per_cycle) + size
                last_byte = (drained - 1) // plan.bytes_per_cycle
                earliest = last_byte + plan.memory_latency - 1
            k_response = unstalled(stalls, K, max(earliest, k_response + 1))
            queues.k_usable[k_sent & mask] = k_response + 2
            k_sent += 1
            fetch_left -= kept
            if fetch_left == 0:
                fetch_row = -1

        # Value requests of beats that were accepted earlier.
        while v_asked < v_taken and queues.v_lanes[v_asked & mask] == 0:
            v_asked += 1
        if v_asked < v_taken:
            slot = v_asked & mask
            if t >= queues.v_accepted[slot] + 4 and not is_stalled(stalls, V_REQ, t):
                earliest = t + plan.memory_latency
                if plan.bytes_per_cycle:
                    bits = commands[queues.commands[queues.v_row[slot]], VALUE_BITS]
                    size = queues.v_lanes[slot] * plan.head_dim * bits // 8
                    drained = max(drained, (t + 1) * plan.bytes_per_cycle) + size
                    last_byte = (drained - 1) // plan.bytes_per_cycle
                    earliest = last_byte + plan.memory_latency - 1
                v_response = unstalled(stalls, V, max(earliest, v_response + 1))
                queues.v_usable[slot] = v_response + 2
                v_asked += 1

        # Value selector, upstream first.
        filter_idle = filter_row < 0
        if load_row >= 0 and select_row < 0 and t >= load_complete:
            select_row = load_row
            load_row = -1
            decided = t + 1 + values.passes[select_row]
        elif select_row >= 0 and filter_idle and t >= decided:
            filter_row = select_row
            select_row = -1
            filter_number = 0
            filter_beat = 0
        if not filter_idle:
            first = values.first[filter_row]
            if filter_number < values.beats[first + filter_beat] + FILTER_LATENCY:
                filter_number += 1
            elif v_reserved < depth:
                slot = v_taken & mask
                wanted = commands[queues.commands[filter_row], K_WANTED]
                filter_beat += 1
                last = filter_beat == values.first[filter_row + 1] - first
                kept = min(lanes, wanted - (filter_beat - 1) * lanes)
                queues.v_row[slot] = filter_row
                queues.v_lanes[slot] = kept
                queues.v_last[slot] = last
                queues.v_accepted[slot] = t
                queues.v_usable[slot] = _NEVER if kept else t + 5
                v_taken += 1
                filter_number += 1
                if last:
                    filter_row = -1
                    selector_banks += 1

        # Output.
        if out_row >= 0 and t >= out_at:
            step = out_number - plan.epilogue_latency
            if step < 0:
                out_number += 1
            elif not is_stalled(stalls, E, t):
                out_number += 1
                if step == plan.out_beats - 1:
                    marks[out_row, LAST_OUTPUT] = t
                    out_row = -1
                    in_flight -= 1
                    left -= 1

        # Launches.
        if launch_v:
            row = queues.v_row[head_v]
            if marks[row, FIRST_VALUE] < 0:
                marks[row, FIRST_VALUE] = t
            if queues.v_last[head_v]:
                marks[row, LAST_VALUE] = t
                out_row = row
                out_number = 0
                out_at = t + plan.out_latency
                contexts -= 1
            v_launched += 1
        if launch_k:
            if pass_left == 0:
                pass_left = queues.passes[pass_out & 7, 1]
            pass_left -= 1
            if pass_left == 0:
                complete[queues.passes[pass_out & 7, 0]] = t + plan.complete_latency
                pass_out += 1
            k_launched += 1

        if (
            empty
            and next_command < commands.shape[0]
            and (t == 0 or not is_stalled(stalls, CMD, t))
        ):
            held = next_command
            next_command += 1
        t += 1
    return t


@inner
def _alone(
    plan: Plan,
    command: NDArray[np.int64],
    stalls: Stalls,
    selections: Timeline,
    load_latency: int,
    causes: NDArray[np.int64],
    t: int,
) -> int:
    """Run a command other than a row from cycle t on, alone; return when the register is empty."""
    if command[OP] == RESET:
        cycles = plan.clear_cycles if command[CLEAR_TOKENS] else 1
        causes[HANDOFF] += cycles
        return t + cycles
    job = command[NUMBER]
    last_keys = t + SELECTION_FIRST_KEYS + plan.lane_tree + -(-command[N] // plan.lanes) - 1
    selected = last_keys + load_latency
    filtered = selected + 1 + selections.passes[job]
    # Of the filter's enabled cycles, the one with this number is cycle `taken`; the register of
    # o_kept is full from then on until `kept`.
    number = -1
    taken = filtered
    kept = -1
    for beat in range(selections.first[job], selections.first[job + 1]):
        visible = taken + selections.beats[beat] + FILTER_LATENCY - number
        taken = max(visible, kept)
        number = selections.beats[beat] + FILTER_LATENCY
        kept = unstalled(stalls, KEPT, taken + 1)
    busy = last_keys - t + taken - selected
    causes[TOPK] += busy
    causes[HANDOFF] += kept + 1 - t - busy
    return kept + 1
