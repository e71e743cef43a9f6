# SPDX-License-Identifier: Apache-2.0
"""Linear and conv2d nodes on engine `pim`: codes clamped by the vector unit, tiles on the macro.

A node is one job for each tile of the macro's outputs, one after the other; weights are loaded once
for each tile. Transfer tables and noise stand for physics: their streams are simulated as the
contract says, but touch no memory, so no bandwidth holds them up and no byte of theirs counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.common import ceil_div
from cosil.engines.pim import PimSpec
from cosil.errors import CosilError
from cosil.lowering.pim import (
    FLAG_WEIGHTS,
    Job,
    layer_jobs,
    layer_output,
    unsuited,
)
from cosil.machine import bandwidth, vector_unit
from cosil.machine.spec import Machine, Memory
from cosil.packed.network import Node, PackedNetwork
from energy_models.lib.technology import ZERO
from energy_models.pim import MODEL, adc_areas
from sim.lib.run import Run
from sim.pim import run

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a node cost; see `cosil.machine.execute.LayerRun`.

    Attributes
    ----------
    starts : tuple of int
        First cycle of each job in the layer.
    """

    spec: PimSpec
    causes: Counter[str]
    counts: Counter[str]
    bytes: int
    starts: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def utilisation(self) -> float:
        """Products done over those possible in the layer's cycles (docs/engines/pim.md, 6)."""
        spec = self.spec
        possible = sum(self.causes.values()) * spec.rows * spec.outputs
        return self.counts["mac"] * spec.slices * spec.period / possible


def check_nodes(machine: Machine, network: PackedNetwork) -> None:
    """Refuse a network with nodes that the machine's macro cannot run.

    Raises
    ------
    CosilError
        Naming every such node, and what it needs.
    """
    nodes = [node for node in network.nodes if node.engine == "pim"]
    if not nodes:
        return
    if machine.pim is None:
        raise CosilError(
            f"machine {machine.name}: layer {nodes[0].name!r} needs a PIM macro",
            "add a table [pim] to the machine, or use the preset pim-144x256-flash",
        )
    refused = [
        f"{node.name!r} needs {', '.join(reasons)}"
        for node in nodes
        if (reasons := unsuited(spec_for(machine.pim, node), node))
    ]
    if refused:
        raise CosilError(
            f"machine {machine.name}: {len(refused)} of {len(nodes)} layers on engine pim do not "
            f"suit its macro: {'; '.join(refused)}",
            "change [pim] of the machine, or compress the network for this macro",
        )


def spec_for(macro: PimSpec, node: Node) -> PimSpec:
    """Return the macro with the noise that a node's columns have."""
    entries = node.tensors["noise"].shape[0] if "noise" in node.tensors else 1
    return replace(macro, noise_bits=entries.bit_length() - 1)


def beat_bytes(spec: PimSpec) -> dict[str, int]:
    """Return the bytes of one beat of each stream from or to memory (section 3)."""
    return {
        "w": 8,
        "e": 8 * spec.epilogue_lanes,
        "x": ceil_div(spec.rows * spec.activation_bits, 8),
        "y": 2 * spec.epilogue_lanes,
    }


def beats(spec: PimSpec, job: Job) -> dict[str, int]:
    """Return the beats of each of those streams in a job."""
    load = spec.load_beats(job.k, job.n, job.rows, load_weights=job.has(FLAG_WEIGHTS))
    return {
        "w": load["w"],
        "e": load["e"],
        "x": job.m * job.groups,
        "y": job.m * ceil_div(job.n, spec.epilogue_lanes),
    }


def job_bytes(spec: PimSpec, job: Job) -> int:
    """Return the bytes that a job moves from and to memory."""
    width = beat_bytes(spec)
    return sum(count * width[name] for name, count in beats(spec, job).items())


def stalls(spec: PimSpec, job: Job, memory: Memory) -> dict[str, NDArray[np.bool_]]:
    """Return the stall patterns that hold a job to the memory's bandwidth."""
    return bandwidth.patterns(beats(spec, job), beat_bytes(spec), memory)


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
    moved = 2 * x.nbytes
    causes = Counter(vector_unit.cycles(machine, vector_unit.CLAMP * x.size, moved))
    counts: Counter[str] = Counter()
    starts: list[int] = []
    runs: list[Run] = []
    lowered = layer_jobs(spec, node, x)
    for job, operands in lowered:
        result = run(
            spec,
            job,
            operands,
            stalls=stalls(spec, job, machine.memory),
            trace=trace,
            step=step,
        )
        starts.append(sum(causes.values()))
        causes.update(result.cycles_by_cause)
        counts.update(result.counts)
        runs.append(result)
        moved += job_bytes(spec, job)
    value = layer_output(node, x.shape, [job for job, _ in lowered], [each.y for each in runs])
    return value, Work(spec, causes, counts, moved, tuple(starts), tuple(runs))
