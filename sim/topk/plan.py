# SPDX-License-Identifier: Apache-2.0
"""Jobs on one engine as plain integers: what the kernels take, and what they leave behind.

Section numbers in this package refer to docs/engines/topk.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.topk import LOAD_LATENCY, PASS_LATENCY, TopkSpec
from sim.lib.kernel import inner
from sim.topk.counts import NAMES, PASSES

JOB_STREAM, KEYS_STREAM, ITEMS_STREAM = range(3)
STALL_NAMES = ("job", "keys", "items")

CAUSES = ("stalled_out", "filter", "select", "load", "stalled_in", "handoff")
STALLED_OUT, FILTER, SELECT, LOAD, STALLED_IN, HANDOFF = range(6)
"""What a cycle was spent on (section 6)."""

ITEM = np.dtype([("key", np.int64), ("index", np.int64)])
"""One kept key and its position in its job."""

JOB = np.dtype(
    [
        ("n", np.int64),
        ("k", np.int64),
        ("items", np.int64),
        ("passes", np.int64),
        ("accepted", np.int64),
        ("last_input", np.int64),
        ("selected", np.int64),
        ("decided", np.int64),
        ("filtered", np.int64),
        ("last_output", np.int64),
    ]
)
"""One job: its shape, items emitted, passes, and the cycles of its transfer, of its last row's
transfer, of the handoff to select (h), of the decision (c), of the handoff to filter (f), and of
its last output transfer."""

PASS = np.dtype([("job", np.int64), ("start", np.int64), ("keys", np.int64), ("end", np.int64)])
"""One pass of select: the cycle in which it starts, the keys that it reads, and the cycle in which
its result is visible."""

PASSED, ACCEPTED, LAST_INPUT, SELECTED, DECIDED, FILTERED, LAST_OUTPUT = range(7)
"""Columns of `Record.marks`."""


class Plan(NamedTuple):
    """Numbers of one engine (section 2)."""

    radix: int
    lanes: int
    key_bits: int
    buffers: int
    depth: int
    seed: int
    load_latency: int
    pass_latency: int
    shift: NDArray[np.int64]
    width: NDArray[np.int64]


class Jobs(NamedTuple):
    """Jobs, one after the other.

    Attributes
    ----------
    codes : int64[...]
        Order codes of all keys.
    first : int64[jobs + 1]
        Where a job's keys begin in `codes`.
    k : int64[jobs]
        How many are wanted.
    first_item : int64[jobs + 1]
        Where a job's items begin in the result.
    """

    codes: NDArray[np.int64]
    first: NDArray[np.int64]
    k: NDArray[np.int64]
    first_item: NDArray[np.int64]


class Record(NamedTuple):
    """What a simulation leaves behind; filled in place.

    Attributes
    ----------
    item_codes, item_indices : int64[items]
        Kept keys as order codes, and their positions.
    counts, causes : int64[...]
        In the order of `sim.topk.counts.NAMES` and `CAUSES`.
    marks : int64[jobs, 7]
        Per job the number of passes, and cycles.
    passes : int64[passes or 0, 3]
        Job, start and keys of each pass, as many as a trace may hold.
    """

    item_codes: NDArray[np.int64]
    item_indices: NDArray[np.int64]
    counts: NDArray[np.int64]
    causes: NDArray[np.int64]
    marks: NDArray[np.int64]
    passes: NDArray[np.int64]


def make_plan(spec: TopkSpec) -> Plan:
    """Return the engine's numbers."""
    return Plan(
        radix=int(spec.architecture == "radix"),
        lanes=spec.lanes,
        key_bits=spec.key_bits,
        buffers=spec.buffers,
        depth=spec.memory_depth,
        seed=spec.seed,
        load_latency=LOAD_LATENCY[spec.architecture],
        pass_latency=PASS_LATENCY[spec.architecture],
        shift=np.array(spec.digit_shifts, dtype=np.int64),
        width=np.array(spec.digit_widths, dtype=np.int64),
    )


def make_jobs(spec: TopkSpec, jobs: Sequence[tuple[NDArray[Any], int]]) -> Jobs:
    """Check jobs and turn their keys into order codes.

    Raises
    ------
    TypeError
        If keys are not a one-dimensional integer array.
    ValueError
        If there is no job, or n, k or a key is out of range.
    """
    if not jobs:
        raise ValueError("topk: there must be at least one job, not an empty sequence")
    for number, (keys, k) in enumerate(jobs):
        if not isinstance(keys, np.ndarray) or keys.dtype.kind not in "iu" or keys.ndim != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"topk: keys of job {number} must be a one-dimensional integer array, not {keys!r}"
            )
        if not 1 <= keys.size <= spec.max_n:
            raise ValueError(
                f"topk: n of job {number} must be in 1..{spec.max_n}, not {keys.size!r}"
            )
        if not 0 <= k < 1 << 32:
            raise ValueError(f"topk: k of job {number} must be in 0..{2**32 - 1}, not {k!r}")
        if keys.dtype == np.uint64:
            _check_keys(spec, keys)  # they may not fit int64
    keys = np.concatenate([keys for keys, _ in jobs], dtype=np.int64, casting="same_kind")
    _check_keys(spec, keys)
    n = np.array([keys.size for keys, _ in jobs], dtype=np.int64)
    k = np.array([k for _, k in jobs], dtype=np.int64)
    keys &= (1 << spec.key_bits) - 1
    keys ^= spec.code_mask
    return Jobs(keys, _starts(n), k, _starts(np.minimum(n, k)))


def _check_keys(spec: TopkSpec, keys: NDArray[Any]) -> None:
    low = -(1 << (spec.key_bits - 1)) if spec.signed else 0
    high = low + (1 << spec.key_bits) - 1
    least, most = int(keys.min()), int(keys.max())
    if least < low or most > high:
        bad = least if least < low else most
        raise ValueError(f"topk: keys must be in {low}..{high}, not {bad}")


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(lengths))


def keys_of(spec: TopkSpec, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the keys of order codes."""
    top = 1 << (spec.key_bits - 1)
    words = codes ^ spec.code_mask
    return (words ^ top) - top if spec.signed else words


def make_record(plan: Plan, jobs: Jobs, *, trace: bool) -> Record:
    """Return an empty record; `passes` has rows only for a trace."""
    # A pass of quick-select removes its pivot at least.
    passes = jobs.k.size * (plan.width.size - 1) if plan.radix else jobs.codes.size
    items = int(jobs.first_item[-1])
    return Record(
        np.zeros(items, dtype=np.int64),
        np.zeros(items, dtype=np.int64),
        np.zeros(len(NAMES), dtype=np.int64),
        np.zeros(len(CAUSES), dtype=np.int64),
        np.zeros((jobs.k.size, 7), dtype=np.int64),
        np.zeros((passes if trace else 0, 3), dtype=np.int64),
    )


@inner
def note_pass(record: Record, job: int, start: int, keys: int) -> None:
    """Count a pass, and note it where there is room."""
    number = record.counts[PASSES]
    if number < record.passes.shape[0]:
        record.passes[number, 0] = job
        record.passes[number, 1] = start
        record.passes[number, 2] = keys
    record.counts[PASSES] = number + 1
    record.marks[job, PASSED] += 1


def job_table(jobs: Jobs, record: Record) -> NDArray[np.void]:
    """Return the JOB records."""
    table = np.zeros(jobs.k.size, dtype=JOB)
    table["n"] = np.diff(jobs.first)
    table["k"] = jobs.k
    table["items"] = np.diff(jobs.first_item)
    for column, name in enumerate(JOB.names[3:] if JOB.names else ()):
        table[name] = record.marks[:, column]
    return table


def pass_table(plan: Plan, record: Record) -> NDArray[np.void]:
    """Return the noted passes as PASS records, in the order in which they run."""
    used = record.passes[: record.counts[PASSES]]
    table = np.zeros(len(used), dtype=PASS)
    for column, name in enumerate(("job", "start", "keys")):
        table[name] = used[:, column]
    table["end"] = table["start"] - (-table["keys"] // plan.lanes) + plan.pass_latency
    return table
