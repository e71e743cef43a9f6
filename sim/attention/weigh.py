# SPDX-License-Identifier: Apache-2.0
"""Sum and weigh, one cycle at a time (sections 5.3 and 5.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import (
    EXP_BITS,
    FRACTION_BITS,
    LOG_INDEX_BITS,
    NO_WEIGHT,
    PROBABILITY_BITS,
)
from sim.attention.counts import (
    DISTANCE_READ,
    DISTANCE_WRITE,
    EXP,
    IMPORTANCE_ADD,
    REDO_ROWS,
    SCORE_READ,
    WEIGH,
)
from sim.attention.plan import (
    ADD,
    DECIDED,
    HANDOVER,
    LSB_HIGH,
    LSB_LOW,
    MULT,
    NUMBER,
    SHIFT,
    SUM,
    N,
    Plan,
    Program,
    Record,
)
from sim.attention.score import Score
from sim.lib.kernel import inner, outlined

IDLE, SUMMING, FLAT, DECISION = range(4)
"""What sum is doing: nothing; a row; showing that it is flat; waiting to hand it over."""

DISTANCE_WRITTEN = 6
"""Cycles from the issue of a row of scores until its distances are written."""

SUMMED = 9
"""Cycles from the issue of a row of scores until S holds it, without the lane tree."""

WEIGH_STAGES = 7
"""Cycles from the issue of a row of distances until its importance is written, plus one."""

SUMMER = np.dtype(
    [
        ("state", np.int64),
        ("bank", np.int64),  # of the scores of the next row, or of the row at work
        ("issued", np.int64),
        ("rows", np.int64),
        ("wait", np.int64),  # cycles until the decision is visible, once all rows are issued
        ("total", np.int64),  # S
        ("level", np.int64),  # L
        ("written", np.int64),  # the distance bank that sum writes
    ]
)

WEIGHER = np.dtype(
    [
        ("busy", np.int64),
        ("command", np.int64),
        ("level", np.int64),
        ("issued", np.int64),
        ("rows", np.int64),
        ("wait", np.int64),  # cycles until idle, once all rows are issued
    ]
)


class Weigh(NamedTuple):
    """Registers and memories of sum and weigh.

    Attributes
    ----------
    summer, weigher : record arrays of SUMMER and WEIGHER, one entry each
    distances : int64[2, max_tokens]
    rows, weights : int64[9 + T_g], int64[9 + T_g]
        Row of scores issued (-1: none) and its sum of exponentials, by cycle.
    lanes : int64[9 + T_g, G]
        Its distances.
    out_rows : int64[7]
        Row of distances issued (-1: none), by cycle.
    importance : int64[G, max_tokens]
        Each lane's copy of I.
    """

    summer: Any
    weigher: Any
    distances: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.int64]
    lanes: NDArray[np.int64]
    out_rows: NDArray[np.int64]
    importance: NDArray[np.int64]


def make_weigh(plan: Plan, importance: NDArray[np.int64]) -> Weigh:
    """Return idle stages; what I holds is in the first lane's copy."""
    stages = SUMMED + plan.lane_tree
    copies = np.zeros((plan.lanes, plan.max_tokens), dtype=np.int64)
    copies[0] = importance
    return Weigh(
        np.zeros(1, dtype=SUMMER).view(np.recarray),
        np.zeros(1, dtype=WEIGHER).view(np.recarray),
        np.zeros((2, plan.max_tokens), dtype=np.int64),
        np.full(stages, -1, dtype=np.int64),
        np.zeros(stages, dtype=np.int64),
        np.zeros((stages, plan.lanes), dtype=np.int64),
        np.full(WEIGH_STAGES, -1, dtype=np.int64),
        copies,
    )


@inner
def probability(plan: Plan, distance: int, level: int) -> Any:
    """Return p of a distance t with logarithm L, int64."""
    if distance == NO_WEIGHT:
        return 0
    u = distance + level
    r = EXP_BITS - PROBABILITY_BITS + (u >> FRACTION_BITS)
    rounded = (np.int64(plan.pow[u & ((1 << FRACTION_BITS) - 1)]) + (np.int64(1) << (r - 1))) >> r
    return min(rounded, (1 << PROBABILITY_BITS) - 1)


@outlined
def sum_cycle(
    plan: Plan,
    program: Program,
    score: Score,
    weigh: Weigh,
    starts: bool,
    record: Record,
    t: int,
) -> None:
    """Clock sum at the end of cycle t; `starts`: it takes the next row in this cycle."""
    s = weigh.summer[0]
    stages = weigh.rows.size
    command = program.commands[score.command[s.bank]]
    n = command[N]
    if starts:
        s.state = SUMMING
        s.issued = 0
        s.rows = -(-n // plan.lanes)
        s.total = 0
        s.wait = plan.decision_latency + 1
        record.marks[command[NUMBER], SUM] = t
    if s.state == FLAT:
        s.state = IDLE
    if s.state != SUMMING:
        return
    # Ends: S, then what follows it.
    row = weigh.rows[(t + 1) % stages]
    if row >= 0:
        s.total += weigh.weights[(t + 1) % stages]
    if s.issued == s.rows:
        s.wait -= 1
        if s.wait == 0:
            _decide(plan, command, score, weigh, record, t)
    # Middle: distances are written.
    slot = (t - DISTANCE_WRITTEN) % stages
    row = weigh.rows[slot]
    if row >= 0:
        for lane in range(min(plan.lanes, n - row * plan.lanes)):
            weigh.distances[s.written, row * plan.lanes + lane] = weigh.lanes[slot, lane]
        record.counts[DISTANCE_WRITE] += 1
    # Issue.
    weigh.rows[t % stages] = -1
    if s.state == SUMMING and s.issued < s.rows:
        _issue_scores(plan, command, score, weigh, t % stages)
        record.counts[SCORE_READ] += 1
        record.counts[EXP] += min(plan.lanes, n - (s.issued - 1) * plan.lanes)
        if s.issued == s.rows:
            s.wait -= 1


@inner
def _issue_scores(
    plan: Plan, command: NDArray[np.int64], score: Score, weigh: Weigh, slot: int
) -> None:
    """Read a row of scores; compute its distances and their exponentials' sum."""
    s = weigh.summer[0]
    first = s.issued * plan.lanes
    half = np.int64(1) << command[SHIFT] >> 1
    total = np.int64(0)
    for lane in range(min(plan.lanes, command[N] - first)):
        difference = score.largest[s.bank] - score.scores[s.bank, first + lane]
        distance = min((difference * command[MULT] + half) >> command[SHIFT], NO_WEIGHT)
        weigh.lanes[slot, lane] = distance
        if distance < NO_WEIGHT:
            total += plan.pow[distance & 255] >> (distance >> FRACTION_BITS)
    weigh.rows[slot] = s.issued
    weigh.weights[slot] = total
    s.issued += 1


@inner
def _decide(
    plan: Plan, command: NDArray[np.int64], score: Score, weigh: Weigh, record: Record, t: int
) -> None:
    """Form the logarithm and test the LSB rule; visible in cycle t + 1."""
    s = weigh.summer[0]
    leading = EXP_BITS
    while s.total >> (leading + 1):
        leading += 1
    below = s.total >> (leading - LOG_INDEX_BITS) & ((1 << LOG_INDEX_BITS) - 1)
    s.level = ((leading - EXP_BITS) << FRACTION_BITS) + plan.log[below]
    s.state = DECISION
    record.marks[command[NUMBER], DECIDED] = t + 1
    flat = command[LSB_LOW] <= s.level <= command[LSB_HIGH]
    if flat and not score.redone[s.bank]:
        s.state = FLAT
        score.complete[s.bank] = 0
        score.fetch[0].redo = 1
        score.fetch[0].redo_bank = s.bank
        record.redo[command[NUMBER]] = 1
        record.counts[REDO_ROWS] += 1


@outlined
def hand_over(
    plan: Plan, program: Program, score: Score, weigh: Weigh, record: Record, t: int
) -> None:
    """Give sum's row to weigh, its score bank back, and exchange the distance banks."""
    s = weigh.summer[0]
    w = weigh.weigher[0]
    w.busy = 1
    w.command = score.command[s.bank]
    w.level = s.level
    w.issued = 0
    w.rows = -(-program.commands[w.command, N] // plan.lanes)
    w.wait = plan.weigh_latency - 1
    score.complete[s.bank] = 0
    score.fetch[0].free_banks += 1
    s.state = IDLE
    s.bank = s.bank + 1 if s.bank + 1 < plan.score_banks else 0
    s.written = 1 - s.written
    record.marks[program.commands[w.command, NUMBER], HANDOVER] = t


@outlined
def weigh_cycle(
    plan: Plan,
    program: Program,
    weigh: Weigh,
    tokens: NDArray[np.int64],
    codes: NDArray[np.int64],
    mask: int,
    record: Record,
    t: int,
) -> bool:
    """Clock weigh at the end of cycle t.

    Parameters
    ----------
    codes : int64[n]
        The selector's keys of the row; a row of them is written when it is transferred.
    mask : int
        A distance exclusive-or this is its order code.

    Returns
    -------
    bool
        Whether a row of keys was transferred to the selector in this cycle.
    """
    w = weigh.weigher[0]
    if not w.busy:
        return False
    command = program.commands[w.command]
    number = command[NUMBER]
    read = 1 - weigh.summer[0].written
    # Issued six cycles ago: importance is written.
    row = weigh.out_rows[(t + 1) % WEIGH_STAGES]
    if row >= 0:
        first = row * plan.lanes
        for lane in range(min(plan.lanes, command[N] - first)):
            p = probability(plan, weigh.distances[read, first + lane], w.level)
            record.added[number] += p
            if command[ADD]:
                weigh.importance[lane, tokens[first + lane]] += p
                record.counts[IMPORTANCE_ADD] += 1
    # Issued in the last cycle: keys.
    row = weigh.out_rows[(t - 1) % WEIGH_STAGES]
    if row >= 0:
        for i in range(row * plan.lanes, min((row + 1) * plan.lanes, command[N])):
            codes[i] = weigh.distances[read, i] ^ mask
    if w.issued == w.rows:
        w.wait -= 1
        w.busy = w.wait > 0
    weigh.out_rows[t % WEIGH_STAGES] = -1
    if w.issued < w.rows:
        weigh.out_rows[t % WEIGH_STAGES] = w.issued
        record.counts[DISTANCE_READ] += 1
        record.counts[WEIGH] += min(plan.lanes, command[N] - w.issued * plan.lanes)
        w.issued += 1
    return row >= 0
