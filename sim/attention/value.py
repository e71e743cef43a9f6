# SPDX-License-Identifier: Apache-2.0
"""Value and output stage, one cycle at a time (section 5.5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.attention.counts import E_BEATS, MAC_PV, OUT, V_BEATS, V_BYTES
from sim.attention.memory import Port, make_port, read_codes, request
from sim.attention.plan import (
    FIRST_VALUE,
    HEAD,
    LAST_OUTPUT,
    LAST_VALUE,
    NUMBER,
    OUT_MULT,
    OUT_SHIFT,
    VALUE,
    VALUE_BITS,
    Plan,
    Program,
    Record,
)
from sim.attention.weigh import probability
from sim.lib.float16 import rne_shift, saturate
from sim.lib.kernel import inner, outlined

VALUE_STAGE = np.dtype(
    [
        ("taken", np.int64),  # beats accepted
        ("asked", np.int64),  # beats whose request was transferred, or that need none
        ("launched", np.int64),
        ("fetched", np.int64),  # of those, how many needed a request
        ("context_in", np.int64),  # rows handed to weigh
        ("context_out", np.int64),  # rows whose last value beat was launched
        ("row_started", np.int64),  # a beat of the row context_out was launched
        # The output stage.
        ("busy", np.int64),
        ("command", np.int64),
        ("delay", np.int64),  # cycles until the first step may issue
        ("step", np.int64),  # next step
    ]
)

REQUEST_DELAY = 4
"""Cycles from a beat's acceptance until its request is valid; without one it waits one more."""


class Value(NamedTuple):
    """Registers of the value and output stages.

    Attributes
    ----------
    stage : record array of VALUE_STAGE, one entry
    port : Port
    taken : int64[REQUEST_DELAY]
        Beats accepted 2, 3, ... cycles ago and before.
    lanes, last, context : int64[F]
        Kept lanes of a beat, whether it is its row's last, and its row's context.
    positions, distances : int64[F, G]
        What the beat keeps.
    contexts, levels : int64[4]
        Commands of the rows from weigh to value, and their logarithms.
    acc, result : int64[D]
        Accumulators, and those of the row in the output stage.
    steps : int64[7]
        Step in each stage of the epilogue (-1: none); the last one is the output register.
    """

    stage: Any
    port: Port
    taken: NDArray[np.int64]
    lanes: NDArray[np.int64]
    last: NDArray[np.int64]
    context: NDArray[np.int64]
    positions: NDArray[np.int64]
    distances: NDArray[np.int64]
    contexts: NDArray[np.int64]
    levels: NDArray[np.int64]
    acc: NDArray[np.int64]
    result: NDArray[np.int64]
    steps: NDArray[np.int64]


def make_value(plan: Plan) -> Value:
    """Return idle stages."""
    depth, lanes = plan.fetch_beats, plan.lanes
    return Value(
        np.zeros(1, dtype=VALUE_STAGE).view(np.recarray),
        make_port(plan),
        np.zeros(REQUEST_DELAY, dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
        np.zeros((depth, lanes), dtype=np.int64),
        np.zeros((depth, lanes), dtype=np.int64),
        np.zeros(plan.context_rows, dtype=np.int64),
        np.zeros(plan.context_rows, dtype=np.int64),
        np.zeros(plan.head_dim, dtype=np.int64),
        np.zeros(plan.head_dim, dtype=np.int64),
        np.full(plan.epilogue_latency, -1, dtype=np.int64),
    )


@inner
def value_there(plan: Plan, value: Value) -> bool:
    """Whether the next value beat could launch, as far as it is concerned."""
    v = value.stage[0]
    if v.launched == v.taken:
        return False
    if value.lanes[v.launched & (plan.fetch_beats - 1)]:
        return value.port.port[0].usable > v.fetched
    return v.launched < value.taken[REQUEST_DELAY - 1]


@inner
def value_asks(plan: Plan, value: Value) -> bool:
    """Whether a request is valid; beats without one are passed over."""
    v = value.stage[0]
    asks = value.taken[REQUEST_DELAY - 2]
    while v.asked < asks and value.lanes[v.asked & (plan.fetch_beats - 1)] == 0:
        v.asked += 1
    return v.asked < asks


@outlined
def request_values(
    plan: Plan,
    program: Program,
    value: Value,
    tokens: NDArray[np.int64],
    queue: NDArray[np.int64],
    counts: NDArray[np.int64],
    t: int,
) -> None:
    """Transfer the request of the next beat."""
    v = value.stage[0]
    beat = v.asked & (plan.fetch_beats - 1)
    command = program.commands[value.contexts[value.context[beat]]]
    kept = value.lanes[beat]
    size = kept * plan.head_dim * command[VALUE_BITS] // 8
    slot = request(plan, value.port, queue, size, t)
    for lane in range(plan.lanes):
        token = tokens[value.positions[beat, lane]]
        value.port.address[slot, lane] = (command[VALUE] + token) & 0xFFFFFFFF
        if lane >= kept:
            value.port.address[slot, lane] = -1
    v.asked += 1
    counts[V_BYTES] += size


@outlined
def receive_values(
    plan: Plan, program: Program, value: Value, slot: int, counts: NDArray[np.int64]
) -> None:
    """Take the response that comes into a slot: all values as 8 bits, cut at the launch."""
    read_codes(plan, value.port, slot, program.value, 8, True)
    counts[V_BEATS] += 1


@outlined
def accept_items(
    plan: Plan,
    program: Program,
    value: Value,
    items: int,
    last: bool,
    output: NDArray[np.int64],
    row_context: int,
    mask: int,
) -> None:
    """Take a beat of the selector: codes and positions."""
    v = value.stage[0]
    slot = v.taken & (plan.fetch_beats - 1)
    v.taken += 1
    value.lanes[slot] = items
    value.last[slot] = last
    value.context[slot] = row_context
    for lane in range(plan.lanes):
        value.distances[slot, lane] = output[0, lane] ^ mask
        value.positions[slot, lane] = output[1, lane] if lane < items else 0


@inner
def delay_taken(value: Value) -> None:
    """Clock the delay of accepted beats, before any is accepted in this cycle."""
    for stage in range(REQUEST_DELAY - 1, 0, -1):
        value.taken[stage] = value.taken[stage - 1]
    value.taken[0] = value.stage[0].taken


@outlined
def launch_values(plan: Plan, program: Program, value: Value, record: Record, t: int) -> None:
    """Multiply and accumulate the next beat; the row's last goes on to the output stage."""
    v = value.stage[0]
    beat = v.launched & (plan.fetch_beats - 1)
    context = value.context[beat]
    command = program.commands[value.contexts[context]]
    kept = value.lanes[beat]
    if not v.row_started:
        record.marks[command[NUMBER], FIRST_VALUE] = t
        v.row_started = 1
        for d in range(plan.head_dim):
            value.acc[d] = 0
    if kept:
        slot = v.fetched & (plan.fetch_beats - 1)
        cut = 8 - command[VALUE_BITS]
        top = 1 << (command[VALUE_BITS] - 1)
        v.fetched += 1
        for lane in range(kept):
            p = probability(plan, value.distances[beat, lane], value.levels[context])
            for d in range(plan.head_dim):
                code = np.int64(value.port.codes[slot, lane, d]) & (255 >> cut)
                value.acc[d] += p * ((code ^ top) - top)
        record.counts[MAC_PV] += kept * plan.head_dim
    v.launched += 1
    if not value.last[beat]:
        return
    record.marks[command[NUMBER], LAST_VALUE] = t
    v.row_started = 0
    v.context_out += 1
    v.busy = 1
    v.command = value.contexts[context]
    v.delay = plan.out_latency - 1
    v.step = 0
    for d in range(plan.head_dim):
        value.result[d] = value.acc[d]


@outlined
def output_cycle(
    plan: Plan, program: Program, value: Value, blocked: bool, record: Record, t: int
) -> bool:
    """Clock the output stage at the end of cycle t; whether a row's last beat was transferred."""
    v = value.stage[0]
    if not v.busy:
        return False
    if v.delay:
        v.delay -= 1
        return False
    if blocked:
        return False
    oldest = plan.epilogue_latency - 1
    step = value.steps[oldest]
    if step >= 0:
        _transfer(plan, program.commands[v.command], value, step, record)
    for stage in range(oldest, 0, -1):
        value.steps[stage] = value.steps[stage - 1]
    value.steps[0] = v.step if v.step < plan.out_beats else -1
    v.step += 1
    if step < plan.out_beats - 1:
        return False
    record.marks[program.commands[v.command, NUMBER], LAST_OUTPUT] = t
    v.busy = 0
    return True


@inner
def _transfer(
    plan: Plan, command: NDArray[np.int64], value: Value, step: int, record: Record
) -> None:
    """Transfer an output beat; the head's importance grows by it."""
    for d in range(step * plan.out_lanes, (step + 1) * plan.out_lanes):
        rounded = rne_shift(value.result[d] * command[OUT_MULT], command[OUT_SHIFT])
        output = saturate(rounded, -32768, 32767)
        record.y[command[NUMBER], d] = output
        record.head_importance[command[HEAD]] += abs(output)
    record.counts[OUT] += plan.out_lanes
    record.counts[E_BEATS] += 1
