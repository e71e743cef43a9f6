# SPDX-License-Identifier: Apache-2.0
"""Linear and conv2d nodes on engine `pim`: codes clamped by the vector unit, tiles on the macro.

A node is one job for each tile of the macro's outputs, one after the other; weights are loaded once
for each tile. Transfer tables and noise stand for physics: their streams are simulated as the
contract says, but touch no memory, so no bandwidth holds them up and no byte of theirs counts.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from numpy.typing import NDArray

from cosil.engines.common import ceil_div
from cosil.engines.pim import PimSpec
from cosil.errors import CosilError
from cosil.lowering.pim import FLAG_WEIGHTS, Job, Operands, layer_jobs, layer_output, unsuited
from cosil.machine import vector_unit
from cosil.machine.bandwidth import Stalls, Traffic
from cosil.machine.jobs import Work, refuse_unsuited
from cosil.machine.spec import Machine
from cosil.packed.network import Node, PackedNetwork
from energy_models.lib.technology import ZERO
from energy_models.pim import MODEL, adc_areas
from sim.lib.run import Run
from sim.pim import run

Array = NDArray[Any]


def check_nodes(machine: Machine, network: PackedNetwork) -> None:
    """Refuse a network with nodes that the machine's macro cannot run.

    Raises
    ------
    CosilError
        Naming every such node, and what it needs.
    """
    nodes = [node for node in network.nodes if node.engine == "pim"]
    macro = machine.pim
    if nodes and macro is None:
        raise CosilError(
            f"machine {machine.name}: layer {nodes[0].name!r} needs a PIM macro",
            "add a table [pim] to the machine, or use the preset pim-144x256-flash",
        )
    if macro is not None:

        def needs(node: Node) -> list[str]:
            return unsuited(spec_for(macro, node), node)

        refuse_unsuited(machine, nodes, needs, "pim", "macro")


def spec_for(macro: PimSpec, node: Node) -> PimSpec:
    """Return the macro with the noise that a node's columns have."""
    entries = node.tensors["noise"].shape[0] if "noise" in node.tensors else 1
    return replace(macro, noise_bits=entries.bit_length() - 1)


def traffic(spec: PimSpec, job: Job) -> Traffic:
    """Return what a job moves from and to memory (section 3)."""
    load = spec.load_beats(job.k, job.n, job.rows, load_weights=job.has(FLAG_WEIGHTS))
    return Traffic(
        beats={
            "w": load["w"],
            "e": load["e"],
            "x": job.m * job.groups,
            "y": job.m * ceil_div(job.n, spec.epilogue_lanes),
        },
        beat_bytes={
            "w": 8,
            "e": 8 * spec.epilogue_lanes,
            "x": ceil_div(spec.rows * spec.activation_bits, 8),
            "y": 2 * spec.epilogue_lanes,
        },
    )


def area(machine: Machine) -> dict[str, Any] | None:
    """Return the macro's area as `cosil simulate --json` gives it; None without a macro.

    µm² by component, each with its range, and of all ADCs under each model that gives an area.
    """
    if machine.pim is None:
        return None
    at: dict[str, Any] = {"technology": machine.technology, "clock_hz": machine.clock_hz}
    parts = MODEL.area(machine.pim, **at)
    return {
        "components": {name: asdict(each) for name, each in parts.items()},
        "total": asdict(sum(parts.values(), ZERO)),
        "adc_models": {name: each.value for name, each in adc_areas(machine.pim, **at).items()},
    }


def multiply(
    machine: Machine, node: Node, x: Array, *, trace: bool = False, step: bool = False
) -> tuple[Array, Work]:
    """Run one node; the machine has passed `check_nodes`.

    Parameters
    ----------
    x : int8[..., K] or int8[B, C, H, W]
        Input codes, clamped here to what the macro drives.
    trace : bool
        Keep the cycles of each vector of each job.
    step : bool
        Advance every register cycle by cycle.
    """
    assert machine.pim is not None
    spec = spec_for(machine.pim, node)
    peak = spec.rows * spec.outputs / (spec.slices * spec.period)
    work = Work(spec, macs_per_cycle=peak)
    work.on_vector_unit(machine, vector_unit.CLAMP * x.size, 2 * x.nbytes)

    def simulate(job: Job, operands: Operands, stalls: Stalls) -> Run:
        return run(spec, job, operands, stalls=stalls, trace=trace, step=step)

    lowered = layer_jobs(spec, node, x)
    ys = work.run_jobs(machine, lowered, lambda job: traffic(spec, job), simulate)
    return layer_output(node, x.shape, [job for job, _ in lowered], ys), work
