# SPDX-License-Identifier: Apache-2.0
"""Load, input queue and buffer, and the issue of steps, register by register (section 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.lib.record import Record, mark
from sim.lib.stalls import Stalls, is_stalled
from sim.xnor.counts import (
    INPUT_READS,
    INPUT_WRITES,
    JOB_BEATS,
    LOAD_BEATS,
    WEIGHT_READS,
    X_BEATS,
    XNOR,
)
from sim.xnor.pipeline import Pipeline
from sim.xnor.plan import (
    FIRST_ISSUE,
    LAST_ISSUE,
    QUEUE_BEATS,
    X_STREAM,
    Contents,
    Plan,
)

SEQUENCER = np.dtype(
    [
        ("busy", np.int64),  # a job was transferred
        ("loaded", np.int64),
        # The beat that i_x brings next.
        ("in_vector", np.int64),
        ("in_fold", np.int64),
        # The queue: place of the oldest beat, and beats in it.
        ("head", np.int64),
        ("count", np.int64),
        # The step that is issued next, and the class of its vector.
        ("vector", np.int64),
        ("output_fold", np.int64),
        ("input_fold", np.int64),
        ("border", np.int64),
    ]
)


class Front(NamedTuple):
    """Registers and memories up to the issue of a step.

    Attributes
    ----------
    sequencer : record array of SEQUENCER, one entry
    load_left : int64[3]
        Beats that i_w, i_c and i_e still bring.
    queue : uint8[QUEUE_BEATS, simd]
        Bits of beats, one each.
    borders : int64[QUEUE_BEATS]
        Their classes.
    buffer : uint8[SF, simd]
        Bits of the vector, for its folds after the first.
    """

    sequencer: Any
    load_left: NDArray[np.int64]
    queue: NDArray[np.uint8]
    borders: NDArray[np.int64]
    buffer: NDArray[np.uint8]


def make_front(plan: Plan) -> Front:
    """Return an idle engine's registers."""
    return Front(
        np.zeros(1, dtype=SEQUENCER).view(np.recarray),
        plan.load_beats.copy(),
        np.zeros((QUEUE_BEATS, plan.simd), dtype=np.uint8),
        np.zeros(QUEUE_BEATS, dtype=np.int64),
        np.zeros((plan.input_folds, plan.simd), dtype=np.uint8),
    )


@inner
def load_cycle(front: Front, stalls: Stalls, record: Record, t: int) -> None:
    """Transfer the job, or what its streams load."""
    s = front.sequencer[0]
    left = 0
    for stream in range(front.load_left.size):
        if s.busy and front.load_left[stream] and not is_stalled(stalls, stream, t):
            front.load_left[stream] -= 1
            record.counts[LOAD_BEATS + stream] += 1
        left += front.load_left[stream]
    s.loaded = left == 0
    if not s.busy:
        s.busy = 1
        record.counts[JOB_BEATS] += 1


@inner
def input_cycle(
    plan: Plan, contents: Contents, front: Front, stalls: Stalls, record: Record, t: int
) -> None:
    """Transfer a beat to the queue; called before `issue_step`, which makes room."""
    s = front.sequencer[0]
    ready = s.busy and s.in_vector < plan.m and s.count < QUEUE_BEATS
    if not ready or is_stalled(stalls, X_STREAM, t):
        return
    place = (s.head + s.count) % QUEUE_BEATS
    first = s.in_fold * plan.simd
    for lane in range(plan.simd):
        k = first + lane
        bit = contents.x[s.in_vector, k >> 6] >> np.uint64(k & 63) if k < plan.k else np.uint64(0)
        front.queue[place, lane] = bit & np.uint64(1)
    front.borders[place] = contents.border[s.in_vector]
    s.count += 1
    s.in_fold += 1
    if s.in_fold == plan.input_folds:
        s.in_fold = 0
        s.in_vector += 1
    record.counts[X_BEATS] += 1


@inner
def can_issue(plan: Plan, front: Front) -> bool:
    """Whether the next step has its operands."""
    s = front.sequencer[0]
    return s.loaded != 0 and s.vector < plan.m and (s.output_fold > 0 or s.count > 0)


@inner
def issue_step(
    plan: Plan,
    contents: Contents,
    front: Front,
    pipeline: Pipeline,
    slot: int,
    record: Record,
    t: int,
) -> None:
    """Issue a step into a slot of the pipeline: its operands are on their way to the tree."""
    s = front.sequencer[0]
    bits = front.buffer[s.input_fold]
    if s.output_fold == 0:
        for lane in range(plan.simd):
            bits[lane] = front.queue[s.head, lane]
        if s.input_fold == 0:
            s.border = front.borders[s.head]
            mark(record, s.vector, FIRST_ISSUE, t)
        s.head = (s.head + 1) % QUEUE_BEATS
        s.count -= 1
        record.counts[INPUT_WRITES] += 1
    else:
        record.counts[INPUT_READS] += 1
    record.counts[WEIGHT_READS] += 1
    _count_mismatches(plan, contents, s.output_fold, s.input_fold, bits, pipeline.values[slot])
    inputs = min(plan.simd, plan.k - s.input_fold * plan.simd)
    record.counts[XNOR] += inputs * min(plan.pe, plan.n - s.output_fold * plan.pe)
    stage = pipeline.stages[slot]
    stage.vector = s.vector
    stage.output_fold = s.output_fold
    stage.border = s.border
    stage.first = s.input_fold == 0
    stage.last = s.input_fold == plan.input_folds - 1
    s.input_fold += 1
    if s.input_fold == plan.input_folds:
        s.input_fold = 0
        s.output_fold += 1
        if s.output_fold == plan.output_folds:
            s.output_fold = 0
            mark(record, s.vector, LAST_ISSUE, t)
            s.vector += 1


@inner
def _count_mismatches(
    plan: Plan,
    contents: Contents,
    output_fold: int,
    input_fold: int,
    bits: NDArray[np.uint8],
    mismatches: NDArray[np.int64],
) -> None:
    """Count the inputs of a tile that differ from a weight that is not 0."""
    planes = contents.w.shape[1]
    first = input_fold * plan.simd
    for lane in range(min(plan.pe, plan.n - output_fold * plan.pe)):
        weights = contents.w[output_fold * plan.pe + lane]
        total = np.int64(0)
        for k in range(first, min(first + plan.simd, plan.k)):
            word, place = k >> 6, np.uint64(k & 63)
            differs = (weights[0, word] >> place ^ np.uint64(bits[k - first])) & np.uint64(1)
            if planes == 2:
                differs &= weights[1, word] >> place
            total += np.int64(differs)
        mismatches[lane] = total
