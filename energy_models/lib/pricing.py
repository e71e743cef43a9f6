# SPDX-License-Identifier: Apache-2.0
"""From counted actions to energy: what the models of all engines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from energy_models.lib.tables import read_table
from energy_models.lib.technology import (
    CLOCK_HZ,
    TECHNOLOGIES,
    ZERO,
    Estimate,
    Technology,
    load_technology,
)

MEMORIES = ("lpddr4", "hbm2", "ddr3", "sram_1mb")
"""What may be behind an engine's streams; the default first."""

Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True)
class Action(Generic[Spec]):
    """How one counted action is priced.

    Attributes
    ----------
    component : str
        Bar of the energy plot that it belongs to.
    cost : callable
        (spec, technology) -> pJ of one action; for a stream, of one transfer without the memory.
    stream_bits : callable or None
        spec -> bits that one transfer moves from or to the memory; None if it moves none.
    free : bool
        Whether it costs nothing: others pay for it, or it is in the model where physics is in the
        hardware.
    """

    component: str
    cost: Callable[[Spec, Technology], Estimate]
    stream_bits: Callable[[Spec], int] | None = None
    free: bool = False


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Energy of a run.

    Attributes
    ----------
    components : mapping of str to float
        pJ by component; sums to `total_pj`.
    actions : mapping of str to float
        pJ by action; sums to `total_pj`.
    total_pj, low_pj, high_pj : float
        The estimate, and the range that the sources leave open.
    technology, memory : str
        Names of the tables; no memory is "none".
    alternatives : mapping of str to mapping of str to float
        Where published models of an action disagree: name of the model -> pJ by component under it
        alone. `total_pj` is then between them, and `low_pj` to `high_pj` covers them all.
    """

    components: Mapping[str, float]
    actions: Mapping[str, float]
    total_pj: float
    low_pj: float
    high_pj: float
    technology: str
    memory: str
    alternatives: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class EnergyModel(Generic[Spec]):
    """What an engine's actions cost: the entry point of its energy face.

    Attributes
    ----------
    engine : str
        Its name, for messages.
    actions : mapping of str to Action
        How each counted action is priced; the simulator and the bench count the same names.
    areas : callable
        (spec, technology) -> cell and memory area in µm² by component.
    alternatives : mapping of str to mapping of str to Action
        Name of a published model -> the actions that it prices, each of the component that it has
        in `actions`, which holds what lies between the models.
    """

    engine: str
    actions: Mapping[str, Action[Spec]]
    areas: Callable[[Spec, Technology], dict[str, Estimate]]
    alternatives: Mapping[str, Mapping[str, Action[Spec]]] = field(
        default_factory=dict[str, Mapping[str, Action[Spec]]]
    )

    def energy(
        self,
        spec: Spec,
        counts: Mapping[str, int],
        *,
        technology: str = TECHNOLOGIES[0],
        memory: str = MEMORIES[0],
        clock_hz: float = CLOCK_HZ,
    ) -> Breakdown:
        """Return the dynamic energy of a run.

        Parameters
        ----------
        spec : spec of the engine
        counts : mapping of str to int
            Action counts, as the simulator gives them; an action that is left out counts 0.
        technology : {"asap7", "horowitz45"}
            Table of costs.
        memory : {"lpddr4", "hbm2", "ddr3", "sram_1mb"}
            What is behind the streams; no matter where both their ends are on the chip.
        clock_hz : float
            Clock; no matter but where a cost depends on a rate.

        Raises
        ------
        ValueError
            If a count, the technology or the memory is unknown.
        """
        for name in counts:
            if name not in self.actions:
                raise ValueError(
                    f"{self.engine}: unknown action {name!r}; known are {', '.join(self.actions)}"
                )
        tech = load_technology(technology, clock_hz)
        per_bit = memory_pj_per_bit(memory, tech)
        by_component: dict[str, float] = {}
        by_action: dict[str, float] = {}
        total = ZERO
        for name, action in self.actions.items():
            count = counts.get(name, 0)
            parts = [(action.component, action.cost(spec, tech) * count)]
            if action.stream_bits is not None:
                parts.append((f"memory ({memory})", per_bit * (action.stream_bits(spec) * count)))
            for component, part in parts:
                by_component[component] = by_component.get(component, 0.0) + part.value
                by_action[name] = by_action.get(name, 0.0) + part.value
                total += part
        alternatives: dict[str, Mapping[str, float]] = {}
        for model, replaced in self.alternatives.items():
            parts_pj = dict(by_component)
            for name, action in replaced.items():
                change = action.cost(spec, tech).value - self.actions[name].cost(spec, tech).value
                parts_pj[action.component] += change * counts.get(name, 0)
            alternatives[model] = MappingProxyType(parts_pj)
        outside = any(action.stream_bits is not None for action in self.actions.values())
        return Breakdown(
            MappingProxyType(by_component),
            MappingProxyType(by_action),
            total.value,
            total.low,
            total.high,
            technology,
            memory if outside else "none",
            MappingProxyType(alternatives),
        )

    def area(
        self, spec: Spec, *, technology: str = TECHNOLOGIES[0], clock_hz: float = CLOCK_HZ
    ) -> dict[str, Estimate]:
        """Return the cell and memory area in µm² by component, without wires and control logic.

        Raises
        ------
        ValueError
            If the technology is unknown.
        """
        return self.areas(spec, load_technology(technology, clock_hz))


def stream(bits: Callable[[Spec], int], *, on_chip: bool = False) -> Action[Spec]:
    """Return the action of a transfer of that many bits: one register, and the memory behind it.

    There is none where both ends of the stream are on the chip.
    """

    def cost(spec: Spec, tech: Technology) -> Estimate:
        return tech.register_pj(bits(spec))

    return Action("streams", cost, None if on_chip else bits)


def unpriced(component: str) -> Action[Any]:
    """Return an action that is counted and costs nothing."""

    def cost(spec: object, tech: Technology) -> Estimate:
        del spec, tech
        return ZERO

    return Action(component, cost, free=True)


def memory_pj_per_bit(name: str, tech: Technology) -> Estimate:
    """Return the energy of moving a bit from or to a memory.

    Raises
    ------
    ValueError
        If the memory is unknown.
    """
    if name not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(MEMORIES)}, not {name!r}")
    if name == "sram_1mb":
        return tech.sram_read_pj(1 << 20, 64) * (1 / 64)
    entry = read_table("memories")[name]
    factor = entry["uncertainty"]
    return Estimate(entry["value"], entry["value"] / factor, entry["value"] * factor)
