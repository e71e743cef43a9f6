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
    causes = record.causes
    lanes = plan.lanes
    depth = plan.fetch_beats
    mask = depth - 1
    complete = queues.complete
    row_command = queues.commands
    k_usable, v_usable = queues.k_usable, queues.v_usable
    v_row, v_lanes, v_last = queues.v_row, queues.v_lanes, queues.v_last
    v_accepted = queues.v_accepted
    limited = plan.bytes_per_cycle > 0
    stalled = False
    for stream in range(stalls.length.size):
        stalled |= stalls.length[stream] > 1
    # With so many keys reserved, or more, the next one has come back: requests are transferred in
    # different cycles, so the one that `arrival` others followed is as old as that.
    arrival = plan.memory_latency + 2
    steady = not stalled and not limited and depth > arrival

    left = commands.shape[0]
    next_command = 0
    held = -1  # command in the register
    # Rows whose fetch started, whose sum is next; rows in flight.
    started = summed = 0
    in_flight = 0
    # Fetch.
    fetch_row = -1
    fetch_at = _NEVER  # first cycle in which a request may be made
    fetch_left = plane = 0
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
    filter_beat = filter_left = 0
    filter_at = _NEVER  # cycle from which its next beat is visible
    # Value.
    v_taken = v_asked = v_launched = 0
    head_v = np.uint64(0)
    starts_row = True
    # Output.
    out_row = -1
    out_end = _NEVER  # cycle of the last transfer

    # Cycles from which the next key beat and value beat can launch, and a value be asked for.
    k_at = v_at = ask_at = _NEVER
    qk_cycles = pv_cycles = 0

    # Beats move in most cycles, all else only in cycles from `wake` on: at a time that is known, or
    # in the cycle after a beat that ends something. Too early a time costs speed only.
    wake = 0
    t = 0
    while left:
        if t >= wake and held >= 0 and in_flight == 0 and commands[held, OP] != ROW:
            t = _alone(plan, commands[held], stalls, selections, load_latency, causes, t)
            held = -1
            left -= 1
            continue
        k_reserved = k_sent - k_launched
        v_reserved = v_taken - v_launched
        launch_v = v_at <= t and (out_row < 0 or not v_last[head_v])
        k_there = k_at <= t
        launch_k = k_there and not (launch_v and plan.shared)
        if launch_k:
            qk_cycles += 1
        elif launch_v:
            pv_cycles += 1
        elif (k_reserved > 0 and not k_there) or (v_reserved > 0 and v_at > t):
            causes[DRAM] += 1
        elif sum_busy or t < weigh_free:
            causes[SOFTMAX] += 1
        elif t <= load_last or select_row >= 0 or filter_row >= 0:
            causes[TOPK] += 1
        elif out_row >= 0:
            causes[OUTPUT] += 1
        else:
            causes[HANDOFF] += 1

        if t >= wake:
            wake = _NEVER
            # Sum: start, decision, handover.
            banks_now = banks
            if not sum_busy:
                if summed < started and complete[summed] <= t:
                    sum_busy = True
                    marks[summed, SUM] = t
                    marks[summed, COMPLETE] = complete[summed]
                    beats = -(-commands[row_command[summed], N] // lanes)
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
                    beats = -(-commands[row_command[summed], N] // lanes)
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
            if not sum_busy:
                if summed < started:
                    wake = min(wake, max(complete[summed], t + 1))
            elif t < decision:
                wake = min(wake, decision)
            else:
                wake = min(wake, max(weigh_free, t + 1))

            # A fetch starts. A command leaves the register only here and above.
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
                    row_command[fetch_row] = held
                    marks[fetch_row, START] = t
                    held = -1
                    started += 1
                    in_flight += 1
                    banks -= 1
                if fetch_row >= 0:
                    command = row_command[fetch_row]
                    fetch_at = t + 3
                    fetch_left = commands[command, N]
                    fetch_bits = commands[command, MSB_BITS] if plane == MSB_PLANE else 4
                    slot = pass_in & 7
                    queues.passes[slot, 0] = fetch_row
                    queues.passes[slot, 1] = -(-fetch_left // lanes)
                    pass_in += 1
                elif held >= 0 and banks > 0:
                    wake = t + 1

            # Value selector, upstream first.
            if load_row >= 0 and select_row < 0 and t >= load_complete:
                select_row = load_row
                load_row = -1
                decided = t + 1 + values.passes[select_row]
            elif select_row >= 0 and filter_row < 0 and t >= decided:
                filter_row = select_row
                select_row = -1
                filter_beat = values.first[filter_row]
                filter_left = commands[row_command[filter_row], K_WANTED]
                filter_at = t + 1 + values.beats[filter_beat] + FILTER_LATENCY
            if load_row >= 0 and select_row < 0:
                wake = min(wake, max(load_complete, t + 1))
            if select_row >= 0 and filter_row < 0:
                wake = min(wake, max(decided, t + 1))

            # Output.
            if out_row >= 0:
                wake = min(wake, max(out_end, t + 1))
                if t == out_end:
                    marks[out_row, LAST_OUTPUT] = t
                    out_row = -1
                    in_flight -= 1
                    left -= 1

            # The command register.
            if next_command < commands.shape[0]:
                if empty and (t == 0 or not is_stalled(stalls, CMD, t)):
                    held = next_command
                    next_command += 1
                if empty or held < 0:
                    wake = t + 1

        if t >= fetch_at and k_reserved < depth and not (stalled and is_stalled(stalls, K_REQ, t)):
            kept = min(lanes, fetch_left)
            earliest = t + plan.memory_latency
            if limited:
                size = kept * plan.head_dim * fetch_bits // 8
                drained = max(drained, (t + 1) * plan.bytes_per_cycle) + size
                earliest = _last_byte(plan, drained) + plan.memory_latency - 1
            k_response = max(earliest, k_response + 1)
            if stalled:
                k_response = unstalled(stalls, K, k_response)
            k_usable[np.uint64(k_sent & mask)] = k_response + 2
            k_sent += 1
            fetch_left -= kept
            if fetch_left == 0:
                fetch_row = -1
                fetch_at = _NEVER
                wake = t + 1

        # Request of a value beat that was accepted earlier.
        if t >= ask_at and not (stalled and is_stalled(stalls, V_REQ, t)):
            slot = np.uint64(v_asked & mask)
            earliest = t + plan.memory_latency
            if limited:
                bits = commands[row_command[v_row[slot]], VALUE_BITS]
                size = v_lanes[slot] * plan.head_dim * bits // 8
                drained = max(drained, (t + 1) * plan.bytes_per_cycle) + size
                earliest = _last_byte(plan, drained) + plan.memory_latency - 1
            v_response = max(earliest, v_response + 1)
            if stalled:
                v_response = unstalled(stalls, V, v_response)
            v_usable[slot] = v_response + 2
            v_asked += 1
            ask_at = _NEVER

        # Beat of the value selector.
        if t >= filter_at and v_reserved < depth:
            slot = np.uint64(v_taken & mask)
            beat = np.uint64(filter_beat)
            v_row[slot] = filter_row
            v_lanes[slot] = min(lanes, filter_left)
            v_accepted[slot] = t
            v_usable[slot] = _NEVER if filter_left > 0 else t + 5
            v_last[slot] = filter_left <= lanes
            v_taken += 1
            if steady:  # beats are accepted in different cycles, so none waits to be asked for
                v_usable[slot] = t + 4 + arrival if filter_left > 0 else t + 5
                v_asked += 1
            filter_beat += 1
            if filter_left > lanes:
                filter_at = t + values.beats[np.uint64(filter_beat)] - values.beats[beat]
            else:
                filter_row = -1
                filter_at = _NEVER
                selector_banks += 1
                wake = t + 1
            filter_left -= lanes

        # Launches.
        if launch_v:
            if starts_row:
                marks[v_row[head_v], FIRST_VALUE] = t
            starts_row = v_last[head_v] != 0
            if starts_row:
                out_row = v_row[head_v]
                marks[out_row, LAST_VALUE] = t
                out_end = t + plan.out_latency + plan.epilogue_latency - 1
                for _ in range(plan.out_beats):
                    out_end = unstalled(stalls, E, out_end + 1)
                contexts -= 1
                wake = t + 1
            v_launched += 1
        if launch_k:
            if pass_left == 0:
                pass_left = queues.passes[pass_out & 7, 1]
            pass_left -= 1
            if pass_left == 0:
                complete[queues.passes[pass_out & 7, 0]] = t + plan.complete_latency
                pass_out += 1
                wake = t + 1
            k_launched += 1

        # When the next beats can move.
        t += 1
        head_v = np.uint64(v_launched & mask)
        v_at = v_usable[head_v] if v_taken > v_launched else _NEVER
        while ask_at == _NEVER and v_asked < v_taken:
            slot = np.uint64(v_asked & mask)
            if v_lanes[slot] > 0:
                ask_at = v_accepted[slot] + 4
            else:
                v_asked += 1
        if steady and k_sent - k_launched >= arrival and t >= fetch_at:
            # Until something else is due a key launches, and one is asked for, in each cycle: in
            # the first one only if there is room. The last ones of a pass are left out.
            cycles = _keys_alone(wake, v_at, filter_at, t, pass_left, fetch_left, lanes)
            if cycles > 0:
                full = int(k_sent - k_launched == depth)
                k_sent += cycles - full
                k_launched += cycles
                qk_cycles += cycles
                pass_left -= cycles
                fetch_left -= (cycles - full) * lanes
                t += cycles
                for back in range(1, min(cycles - full, depth) + 1):
                    k_usable[np.uint64((k_sent - back) & mask)] = t - back + arrival
        k_at = k_usable[np.uint64(k_launched & mask)] if k_sent > k_launched else _NEVER
    causes[QK] += qk_cycles
    causes[PV] += pv_cycles
    return t


@inner
def _keys_alone(
    wake: int, v_at: int, filter_at: int, t: int, pass_left: int, fetch_left: int, lanes: int
) -> int:
    """Return the cycles from t on in which only keys move, without the last ones of a pass."""
    cycles = min(min(min(wake, v_at), filter_at) - t, pass_left - 1)
    if cycles * lanes >= fetch_left:
        cycles = (fetch_left - 1) // lanes
    return cycles


@inner
def _last_byte(plan: Plan, drained: int) -> int:
    """Return the cycle in which the last of the bytes that were asked for leaves the memory."""
    return (drained - 1) // plan.bytes_per_cycle


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
