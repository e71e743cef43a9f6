# SPDX-License-Identifier: Apache-2.0
"""One job on one macro as plain integers: what the kernels take, and what they leave behind.

Section numbers in this package refer to docs/engines/pim.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.engines.common import FIXED_EPILOGUE_LATENCY
from cosil.engines.pim import CONVERT_LATENCY, PimSpec
from cosil.lowering.pim import (
    FLAG_NOISE,
    FLAG_RELU,
    FLAG_TRANSFER,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from sim.lib.record import Record
from sim.pim.counts import NAMES

STALL_NAMES = ("w", "t", "n", "e", "x", "y")
X_STREAM, Y_STREAM = 4, 5
"""Streams 0 to 3 are those that load."""

CAUSES = ("convert", "result", "row", "load", "stalled_in", "stalled_out", "fill", "drain")
CONVERT, RESULT, ROW, LOAD, STALLED_IN, STALLED_OUT, FILL, DRAIN = range(8)
"""What a cycle was spent on (section 5)."""

VECTOR = np.dtype(
    [
        ("vector", np.int64),
        ("first_launch", np.int64),
        ("last_launch", np.int64),
        ("first_conversion", np.int64),
        ("last_conversion", np.int64),
        ("last_output", np.int64),
    ]
)
"""One vector: the cycles d of its first and last step, the first and the last cycle in which it is
converted, and the cycle of its last output transfer."""

FIRST_LAUNCH, LAST_LAUNCH, FIRST_CONVERSION, LAST_CONVERSION, LAST_OUTPUT = range(5)
"""Columns of `Record.marks`."""


class Plan(NamedTuple):
    """Numbers of one job on one macro (sections 2 and 4).

    Attributes not named as in the spec or the job: `groups` is G of the job; `steps` is G.S;
    `banks` are sample-and-hold banks; `output_steps` is ceil(n / E).

    Attributes
    ----------
    plane_weights : int64[P]
        Factor of each column of an output.
    cell_weights : int64[Q]
        Factor of each bit of a cell.
    load_beats : int64[4]
        Beats of i_w, i_t, i_n and i_e.
    """

    m: int
    k: int
    n: int
    rows: int
    groups: int
    slices: int
    slice_bits: int
    steps: int
    planes: int
    cell_bits: int
    mux: int
    adcs: int
    row_cycles: int
    conversion_cycles: int
    banks: int
    result_depth: int
    lanes: int
    output_steps: int
    noise_bits: int
    value_min: int
    code_min: int
    code_max: int
    relu: int
    wide: int
    convert_latency: int
    epilogue_latency: int
    plane_weights: NDArray[np.int64]
    cell_weights: NDArray[np.int64]
    load_beats: NDArray[np.int64]


class Contents(NamedTuple):
    """`cosil.lowering.pim.Operands`, each array C-contiguous and writeable.

    An array that cannot be written would be one more type for which kernels are compiled.
    """

    x: NDArray[np.uint8]
    w: NDArray[np.uint64]
    transfer: NDArray[np.int16]
    noise: NDArray[np.int16]
    states: NDArray[np.uint32]
    e: NDArray[np.uint64]


def make_plan(spec: PimSpec, job: Job) -> Plan:
    """Return the plan of a job; the job has been checked."""
    beats = spec.load_beats(
        job.k,
        job.n,
        job.rows,
        load_weights=job.has(FLAG_WEIGHTS),
        load_transfer=job.has(FLAG_TRANSFER),
        load_noise=job.has(FLAG_NOISE),
    )
    cell_weights = np.int64(1) << np.arange(spec.cell_bits)
    if spec.decomposition == "native":
        cell_weights[-1] *= -1
    return Plan(
        m=job.m,
        k=job.k,
        n=job.n,
        rows=job.rows,
        groups=job.groups,
        slices=spec.slices,
        slice_bits=spec.slice_bits,
        steps=spec.steps(job.k, job.rows),
        planes=spec.planes,
        cell_bits=spec.cell_bits,
        mux=spec.mux,
        adcs=spec.adcs,
        row_cycles=spec.row_cycles,
        conversion_cycles=spec.conversion_cycles,
        banks=2 if spec.double_buffer else 1,
        result_depth=spec.result_depth,
        lanes=spec.epilogue_lanes,
        output_steps=-(-job.n // spec.epilogue_lanes),
        noise_bits=spec.noise_bits,
        value_min=spec.value_min,
        code_min=spec.code_min,
        code_max=spec.code_max,
        relu=int(job.has(FLAG_RELU)),
        wide=int(job.has(FLAG_WIDE)),
        convert_latency=CONVERT_LATENCY,
        epilogue_latency=FIXED_EPILOGUE_LATENCY,
        plane_weights=np.array(spec.plane_weights, dtype=np.int64),
        cell_weights=cell_weights,
        load_beats=np.array([beats[name] for name in STALL_NAMES[:4]], dtype=np.int64),
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
        np.zeros((plan.m if trace else 0, LAST_OUTPUT + 1), dtype=np.int64),
    )
