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
from sim.lib.product import AHEAD, CODES, DOTS, add_weighted, dots
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
    score, distance, probability : int32[max_tokens]
    key : int64[max_tokens]
        Addresses of the keys.
    weight, value_row : int32[max_tokens], int64[max_tokens + AHEAD]
        Probabilities of the kept values that lie within their memory, and their addresses.
    acc : int32[D]
    value_jobs, token_jobs : sim.topk.plan.Jobs
        One job of each selector; `codes` of values is int32[max_tokens], for comparisons of
        twice as many at once.
    value, token : sim.topk.fast.Work
    """

    score: NDArray[np.int32]
    distance: NDArray[np.int32]
    probability: NDArray[np.int32]
    key: NDArray[np.int64]
    weight: NDArray[np.int32]
    value_row: NDArray[np.int64]
    acc: NDArray[np.int32]
    value_jobs: Jobs
    token_jobs: Jobs
    value: topk.Work
    token: topk.Work


def make_work(plan: Plan, selectors: Selectors) -> Work:
    """Return room for the longest row."""
    most = plan.max_tokens

    def job(dtype: Any) -> Jobs:
        pair = np.zeros(2, dtype=np.int64)
        return Jobs(np.zeros(most, dtype=dtype), pair, np.zeros(1, dtype=np.int64), pair.copy())

    return Work(
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int32),
        np.zeros(most, dtype=np.int64),
        np.zeros(most, dtype=np.int32),
        np.zeros(most + AHEAD, dtype=np.int64),
        np.zeros(plan.head_dim, dtype=np.int32),
        job(np.int32),
        job(np.int64),
        topk.make_work(selectors.value, most, np.int32),
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
            _score_msb(program, command, ids, work)
            _softmax(plan, program, command, ids, work, record)
            for i in range(command[N]):
                work.value_jobs.codes[i] = work.distance[i] ^ np.int32(selectors.value_mask)
            value_state = _select(
                selectors.value, command, work.value_jobs, work.value, value_record, value_state,
                values,
            )  # fmt: skip
            _output(program, command, ids, work, record)
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
                work.token_jobs.codes[i] = key ^ selectors.token_mask
            token_state = _select(
                selectors.token, command, work.token_jobs, work.token, token_record, token_state,
                selections,
            )  # fmt: skip
            for i in range(command[K_WANTED]):
                record.kept[kept] = work.token.kept[i]
                kept += 1
                if op == TOKENS:
                    ids[i] = work.token.kept[i]
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
def _score_msb(
    program: Program, command: NDArray[np.int64], ids: NDArray[np.int64], work: Work
) -> None:
    """Set scores to 16 q . msb; only the low MSB_BITS bits of a code count, signed."""
    n = command[N]
    base = command[KEY_MSB]
    cut = 8 - command[MSB_BITS]
    query = program.query[command[NUMBER]]
    memory = program.key_msb
    key = work.key
    score = work.score
    past = np.int64(0)
    for i in range(n):
        key[i] = (base + ids[i]) & _ADDRESS
        past |= np.int64(key[i] >= memory.shape[0])
    whole = 0
    if cut == 0 and past == 0 and query.size % CODES == 0:
        whole = n // DOTS * DOTS
        for i in range(0, whole, DOTS):
            dots(query, memory, key, score, i)
    for i in range(whole, n):
        total = np.int32(0)
        if key[i] < memory.shape[0]:
            codes = memory[key[i]]
            for d in range(query.size):
                code = np.int32(np.int8(np.int32(codes[d]) << cut)) >> cut
                total = np.int32(total + np.int32(np.int32(query[d]) * np.int32(code)))
        score[i] = total
    for i in range(n):
        score[i] <<= LSB_BITS


@entry
def _softmax(
    plan: Plan,
    program: Program,
    command: NDArray[np.int64],
    ids: NDArray[np.int64],
    work: Work,
    record: Record,
) -> None:
    """Compute distances and probabilities, with the LSBs if the row is flat."""
    n = command[N]
    row = command[NUMBER]
    level = _distances(plan, command, work, n)
    if command[LSB_LOW] <= level <= command[LSB_HIGH]:
        record.redo[row] = 1
        _score_lsb(program.query[row], program.key_lsb, command[KEY_LSB], ids, n, work.score)
        level = _distances(plan, command, work, n)
    record.added[row] = _weigh(plan, work, level, n)
    if command[ADD]:
        first = ids[0]
        if ids[n - 1] - first == n - 1:  # no gap, as before the first pruning: in vectors
            run = record.importance[first : first + n]
            for i in range(n):
                run[i] += work.probability[i]
        else:
            for i in range(n):
                record.importance[ids[i]] += work.probability[i]


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


# A table is read key by key, the arithmetic around it in vectors: hence loops of their own.


@inner
def _distances(plan: Plan, command: NDArray[np.int64], work: Work, n: int) -> Any:
    """Set distances from the largest score; return the logarithm L of the exponentials' sum."""
    score = work.score
    distance = work.distance
    power = work.probability  # not needed yet
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
    _look_up(plan, work, np.int32(0), n)
    # 25 bits shifted by 31 are 0: NO_WEIGHT needs no case of its own.
    total = np.int64(0)
    for i in range(n):
        total += np.uint32(np.uint32(power[i]) >> np.uint32((distance[i] >> FRACTION_BITS) & 31))
    leading = EXP_BITS
    while total >> (leading + 1):
        leading += 1
    below = total >> (leading - LOG_INDEX_BITS) & ((1 << LOG_INDEX_BITS) - 1)
    return ((leading - EXP_BITS) << FRACTION_BITS) + plan.log[below]


@inner
def _look_up(plan: Plan, work: Work, offset: np.int32, n: int) -> None:
    """Set `work.probability` to POW of the fraction of distances plus an offset."""
    for i in range(n):
        # Unsigned, an index needs no test for a negative one.
        at = np.uint32(work.distance[i] + offset) & np.uint32(_FRACTION)
        work.probability[i] = plan.pow[at]


@inner
def _weigh(plan: Plan, work: Work, level: int, n: int) -> Any:
    """Set probabilities; return their sum."""
    offset = np.int32(level)
    distance = work.distance
    probability = work.probability
    _look_up(plan, work, offset, n)
    total = np.int32(0)
    for i in range(n):
        whole = np.int32(np.int32(distance[i] + offset) >> FRACTION_BITS)
        # r - 1 of section 1. From 25 on all rounds to 0, NO_WEIGHT's 32 too; 31 would not fit.
        places = np.uint32(min(np.int32(whole + (_P_SHIFT - 1)), np.int32(29)))
        rounded = np.uint32(np.uint32(np.uint32(probability[i]) >> places) + np.uint32(1)) >> 1
        p = np.int32(min(np.uint32(rounded), np.uint32(_P_MAX)))
        probability[i] = p
        total = np.int32(total + p)
    return np.int64(total)


@entry
def _output(
    program: Program, command: NDArray[np.int64], ids: NDArray[np.int64], work: Work, record: Record
) -> None:
    """Sum the kept values, requantise, and add to the head's importance."""
    acc = work.acc
    memory = program.value
    cut = 8 - command[VALUE_BITS]
    for d in range(acc.size):
        acc[d] = 0
    there = np.uint64(0)  # unsigned, an index needs no test for a negative one
    for j in range(command[K_WANTED]):
        i = np.uint64(work.value.kept[j])
        address = (command[VALUE] + ids[i]) & _ADDRESS
        work.value_row[there] = address
        work.weight[there] = work.probability[i]
        there += np.uint64(address < memory.shape[0])
    if cut == 0 and acc.size % CODES == 0:
        add_weighted(work.weight, memory, work.value_row, int(there), acc)
    else:
        for j in range(there):
            p = work.weight[j]
            codes = memory[work.value_row[j]]
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
