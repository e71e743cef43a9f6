# SPDX-License-Identifier: Apache-2.0
"""One job on one array as plain integers: what the kernels take, and what they leave behind.

Section numbers in this package refer to docs/engines/xnor.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from sim.lib.record import Record
from sim.xnor.counts import NAMES

STALL_NAMES = ("w", "c", "e", "x", "y")
X_STREAM, Y_STREAM = 3, 4
"""Streams 0 to 2 are those that load."""

CAUSES = ("compute", "stalled_out", "load", "stalled_in", "drain")
COMPUTE, STALLED_OUT, LOAD, STALLED_IN, DRAIN = range(5)
"""What a cycle was spent on (section 5)."""

QUEUE_BEATS = 4
"""Beats of i_x that wait for their steps."""

NEGATE = np.uint64(1 << 54)
"""Flip of a threshold, or a negative factor."""

VECTOR = np.dtype(
    [
        ("vector", np.int64),
        ("first_issue", np.int64),
        ("last_issue", np.int64),
        ("last_output", np.int64),
    ]
)
"""One vector: the cycles in which its first and last step are issued, and the cycle of its last
output transfer, -1 for a vector that does not end its pool window."""

FIRST_ISSUE, LAST_ISSUE, LAST_OUTPUT = range(3)
"""Columns of `Record.marks`."""


class Plan(NamedTuple):
    """Numbers of one job on one array (sections 2 and 4), named as in the spec or the job.

    Attributes
    ----------
    output_folds, input_folds : int
        NF and SF of the job.
    fixed : int
        Whether the epilogue is the fixed-point one.
    load_beats : int64[3]
        Beats of i_w, i_c and i_e.
    """

    m: int
    k: int
    n: int
    pool: int
    pe: int
    simd: int
    output_folds: int
    input_folds: int
    tree_stages: int
    latency: int
    fixed: int
    relu: int
    wide: int
    load_beats: NDArray[np.int64]


class Contents(NamedTuple):
    """`cosil.lowering.xnor.Operands`, each array C-contiguous and writeable.

    An array that cannot be written would be one more type for which kernels are compiled.
    """

    x: NDArray[np.uint64]
    border: NDArray[np.uint8]
    w: NDArray[np.uint64]
    base: NDArray[np.uint16]
    e: NDArray[np.uint64]


def make_plan(spec: XnorSpec, job: Job) -> Plan:
    """Return the plan of a job; the job has been checked."""
    beats = spec.load_beats(
        job.k,
        job.n,
        job.classes,
        load_weights=job.has(FLAG_WEIGHTS),
        load_base=job.has(FLAG_BASE),
        load_columns=job.has(FLAG_COLUMNS),
    )
    return Plan(
        m=job.m,
        k=job.k,
        n=job.n,
        pool=job.pool,
        pe=spec.pe,
        simd=spec.simd,
        output_folds=spec.output_folds(job.n),
        input_folds=spec.input_folds(job.k),
        tree_stages=spec.tree_stages,
        latency=spec.pipeline_latency,
        fixed=int(spec.epilogue == "fixed"),
        relu=int(job.has(FLAG_RELU)),
        wide=int(job.has(FLAG_WIDE)),
        load_beats=np.array([beats[name] for name in STALL_NAMES[:3]], dtype=np.int64),
    )


def make_contents(operands: Operands) -> Contents:
    """Return the operands as kernels take them."""
    arrays = (getattr(operands, name) for name in Contents._fields)
    return Contents(*(np.require(array, requirements=["C", "W"]) for array in arrays))


def make_record(plan: Plan, *, trace: bool) -> Record:
    """Return an empty record; `marks` has rows only for a trace."""
    return Record(
        np.zeros(len(NAMES), dtype=np.int64),
        np.zeros(len(CAUSES), dtype=np.int64),
        np.full((plan.m if trace else 0, LAST_OUTPUT + 1), -1, dtype=np.int64),
    )


def output_dtype(plan: Plan) -> type[np.int8] | type[np.int16]:
    """Return the dtype of Y."""
    return np.int16 if plan.fixed and plan.wide else np.int8
