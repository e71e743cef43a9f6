# SPDX-License-Identifier: Apache-2.0
"""A network in float: the operations of docs/packed-format.md on torch tensors, before compression.

`algos.lib.export` makes one from an ``nn.Module``; methods rewrite it (folding, smoothing,
rotation) and calibrate on it; its outputs are the float baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from algos.lib.float_ops import OPS, KVCache
from cosil.packed.network import Value

__all__ = ["FloatGraph", "FloatNode", "KVCache", "Observer", "execute"]


@dataclass(frozen=True, slots=True, eq=False)
class FloatNode:
    """One operation. Its output value bears the node's name.

    Attributes
    ----------
    name : str
        Unique in the graph; letters, digits, ``_`` and ``.``, e.g. ``blocks.0.down``.
    op : str
        One of `algos.lib.float_ops.OPS`, which documents inputs, attrs and tensors of each.
    inputs : tuple of str
        Names of nodes or of graph inputs.
    attrs : mapping
        JSON-like parameters.
    tensors : mapping of str to Tensor
        Float constants: ``weight``, ``bias``, ``gamma``, ``beta``, ``table``, ``cos``, ``sin``.
    path : str
        Module path in the source model ("" is its top).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    path: str = ""

    def with_tensors(self, **tensors: Tensor) -> FloatNode:
        """Return this node with some tensors replaced or added."""
        return replace(self, tensors={**self.tensors, **tensors})

    def with_attrs(self, **attrs: Any) -> FloatNode:
        """Return this node with some attrs replaced or added."""
        return replace(self, attrs={**self.attrs, **attrs})

    def with_inputs(self, *inputs: str) -> FloatNode:
        """Return this node with other inputs."""
        return replace(self, inputs=inputs)


Observer = Callable[[FloatNode, tuple[Tensor, ...], Tensor], None]
"""Called by `execute` after each node with the node, its input values and its output value."""


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """A network as nodes in topological order.

    Attributes
    ----------
    name : str
        Name of the network.
    inputs : tuple of Value
        Inputs: dtype ``f32`` or ``ids``, shape without the batch (0 = variable).
    nodes : tuple of FloatNode
        Every input of a node is a graph input or an earlier node.
    outputs : tuple of str
        Names of the values that the network returns.

    Raises
    ------
    ValueError
        If a name occurs twice, an input is not defined before its use, or an op is unknown.
    """

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[FloatNode, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        known = {value.name for value in self.inputs}
        if len(known) != len(self.inputs):
            raise ValueError(f"graph {self.name}: two inputs bear the same name")
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"graph {self.name}: the name {node.name!r} occurs twice")
            if node.op not in OPS:
                raise ValueError(
                    f"graph {self.name}: {node.name!r} has op {node.op!r}; "
                    f"known are {', '.join(OPS)}"
                )
            for name in node.inputs:
                if name not in known:
                    raise ValueError(
                        f"graph {self.name}: {node.name!r} reads {name!r}, "
                        "which is not defined before it"
                    )
            known.add(node.name)
        for name in self.outputs:
            if name not in known:
                raise ValueError(f"graph {self.name}: output {name!r} is not defined")

    @cached_property
    def _by_name(self) -> dict[str, FloatNode]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _consumers(self) -> dict[str, tuple[FloatNode, ...]]:
        found: dict[str, list[FloatNode]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def node(self, name: str) -> FloatNode:
        """Return the node of that name.

        Raises
        ------
        KeyError
            If there is none (graph inputs are not nodes).
        """
        return self._by_name[name]

    def producer(self, name: str) -> FloatNode | None:
        """Return the node that computes value `name`, or None for a graph input."""
        return self._by_name.get(name)

    def consumers(self, name: str) -> tuple[FloatNode, ...]:
        """Return the nodes that read value `name`, in topological order, each once."""
        return self._consumers.get(name, ())

    def ops(self, *ops: str) -> tuple[FloatNode, ...]:
        """Return the nodes with one of these ops, in topological order."""
        return tuple(node for node in self.nodes if node.op in ops)

    def replaced(self, *nodes: FloatNode) -> FloatGraph:
        """Return the graph with each of `nodes` in the place of the node of the same name."""
        new = {node.name: node for node in nodes}
        for name in new:
            if name not in self._by_name:
                raise ValueError(f"graph {self.name}: no node {name!r} to replace")
        return replace(self, nodes=tuple(new.get(node.name, node) for node in self.nodes))

    def without(self, name: str, instead: str) -> FloatGraph:
        """Return the graph without node `name`; its readers read value `instead`."""
        return self.renamed({name: instead}, drop={name})

    def renamed(self, reads: Mapping[str, str], drop: Iterable[str] = ()) -> FloatGraph:
        """Return the graph with reads of each key of `reads` redirected and nodes `drop` gone."""
        gone = set(drop)
        nodes = tuple(
            replace(node, inputs=tuple(reads.get(name, name) for name in node.inputs))
            for node in self.nodes
            if node.name not in gone
        )
        outputs = tuple(reads.get(name, name) for name in self.outputs)
        return replace(self, nodes=nodes, outputs=outputs)

    def inserted(self, after: str, *nodes: FloatNode) -> FloatGraph:
        """Return the graph with `nodes` right after value `after`, a node or a graph input."""
        if after not in self._by_name:
            return replace(self, nodes=(*nodes, *self.nodes))
        at = next(i for i, node in enumerate(self.nodes) if node.name == after) + 1
        return replace(self, nodes=(*self.nodes[:at], *nodes, *self.nodes[at:]))

    def copy(self) -> FloatGraph:
        """Return the graph with every tensor cloned."""
        nodes = tuple(
            replace(
                node,
                attrs=dict(node.attrs),
                tensors={key: tensor.clone() for key, tensor in node.tensors.items()},
            )
            for node in self.nodes
        )
        return replace(self, nodes=nodes)

    def pruned(self) -> FloatGraph:
        """Return the graph without the nodes that no output depends on."""
        needed = set(self.outputs)
        kept: list[FloatNode] = []
        for node in reversed(self.nodes):
            if node.name in needed:
                kept.append(node)
                needed.update(node.inputs)
        return replace(self, nodes=tuple(reversed(kept)))


@torch.no_grad()
def execute(
    graph: FloatGraph,
    inputs: Sequence[Tensor] | Mapping[str, Tensor] | Tensor,
    observe: Observer | None = None,
    cache: KVCache | None = None,
) -> tuple[Tensor, ...]:
    """Run a float graph.

    Parameters
    ----------
    graph : FloatGraph
        The network.
    inputs : Tensor, sequence or mapping of Tensor
        One tensor per graph input, batch first, in the graph's order or by name.
    observe : callable, optional
        Sees every node with its input values and its output value.
    cache : KVCache, optional
        Keys and values of earlier positions. Read by attention, by rotary and by position
        embeddings; extended in place by this call's positions.

    Returns
    -------
    tuple of Tensor
        The graph's outputs.

    Raises
    ------
    ValueError
        If inputs do not match the graph's, or a sequence is longer than a position table.
    """
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        missing = [value.name for value in graph.inputs if value.name not in inputs]
        if missing or len(inputs) != len(graph.inputs):
            raise ValueError(
                f"graph {graph.name}: inputs must be {', '.join(v.name for v in graph.inputs)}, "
                f"not {', '.join(inputs) or 'none'}"
            )
        inputs = [inputs[value.name] for value in graph.inputs]
    if len(inputs) != len(graph.inputs):
        raise ValueError(
            f"graph {graph.name}: {len(graph.inputs)} inputs are required, not {len(inputs)!r}"
        )
    values: dict[str, Tensor] = {}
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        _check_input(graph.name, value, tensor)
        values[value.name] = tensor
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        arguments = tuple(values[name] for name in node.inputs)
        try:
            result = OPS[node.op](node, arguments, cache)
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"graph {graph.name}: {node.name!r} ({node.op}) cannot run on "
                f"{', '.join(str(tuple(a.shape)) for a in arguments)}: {error}"
            ) from error
        values[node.name] = result
        if observe is not None:
            observe(node, arguments, result)
        for name in node.inputs:
            # Free what is not read again, so that memory stays at the width of the graph.
            if last_use[name] == i and name not in graph.outputs:
                values.pop(name, None)
    if cache is not None:
        cache.commit(int(inputs[0].shape[1]))
    return tuple(values[name] for name in graph.outputs)


def _check_input(graph: str, value: Value, tensor: Tensor) -> None:
    shape = tuple(tensor.shape[1:])
    fits = len(shape) == len(value.shape) and all(
        want in (0, have) for want, have in zip(value.shape, shape, strict=True)
    )
    if not fits or tensor.ndim == 0:
        expected = ", ".join(["B", *("?" if size == 0 else str(size) for size in value.shape)])
        raise ValueError(
            f"graph {graph}: input {value.name!r} must have shape ({expected}), "
            f"not {tuple(tensor.shape)!r}"
        )
    if (value.dtype == "ids") == tensor.is_floating_point():
        kind = "integer token numbers" if value.dtype == "ids" else "floating point"
        raise ValueError(
            f"graph {graph}: input {value.name!r} must hold {kind}, not {str(tensor.dtype)!r}"
        )
