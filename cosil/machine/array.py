# SPDX-License-Identifier: Apache-2.0
"""Linear and conv2d nodes on the array: a job for each group of channels.

The dynamic quantisation before a linear layer of mode fp16 and the bias after it are the vector
unit's, and count to that layer as `vector` cycles.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.gemm import layer_jobs, layer_output
from cosil.lowering.w4a8 import Job, Operands
from cosil.machine import vector_unit
from cosil.machine.bandwidth import Stalls, Traffic
from cosil.machine.jobs import Work
from cosil.machine.spec import Machine
from cosil.packed.network import Node
from sim import vector
from sim.lib.run import Run
from sim.w4a8 import run

Array = NDArray[Any]


def multiply(
    machine: Machine, node: Node, x: Array, *, trace: bool = False, step: bool = False
) -> tuple[Array, Work]:
    """Run one node.

    Parameters
    ----------
    x : int8 or float16[..., K] or int8[B, C, H, W]
        Input; float16 is quantised by rows.
    trace : bool
        Keep the schedule of every job's tiles.
    step : bool
        Advance every register cycle by cycle.

    Raises
    ------
    CosilError
        If the machine fixes what the node needs otherwise.
    """
    spec = machine.spec_for(node)
    work = Work(spec, macs_per_cycle=spec.array_rows * spec.array_cols)
    codes, scales = x, None
    if node.attrs["mode"] == "fp16":
        codes, scales = vector.quantize_rows(x, node.name)
        moved = x.nbytes + codes.nbytes + scales.nbytes
        work.on_vector_unit(machine, vector_unit.QUANTIZE_ROWS * x.size, moved)

    def simulate(job: Job, operands: Operands, stalls: Stalls) -> Run:
        latency = machine.memory.latency_cycles
        return run(
            spec, job, operands, stalls=stalls, memory_latency=latency, trace=trace, step=step
        )

    lowered = layer_jobs(spec, node, codes, scales)
    ys = work.run_jobs(machine, lowered, lambda job: traffic(spec, job), simulate)
    value = layer_output(node, x.shape, [job for job, _ in lowered], ys)
    if "bias" in node.tensors:
        value = vector.add_bias(value, node.tensors["bias"].words)
        moved = 2 * value.nbytes + node.tensors["bias"].words.nbytes
        work.on_vector_unit(machine, vector_unit.ADD_BIAS * value.size, moved)
    return value, work


def traffic(spec: W4A8Spec, job: Job) -> Traffic:
    """Return what a job moves from and to memory."""
    return Traffic(_beats(spec, job), _beat_bytes(spec))


def _beat_bytes(spec: W4A8Spec) -> dict[str, int]:
    """Return the bytes of one beat of each stream (docs/engines/w4a8.md, section 3)."""
    return {
        "a": spec.a_beat_bytes,
        "w": spec.w_beat_bytes,
        "s": 2 * spec.array_cols,
        "e": spec.e_bits // 8 * spec.array_cols,
        "r": 4 * spec.array_rows,
        "y": 2 * spec.epilogue_lanes,
    }


def _beats(spec: W4A8Spec, job: Job) -> dict[str, int]:
    """Return the beats of each stream of a job (section 5.1)."""
    ws = spec.dataflow == "ws"
    tile_rows = spec.acc_rows if ws else spec.array_rows
    row_tiles, col_tiles = -(-job.m // tile_rows), -(-job.n // spec.array_cols)
    tiles, parts = row_tiles * col_tiles, -(-job.k // spec.chunk)
    last_cols = job.n - (col_tiles - 1) * spec.array_cols
    lanes = spec.epilogue_lanes
    steps = (col_tiles - 1) * -(-spec.array_cols // lanes) + -(-last_cols // lanes)
    starts = set(range(0, job.k, job.group))
    if ws:
        starts |= set(range(0, job.k, spec.array_rows))
    last_rows = job.m - (row_tiles - 1) * tile_rows
    row_beats = (row_tiles - 1) * -(-tile_rows // spec.array_rows) + -(
        -last_rows // spec.array_rows
    )
    return {
        "a": job.m * col_tiles * parts,
        "w": job.n * row_tiles * parts,
        "s": tiles * len(starts) if spec.scales == "group" else 0,
        "e": tiles,
        "r": col_tiles * row_beats if spec.epilogue == "fp16" else 0,
        "y": job.m * steps,
    }
