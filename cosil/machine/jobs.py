# SPDX-License-Identifier: Apache-2.0
"""A node on an engine: its jobs one after the other, and what they and the vector unit cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosil.engines.common import EngineSpec
from cosil.errors import CosilError
from cosil.machine import vector_unit
from cosil.machine.bandwidth import Stalls, Traffic
from cosil.machine.spec import Machine
from cosil.packed.network import Node
from sim.lib.run import Run

Job = TypeVar("Job")
Operands = TypeVar("Operands")


@dataclass(frozen=True, slots=True, eq=False)
class JobRun:
    """One job of an engine: its first cycle in the layer, and length.

    `events` are, with a trace, the tiles of the array, or the vectors of the macro or of the XNOR
    array.
    """

    start: int
    cycles: int
    events: NDArray[np.void]


@dataclass(slots=True, eq=False)
class Work:
    """What a node has cost so far; see `cosil.machine.execute.LayerRun`.

    Attributes
    ----------
    spec : EngineSpec
        The engine as the node uses it.
    macs_per_cycle : float
        Multiply-accumulates that the engine can do in a cycle.
    mac_counts : tuple of str
        Actions whose counts add up to the node's multiply-accumulates.
    """

    spec: EngineSpec
    macs_per_cycle: float
    mac_counts: tuple[str, ...] = ("mac",)
    causes: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    bytes: int = 0
    jobs: list[JobRun] = field(default_factory=list[JobRun])

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(self.counts[name] for name in self.mac_counts)

    def add(self, run: Run) -> None:
        """Add the cycles and counts of a run of the engine."""
        self.causes.update(run.cycles_by_cause)
        self.counts.update(run.counts)

    def on_vector_unit(self, machine: Machine, operations: int, moved_bytes: int) -> None:
        """Add what the vector unit does before or after the engine."""
        self.causes.update(vector_unit.cycles(machine, operations, moved_bytes))
        self.bytes += moved_bytes

    def run_jobs(
        self,
        machine: Machine,
        lowered: Sequence[tuple[Job, Operands]],
        traffic: Callable[[Job], Traffic],
        simulate: Callable[[Job, Operands, Stalls], Run],
    ) -> list[NDArray[Any]]:
        """Run jobs one after the other, held to the memory's bandwidth, and return their results.

        Parameters
        ----------
        lowered : sequence of (job, operands)
        traffic : callable
            Job -> what it moves from and to memory.
        simulate : callable
            Job, operands and stall patterns -> run.
        """
        results: list[NDArray[Any]] = []
        for job, operands in lowered:
            moves = traffic(job)
            run = simulate(job, operands, moves.stalls(machine.memory))
            self.jobs.append(JobRun(self.causes.total(), run.cycles, run.events))
            self.add(run)
            self.bytes += moves.bytes
            results.append(run.y)
        return results


def refuse_unsuited(
    machine: Machine,
    nodes: Sequence[Node],
    unsuited: Callable[[Node], Sequence[str]],
    engine: str,
    noun: str,
) -> None:
    """Refuse nodes on one engine that the machine's cannot run.

    Parameters
    ----------
    nodes : sequence of Node
        All of a network on the engine.
    unsuited : callable
        Node -> what it needs that the engine has not.
    engine, noun : str
        Name of the engine, and what to call the machine's.

    Raises
    ------
    CosilError
        Naming every such node, and what it needs.
    """
    needs = {node.name: reasons for node in nodes if (reasons := unsuited(node))}
    if needs:
        listed = "; ".join(f"{name!r} needs {', '.join(each)}" for name, each in needs.items())
        raise CosilError(
            f"machine {machine.name}: {len(needs)} of {len(nodes)} layers on engine {engine} do "
            f"not suit its {noun}: {listed}",
            f"change [{engine}] of the machine, or compress the network for this {noun}",
        )
