# SPDX-License-Identifier: Apache-2.0
"""The fast model's values: one command after the other, without time (section 1).

32-bit integers hold every score, 2**30 at most, and every sum of probabilities times values: the
probabilities of a row sum to less than 2**23 (`run` asserts 2**22 within 2**-7), a value is at most
2**7. Distances are multiplied in 64 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import (
    EXP_BITS,
    FRACTION_BITS,
    LOG_INDEX_BITS,
    LSB_BITS,
    NO_WEIGHT,
    PROBABILITY_BITS,
)
from cosil.lowering.attention import RESET, ROW, TOKENS
from sim.attention.plan import (
    ADD,
    CLEAR_HEADS,
    CLEAR_TOKENS,
    HEAD,
    IMPORTANCE_MOST,
    K_WANTED,
    KEY_LSB,
    KEY_MSB,
    LSB_HIGH,
    LSB_LOW,
    MSB_BITS,
    MULT,
    NUMBER,
    OP,
    OUT_MULT,
    OUT_SHIFT,
    PROTECTED,
    SHIFT,
    VALUE,
    VALUE_BITS,
    N,
    Plan,
    Program,
    Record,
    Selectors,
    Timeline,
)
from sim.lib.float16 import rne_shift, saturate
from sim.lib.kernel import entry, inner
from sim.lib.product import CODES, DOTS, add_weighted, dots, prefetch
from sim.topk import fast as topk
from sim.topk.plan import Jobs
from sim.topk.plan import Record as Selection

_ADDRESS = (1 << 32) - 1
_FRACTION = (1 << FRACTION_BITS) - 1
_P_MAX = (1 << PROBABILITY_BITS) - 1
_P_SHIFT = EXP_BITS - PROBABILITY_BITS


class Work(NamedTuple):
    """Room for one row.

    Attributes
    ----------
    score, distance, probability, weight : int32[max_tokens]
        `weight` of the kept values.
    address : int64[max_tokens]
        Rows of keys or kept values in their memory.
    acc : int32[D]
    jobs : sim.topk.plan.Jobs
        One job, for either selector.
    value, token : sim.topk.fast.Work
    """

    score: NDArray[np.int32]
    distance: NDArray[np.int32]
    probability: NDArray[np.int32]
    weight: NDArray[np.int32]
    address: NDArray[np.int64]
    acc: NDArray[np.int32]
    jobs: Jobs
    value: topk.Work
    token: topk.Work


def make_work(plan: Plan, selectors: Selectors) -> Work:
    """Return room for the longest row."""
    most = plan.max_tokens
    pair = np.zeros(2, dtype=np.int64)
    return Work(
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int64),
        np.zeros(plan.head_dim, dtype=np.int32),
        Jobs(np.zeros(most, dtype=np.int64), pair.copy(), np.zeros(1, dtype=np.int64), pair),
        topk.make_work(selectors.value, most),
        topk.make_work(selectors.token, most),
    )


@entry
def compute(
    plan: Plan,
    selectors: Selectors,
    program: Program,
    work: Work,
    values: Timeline,
    selections: Timeline,
    value_record: Selection,
    token_record: Selection,
    record: Record,
) -> None:
    """Run all commands; fill everything in `record` but cycles, and both timelines."""
    value_state = np.int64(selectors.value.seed)
    token_state = np.int64(selectors.token.seed)
    ids = record.tokens
    kept = 0
    for c in range(program.commands.shape[0]):
        command = program.commands[c]
        op = command[OP]
        if op == ROW:
            _softmax(plan, program, command, ids, work, record)
            for i in range(command[N]):
                work.jobs.codes[i] = work.distance[i] ^ selectors.value_mask
            value_state = _select(
                selectors.value, command, work.jobs, work.value, value_record, value_state, values
            )
            positions = value_record.item_indices[: command[K_WANTED]]
            _output(program, command, ids, positions, work, record)
        elif op == RESET:
            for i in range(command[N]):
                ids[i] = i
            record.listed[0] = command[N]
            if command[CLEAR_TOKENS]:
                record.importance[:] = 0
            if command[CLEAR_HEADS]:
                record.head_importance[:] = 0
        else:
            ranked = record.importance if op == TOKENS else record.head_importance
            for i in range(command[N]):
                key = ranked[i]
                if op == TOKENS and i >= command[PROTECTED]:
                    key = np.int64(IMPORTANCE_MOST)
                work.jobs.codes[i] = key ^ selectors.token_mask
            token_state = _select(
                selectors.token, command, work.jobs, work.token, token_record, token_state,
                selections,
            )  # fmt: skip
            for i in range(command[K_WANTED]):
                record.kept[kept] = token_record.item_indices[i]
                kept += 1
                if op == TOKENS:
                    ids[i] = token_record.item_indices[i]
            if op == TOKENS:
                record.listed[0] = command[K_WANTED]


# Functions of their own, not inlined: two copies of the selection would compile twice as long.


@entry
def _select(
    selector: topk.Plan,
    command: NDArray[np.int64],
    jobs: Jobs,
    work: topk.Work,
    record: Selection,
    state: int,
    timeline: Timeline,
) -> int:
    """Select a command's keys, which `jobs` holds; return the generator's state."""
    jobs.first[1] = command[N]
    jobs.first_item[1] = min(command[N], command[K_WANTED])
    jobs.k[0] = command[K_WANTED]
    cut, state, beats = topk.select(selector, jobs, 0, work, record, state)
    timeline.passes[command[NUMBER]] = cut.cycles
    first = timeline.first[command[NUMBER]]
    for beat in range(beats):
        timeline.beats[first + beat] = work.beats[beat]
    return state


@entry
def _softmax(
    plan: Plan,
    program: Program,
    command: NDArray[np.int64],
    ids: NDArray[np.int64],
    work: Work,
    record: Record,
) -> None:
    """Compute scores, distances and probabilities, with the LSBs if the row is flat."""
    n = command[N]
    row = command[NUMBER]
    query = program.query[row]
    score = work.score
    _score_msb(query, program.key_msb, command, ids, work.address, score)
    level = _distances(plan, command, score, work.distance, n)
    if command[LSB_LOW] <= level <= command[LSB_HIGH]:
        record.redo[row] = 1
        _score_lsb(query, program.key_lsb, command[KEY_LSB], ids, n, score)
        level = _distances(plan, command, score, work.distance, n)
    record.added[row] = _weigh(plan.pow, work.distance, level, work.probability, n)
    if command[ADD]:
        for i in range(n):
            record.importance[ids[i]] += work.probability[i]


@inner
def _score_msb(
    query: NDArray[np.int16],
    memory: NDArray[np.int8],
    command: NDArray[np.int64],
    ids: NDArray[np.int64],
    address: NDArray[np.int64],
    score: NDArray[np.int32],
) -> None:
    """Set scores to 16 q . msb; only the low MSB_BITS bits of a code count, signed."""
    n = command[N]
    base = command[KEY_MSB]
    cut = 8 - command[MSB_BITS]
    past = np.int64(0)
    for i in range(n):
        address[i] = (base + ids[i]) & _ADDRESS
        past |= np.int64(address[i] >= memory.shape[0])
    whole = 0
    if cut == 0 and past == 0 and query.size % CODES == 0:
        whole = n // DOTS * DOTS
        for i in range(0, whole, DOTS):
            dots(query, memory, address, score, i)
    for i in range(whole, n):
        total = np.int32(0)
        if address[i] < memory.shape[0]:
            codes = memory[address[i]]
            for d in range(query.size):
                code = np.int32(np.int8(np.int32(codes[d]) << cut)) >> cut
                total = np.int32(total + np.int32(np.int32(query[d]) * np.int32(code)))
        score[i] = total
    for i in range(n):
        score[i] <<= LSB_BITS


@inner
def _score_lsb(
    query: NDArray[np.int16],
    memory: NDArray[np.uint8],
    base: int,
    ids: NDArray[np.int64],
    n: int,
    score: NDArray[np.int32],
) -> None:
    """Add q . lsb to scores; only the low 4 bits of a code count."""
    for i in range(n):
        address = (base + ids[i]) & _ADDRESS
        if address < memory.shape[0]:
            codes = memory[address]
            total = np.int32(0)
            for d in range(query.size):
                total = np.int32(total + np.int32(np.int32(query[d]) * np.int32(codes[d] & 15)))
            score[i] += total


@inner
def _distances(
    plan: Plan,
    command: NDArray[np.int64],
    score: NDArray[np.int32],
    distance: NDArray[np.int32],
    n: int,
) -> Any:
    """Set distances from the largest score; return the logarithm L of the exponentials' sum."""
    largest = score[0]
    for i in range(n):
        largest = max(largest, score[i])
    # Differences are cut at the least that has no weight, then a distance fits 32 bits.
    mult = command[MULT]
    shift = command[SHIFT]
    half = np.int64(1) << shift >> 1
    least = ((NO_WEIGHT << shift) - half + mult - 1) // mult if mult else np.int64(0)
    most = np.uint32(min(least, _ADDRESS))
    factor, offset, places = np.uint32(mult), np.uint64(half), np.uint64(shift)
    for i in range(n):
        difference = min(np.uint32(np.uint32(largest) - np.uint32(score[i])), most)
        product = np.uint64(np.uint64(difference) * np.uint64(factor)) + offset
        distance[i] = min(np.uint32(product >> places), np.uint32(NO_WEIGHT))
    # 25 bits shifted by 31 are 0: NO_WEIGHT needs no case of its own.
    total = np.int64(0)
    for i in range(n):
        total += plan.pow[distance[i] & _FRACTION] >> (distance[i] >> FRACTION_BITS)
    leading = EXP_BITS
    while total >> (leading + 1):
        leading += 1
    below = total >> (leading - LOG_INDEX_BITS) & ((1 << LOG_INDEX_BITS) - 1)
    return ((leading - EXP_BITS) << FRACTION_BITS) + plan.log[below]


@inner
def _weigh(
    table: NDArray[np.int32],
    distance: NDArray[np.int32],
    level: int,
    probability: NDArray[np.int32],
    n: int,
) -> Any:
    """Set probabilities; return their sum."""
    total = np.int64(0)
    for i in range(n):
        u = distance[i] + level
        # From 26 on everything rounds to 0, NO_WEIGHT's 33 too; 30 keeps the sum within 32 bits.
        r = min(_P_SHIFT + (u >> FRACTION_BITS), 30)
        rounded = (table[u & _FRACTION] + (np.int32(1) << (r - 1))) >> r
        p = min(rounded, _P_MAX)
        probability[i] = p
        total += p
    return total


@entry
def _output(
    program: Program,
    command: NDArray[np.int64],
    ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    work: Work,
    record: Record,
) -> None:
    """Sum the kept values, requantise, and add to the head's importance."""
    acc = work.acc
    memory = program.value
    cut = 8 - command[VALUE_BITS]
    for d in range(acc.size):
        acc[d] = 0
    there = 0
    for j in range(positions.size):
        i = positions[j]
        address = (command[VALUE] + ids[i]) & _ADDRESS
        if address < memory.shape[0]:
            prefetch(memory, address)
            work.address[there] = address
            work.weight[there] = work.probability[i]
            there += 1
    if cut == 0 and there and acc.size % CODES == 0:
        add_weighted(work.weight, memory, work.address, there, acc)
    else:
        for j in range(there):
            p = work.weight[j]
            codes = memory[work.address[j]]
            for d in range(acc.size):
                code = np.int32(np.int8(np.int32(codes[d]) << cut)) >> cut
                acc[d] += np.int32(p * code)
    total = np.int64(0)
    for d in range(acc.size):
        rounded = rne_shift(np.int64(acc[d]) * command[OUT_MULT], command[OUT_SHIFT])
        output = saturate(rounded, -32768, 32767)
        record.y[command[NUMBER], d] = output
        total += abs(output)
    record.head_importance[command[HEAD]] += total
