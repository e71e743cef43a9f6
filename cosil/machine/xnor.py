# SPDX-License-Identifier: Apache-2.0
"""Linear and conv2d nodes on engine `xnor`: signs by the vector unit, jobs on the array.

A node is one job for each `max_outputs` of its outputs, one after the other; each loads weights,
base values and column parameters. An activation is one bit in memory: what a layer of mode
`threshold` writes is read by the next as it is, other codes become signs on the vector unit first.
The class of a window's border is a matter of counters beside the memory, and moves no bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from cosil.engines.common import ceil_div
from cosil.engines.xnor import XnorSpec
from cosil.errors import CosilError
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_WEIGHTS,
    Job,
    Operands,
    layer_jobs,
    layer_output,
    unsuited,
)
from cosil.machine import vector_unit
from cosil.machine.bandwidth import Stalls, Traffic
from cosil.machine.jobs import Work, refuse_unsuited
from cosil.machine.spec import Machine
from cosil.packed import graph
from cosil.packed.network import Node, PackedNetwork
from sim.lib.run import Run
from sim.xnor import run

Array = NDArray[Any]


def check_nodes(machine: Machine, network: PackedNetwork) -> None:
    """Refuse a network with nodes that the machine's XNOR array cannot run.

    Raises
    ------
    CosilError
        Naming every such node, and what it needs.
    """
    nodes = [node for node in network.nodes if node.engine == "xnor"]
    array = machine.xnor
    if nodes and array is None:
        raise CosilError(
            f"machine {machine.name}: layer {nodes[0].name!r} needs an XNOR array",
            "add a table [xnor] to the machine, or use the preset xnor-32x64",
        )
    if nodes and array is not None:
        values = graph.check(network, content=False)

        def needs(node: Node) -> list[str]:
            return unsuited(spec_for(array, node), node, (1, *values[node.inputs[0]].shape))

        refuse_unsuited(machine, nodes, needs, "xnor", "array")


def spec_for(array: XnorSpec, node: Node) -> XnorSpec:
    """Return the array with the weights and the epilogue that a node needs."""
    ternary = node.tensors["weight"].codec == "ternary"
    weights = "ternary" if ternary else "binary"
    return replace(array, weights=weights, epilogue=node.attrs["mode"])


def held_as_bits(network: PackedNetwork) -> frozenset[str]:
    """Return the values that are one bit each in memory: of mode `threshold`, or those renamed."""
    found: set[str] = set()
    for node in network.nodes:
        threshold = node.engine == "xnor" and node.attrs["mode"] == "threshold"
        if threshold or (node.op in vector_unit.RENAMES and node.inputs[0] in found):
            found.add(node.name)
    return frozenset(found)


def traffic(spec: XnorSpec, job: Job) -> Traffic:
    """Return what a job moves from and to memory (docs/engines/xnor.md, section 3)."""
    load = spec.load_beats(
        job.k,
        job.n,
        job.classes,
        load_weights=job.has(FLAG_WEIGHTS),
        load_base=job.has(FLAG_BASE),
        load_columns=job.has(FLAG_COLUMNS),
    )
    result_bits = 1 if spec.epilogue == "threshold" else 16
    return Traffic(
        beats={
            **load,
            "x": job.m * spec.input_folds(job.k),
            "y": job.m // job.pool * spec.output_folds(job.n),
        },
        beat_bytes={
            "w": ceil_div(spec.pe * spec.simd * spec.weight_planes, 8),
            "c": 2 * spec.pe,
            "e": 8 * spec.pe,
            "x": ceil_div(spec.simd, 8),
            "y": ceil_div(spec.pe * result_bits, 8),
        },
    )


def multiply(
    machine: Machine,
    node: Node,
    x: Array,
    *,
    bits: bool,
    trace: bool = False,
    step: bool = False,
) -> tuple[Array, Work]:
    """Run one node; the machine has passed `check_nodes`.

    Parameters
    ----------
    x : int8[..., K] or int8[B, C, H, W]
        Input codes, whose signs count.
    bits : bool
        Whether they are bits in memory already (`held_as_bits`).
    trace : bool
        Keep the cycles of each vector of each job.
    step : bool
        Advance every register cycle by cycle.
    """
    assert machine.xnor is not None
    spec = spec_for(machine.xnor, node)
    work = Work(spec, macs_per_cycle=spec.pe * spec.simd, mac_counts=("xnor",))
    if not bits:
        moved = x.nbytes + ceil_div(x.size, 8)
        work.on_vector_unit(machine, vector_unit.SIGNS * x.size, moved)

    def simulate(job: Job, operands: Operands, stalls: Stalls) -> Run:
        return run(spec, job, operands, stalls=stalls, trace=trace, step=step)

    lowered = layer_jobs(spec, node, x)
    ys = work.run_jobs(machine, lowered, lambda job: traffic(spec, job), simulate)
    return layer_output(node, x.shape, [job for job, _ in lowered], ys), work
