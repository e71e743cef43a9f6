# SPDX-License-Identifier: Apache-2.0
"""Fetch and score, one cycle at a time (sections 5.1 and 5.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import LSB_BITS
from sim.attention.counts import (
    K_BEATS,
    K_LSB_BYTES,
    K_MSB_BYTES,
    MAC_QK,
    Q_BEATS,
    SCORE_READ,
    SCORE_WRITE,
)
from sim.attention.memory import Port, make_port, read_codes, request
from sim.attention.plan import (
    COMPLETE,
    KEY_LSB,
    KEY_MSB,
    LSB_PLANE,
    MSB_BITS,
    MSB_PLANE,
    NUMBER,
    START,
    N,
    Plan,
    Program,
    Record,
)
from sim.lib.kernel import inner, outlined

FETCH = np.dtype(
    [
        ("busy", np.int64),
        ("bank", np.int64),
        ("plane", np.int64),
        ("delay", np.int64),  # cycles until the first request may be valid
        ("beat", np.int64),  # next request
        ("beats", np.int64),
        ("next_bank", np.int64),
        ("free_banks", np.int64),
        ("redo", np.int64),  # a redo is pending
        ("redo_bank", np.int64),
        ("launched", np.int64),  # score beats
    ]
)

BEAT = np.dtype(
    [
        ("bank", np.int64),
        ("plane", np.int64),
        ("row", np.int64),  # of the score bank
        ("keys", np.int64),  # kept lanes, 0 for a bubble
        ("last", np.int64),  # of its pass
    ]
)
"""A beat of keys, in the port's ring or in the score pipeline."""


class Score(NamedTuple):
    """Registers and memories of fetch and score.

    Attributes
    ----------
    fetch : record array of FETCH, one entry
    port : Port
    beats : record array of BEAT[F]
        What each slot of the port holds.
    pipe : record array of BEAT[complete_latency]
        Beats launched, by cycle.
    sums : int64[complete_latency, G]
        Their sums, then scores.
    command, redone, complete, largest : int64[3]
        Of each bank's row: its command, whether it is in its LSB pass, whether all scores are
        there, and the largest.
    query : int64[3, D]
    scores : int64[3, max_tokens]
    """

    fetch: Any
    port: Port
    beats: Any
    pipe: Any
    sums: NDArray[np.int64]
    command: NDArray[np.int64]
    redone: NDArray[np.int64]
    complete: NDArray[np.int64]
    largest: NDArray[np.int64]
    query: NDArray[np.int64]
    scores: NDArray[np.int64]


def make_score(plan: Plan) -> Score:
    """Return idle stages."""
    banks, stages = plan.score_banks, plan.complete_latency
    fetch = np.zeros(1, dtype=FETCH).view(np.recarray)
    fetch.free_banks = banks
    return Score(
        fetch,
        make_port(plan),
        np.zeros(plan.fetch_beats, dtype=BEAT).view(np.recarray),
        np.zeros(stages, dtype=BEAT).view(np.recarray),
        np.zeros((stages, plan.lanes), dtype=np.int64),
        np.zeros(banks, dtype=np.int64),
        np.zeros(banks, dtype=np.int64),
        np.zeros(banks, dtype=np.int64),
        np.zeros(banks, dtype=np.int64),
        np.zeros((banks, plan.head_dim), dtype=np.int64),
        np.zeros((banks, plan.max_tokens), dtype=np.int64),
    )


@outlined
def start_row(program: Program, score: Score, command: int, record: Record, t: int) -> None:
    """Take a row command, its query and a bank."""
    f = score.fetch[0]
    bank = f.next_bank
    row = program.commands[command, NUMBER]
    f.next_bank = bank + 1 if bank + 1 < score.command.size else 0
    f.free_banks -= 1
    score.command[bank] = command
    score.redone[bank] = 0
    score.complete[bank] = 0
    for d in range(score.query.shape[1]):
        score.query[bank, d] = program.query[row, d]
    record.counts[Q_BEATS] += 1
    record.marks[row, START] = t
    _start(program, score, bank, MSB_PLANE)


@inner
def start_redo(program: Program, score: Score) -> None:
    """Take the pending redo."""
    f = score.fetch[0]
    f.redo = 0
    score.redone[f.redo_bank] = 1
    _start(program, score, f.redo_bank, LSB_PLANE)


@inner
def _start(program: Program, score: Score, bank: int, plane: int) -> None:
    f = score.fetch[0]
    n = program.commands[score.command[bank], N]
    f.busy = 1
    f.bank = bank
    f.plane = plane
    f.delay = 2
    f.beat = 0
    f.beats = -(-n // score.sums.shape[1])


@outlined
def request_keys(
    plan: Plan,
    program: Program,
    score: Score,
    tokens: NDArray[np.int64],
    queue: NDArray[np.int64],
    counts: NDArray[np.int64],
    t: int,
) -> None:
    """Transfer the request for the next G positions of the list."""
    f = score.fetch[0]
    command = program.commands[score.command[f.bank]]
    first = f.beat * plan.lanes
    keys = min(plan.lanes, command[N] - first)
    bits = command[MSB_BITS] if f.plane == MSB_PLANE else LSB_BITS
    base = command[KEY_MSB] if f.plane == MSB_PLANE else command[KEY_LSB]
    size = keys * plan.head_dim * bits // 8
    slot = request(plan, score.port, queue, size, t)
    for lane in range(plan.lanes):
        address = (base + tokens[first + lane]) & 0xFFFFFFFF if lane < keys else -1
        score.port.address[slot, lane] = address
    beat = score.beats[slot]
    beat.bank = f.bank
    beat.plane = f.plane
    beat.row = f.beat
    beat.keys = keys
    f.beat += 1
    beat.last = f.beat == f.beats
    f.busy = 0 if beat.last else 1
    counts[K_MSB_BYTES if f.plane == MSB_PLANE else K_LSB_BYTES] += size


@outlined
def receive_keys(
    plan: Plan, program: Program, score: Score, slot: int, counts: NDArray[np.int64]
) -> None:
    """Take the response that comes into a slot."""
    beat = score.beats[slot]
    if beat.plane == MSB_PLANE:
        bits = program.commands[score.command[beat.bank], MSB_BITS]
        read_codes(plan, score.port, slot, program.key_msb, bits, True)
    else:
        read_codes(plan, score.port, slot, program.key_lsb, LSB_BITS, False)
    counts[K_BEATS] += 1


@outlined
def score_cycle(
    plan: Plan, program: Program, score: Score, launched: bool, record: Record, t: int
) -> None:
    """Clock the pipeline at the end of cycle t; `launched`: the oldest usable beat enters it."""
    stages = plan.complete_latency
    counts = record.counts
    # Ends: the maximum takes the row whose lanes were compared.
    beat = score.pipe[(t + 1) % stages]
    if beat.keys:
        sums = score.sums[(t + 1) % stages]
        largest = sums[0] if beat.row == 0 else score.largest[beat.bank]
        for lane in range(beat.keys):
            largest = max(largest, sums[lane])
        score.largest[beat.bank] = largest
        if beat.last:
            score.complete[beat.bank] = 1
            row = program.commands[score.command[beat.bank], NUMBER]
            record.marks[row, COMPLETE] = t + 1
    # Middle: scores are written.
    slot = (t - plan.stored_latency) % stages
    beat = score.pipe[slot]
    if beat.keys:
        first = beat.row * plan.lanes
        for lane in range(beat.keys):
            if beat.plane == LSB_PLANE:
                score.sums[slot, lane] += score.scores[beat.bank, first + lane]
            score.scores[beat.bank, first + lane] = score.sums[slot, lane]
        counts[SCORE_WRITE] += 1
        counts[SCORE_READ] += beat.plane == LSB_PLANE
    # Launch.
    entry = score.pipe[t % stages]
    entry.keys = 0
    if not launched:
        return
    f = score.fetch[0]
    slot = f.launched & (plan.fetch_beats - 1)
    f.launched += 1
    beat = score.beats[slot]
    entry.bank = beat.bank
    entry.plane = beat.plane
    entry.row = beat.row
    entry.keys = beat.keys
    entry.last = beat.last
    weight = 1 if beat.plane == LSB_PLANE else 1 << LSB_BITS
    for lane in range(beat.keys):
        total = 0
        for d in range(plan.head_dim):
            total += score.query[beat.bank, d] * score.port.codes[slot, lane, d]
        score.sums[t % stages, lane] = total * weight
    counts[MAC_QK] += beat.keys * plan.head_dim
