# SPDX-License-Identifier: Apache-2.0
"""A whole packed network on a machine: every value, and what each layer costs.

Layers run one after the other. A linear or conv2d layer is jobs of the array, of the PIM macro or
of the XNOR array (`cosil.machine.array`, `.pim`, `.xnor`); its cycles are the simulator's, and so
are those of attention on an engine of its own. What the vector unit does for such a layer, before
and after, counts to it as `vector` cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from cosil.engines.common import EngineSpec
from cosil.machine import array, pim, vector_unit, xnor
from cosil.machine.attention import Cascade, attend
from cosil.machine.inputs import bind
from cosil.machine.jobs import JobRun, Work
from cosil.machine.spec import Machine
from cosil.packed.network import Node, PackedNetwork
from cosil.registry import engine_of
from energy_models.lib.pricing import Breakdown, EnergyModel
from sim import vector

Array = NDArray[Any]
Observer = Callable[[str, Array], None]

_MULTIPLY: Mapping[str, Callable[..., tuple[Array, Work]]] = MappingProxyType(
    {"w4a8": array.multiply, "pim": pim.multiply, "xnor": xnor.multiply}
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerRun:
    """What one node cost.

    Attributes
    ----------
    spec : EngineSpec or None
        The engine as the layer used it; None on the vector unit.
    start, cycles : int
        First cycle in the network's run, and cycles.
    cycles_by_cause : mapping of str to int
        Sums to `cycles`. The engines' causes are those of docs/engines; `vector` and `memory` are
        the vector unit's, modelled.
    macs : int
        Multiply-accumulates; of signs, products of two of them.
    macs_per_cycle : float or None
        What the engine can do at its best; None on the vector unit.
    bytes : int
        Bytes moved from and to the memory.
    counts : mapping of str to int
        Action counts of the engine.
    energy : Breakdown or None
        Of the engine and its memory traffic; None on the vector unit, which has no energy model.
    jobs : tuple of JobRun
        Jobs of the array, the macro or the XNOR array.
    shape : tuple of int
        Of the output.
    """

    name: str
    op: str
    engine: str
    spec: EngineSpec | None
    start: int
    cycles: int
    cycles_by_cause: Mapping[str, int]
    macs: int
    macs_per_cycle: float | None
    bytes: int
    counts: Mapping[str, int]
    energy: Breakdown | None
    jobs: tuple[JobRun, ...]
    shape: tuple[int, ...]

    @property
    def utilisation(self) -> float | None:
        """`macs` over what the engine could have done in `cycles`; None on the vector unit."""
        if self.macs_per_cycle is None:
            return None
        return self.macs / (self.macs_per_cycle * self.cycles)


@dataclass(frozen=True, slots=True, eq=False)
class MachineRun:
    """A network's run on a machine."""

    machine: Machine
    network: str
    layers: tuple[LayerRun, ...]
    outputs: Mapping[str, Array]

    @property
    def cycles(self) -> int:
        """Cycles of all layers."""
        return sum(layer.cycles for layer in self.layers)


def execute(
    machine: Machine,
    network: PackedNetwork,
    inputs: Mapping[str, Array],
    *,
    trace: bool = False,
    step: bool = False,
    observe: Observer | None = None,
    cache: vector.KVCache | None = None,
) -> MachineRun:
    """Run a packed network.

    Parameters
    ----------
    machine : Machine
        What it runs on.
    network : PackedNetwork
        A network that has passed the checks of loading.
    inputs : mapping of str to ndarray
        One array per network input, batch first.
    trace : bool
        Keep the schedule of every job's tiles or vectors.
    step : bool
        Advance every register of the engines cycle by cycle: slow, the same result.
    observe : callable, optional
        Called with the name and value of each network input and, in order, of each node.
    cache : KVCache, optional
        Keys and values of earlier calls; extended in place.

    Returns
    -------
    MachineRun
        Outputs equal the reference's bit for bit (`cosil.machine.check`).

    Raises
    ------
    CosilError
        If the machine cannot run a layer.
    TypeError, ValueError
        If inputs do not match the network, or a value is infinite or NaN where that is refused.
    """
    values = bind(network, inputs)
    pim.check_nodes(machine, network)
    xnor.check_nodes(machine, network)
    bits = xnor.held_as_bits(network)
    batch, *positions = next(iter(values.values())).shape[:2]
    cascade: Cascade | None = None
    if any(node.engine == "attention" for node in network.nodes):
        cascade = Cascade.begin(batch, positions[0], cache)
    if observe is not None:
        for name, value in values.items():
            observe(name, value)
    last_use = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
    layers: list[LayerRun] = []
    start = 0
    for index, node in enumerate(network.nodes):
        arguments = tuple(values[name] for name in node.inputs)
        if node.engine == "attention":
            assert cascade is not None
            value, work = attend(machine, node, arguments, cache, cascade, step=step)
            layer = _engine_layer(machine, node, work, start, value)
        elif node.engine in _MULTIPLY:
            multiply = _MULTIPLY[node.engine]
            if node.engine == "xnor":
                multiply = partial(multiply, bits=node.inputs[0] in bits)
            value, work = multiply(machine, node, arguments[0], trace=trace, step=step)
            layer = _engine_layer(machine, node, work, start, value)
        else:
            value, layer = _on_vector_unit(machine, node, arguments, start, cache)
        values[node.name] = value
        layers.append(layer)
        start += layer.cycles
        if observe is not None:
            observe(node.name, value)
        for name in node.inputs:
            if last_use[name] == index and name not in network.outputs:
                values.pop(name, None)
    if cache is not None:
        cache.commit(positions[0], cascade)
    outputs = {name: values[name] for name in network.outputs}
    return MachineRun(machine, network.name, tuple(layers), outputs)


def engine_for(machine: Machine, network: PackedNetwork, node: Node) -> EngineSpec:
    """Return the engine of a machine as one of its engines' nodes uses it.

    Raises
    ------
    CosilError
        If the machine cannot run the node.
    """
    if node.engine == "pim":
        pim.check_nodes(machine, network)
        assert machine.pim is not None
        return pim.spec_for(machine.pim, node)
    if node.engine == "xnor":
        xnor.check_nodes(machine, network)
        assert machine.xnor is not None
        return xnor.spec_for(machine.xnor, node)
    if node.engine == "attention":
        return machine.attention_for(node)
    return machine.spec_for(node)


def _engine_layer(machine: Machine, node: Node, work: Work, start: int, value: Array) -> LayerRun:
    return LayerRun(
        name=node.name,
        op=node.op,
        engine=node.engine,
        spec=work.spec,
        start=start,
        cycles=work.causes.total(),
        cycles_by_cause=dict(work.causes),
        macs=work.macs,
        macs_per_cycle=work.macs_per_cycle,
        bytes=work.bytes,
        counts=dict(work.counts),
        energy=energy_of(machine, work.spec, work.counts),
        jobs=tuple(work.jobs),
        shape=value.shape,
    )


def energy_of(machine: Machine, spec: EngineSpec, counts: Mapping[str, int]) -> Breakdown:
    """Return the energy of an engine's actions and of its memory traffic on a machine."""
    model: EnergyModel[Any] = engine_of(spec).load("energy")
    return model.energy(
        spec,
        counts,
        technology=machine.technology,
        memory=machine.memory.energy,
        clock_hz=machine.clock_hz,
    )


def _on_vector_unit(
    machine: Machine,
    node: Node,
    inputs: tuple[Array, ...],
    start: int,
    cache: vector.KVCache | None,
) -> tuple[Array, LayerRun]:
    cached = 0 if cache is None else cache.length
    value = vector.apply(node, *inputs, cache=cache)
    moved = vector_unit.moved_bytes(node, inputs, value, cached)
    operations = vector_unit.operations(node, inputs, value, cached)
    causes = vector_unit.cycles(machine, operations, moved)
    layer = LayerRun(
        name=node.name,
        op=node.op,
        engine=node.engine,
        spec=None,
        start=start,
        cycles=sum(causes.values()),
        cycles_by_cause=causes,
        macs=vector_unit.macs(node, inputs, cached),
        macs_per_cycle=None,
        bytes=moved,
        counts={},
        energy=None,
        jobs=(),
        shape=value.shape,
    )
    return value, layer
