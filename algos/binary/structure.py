# SPDX-License-Identifier: Apache-2.0
"""Which layers become binary, what they read, and which of them give signs alone."""

from __future__ import annotations

from algos.lib.calibrate import SAME_SCALE, fuse_relu
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.qat.structure import hidden_layers
from cosil.packed.ops import XNOR_POOL_MAX


def binary_graph(graph: FloatGraph) -> tuple[FloatGraph, tuple[str, ...]]:
    """Return the graph that is trained, and its binary layers in topological order.

    Binary are all layers of one group but the first and the last. A ReLU whose output a binary
    layer reads goes: what is never negative has no signs. The others are fused.
    """
    layers = hidden_layers(graph)
    for node in graph.ops("relu"):
        if any(reader.name in layers for reader in readers(graph, node.name)):
            graph = graph.without(node.name, node.inputs[0])
    return fuse_relu(graph), layers


def threshold_layers(graph: FloatGraph, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the binary layers that only binary layers read: they give signs (mode threshold)."""
    return tuple(
        name
        for name in layers
        if (found := readers(graph, name)) and all(node.name in layers for node in found)
        and _output_free(graph, name)
    )  # fmt: skip


def readers(graph: FloatGraph, name: str) -> list[FloatNode]:
    """Return the nodes that compute with a value, also behind what only moves or selects it."""
    found: list[FloatNode] = []
    for node in graph.consumers(name):
        found += readers(graph, node.name) if node.op in SAME_SCALE else [node]
    return found


def pooled(graph: FloatGraph, name: str) -> FloatNode | None:
    """Return the max pooling right behind a convolution that the array can do, or None.

    It is the value's only reader, its windows lie side by side and have at most 64 positions.
    """
    consumers = graph.consumers(name)
    if len(consumers) != 1 or consumers[0].op != "maxpool" or graph.node(name).op != "conv2d":
        return None
    at = consumers[0].attrs
    kernel, stride, padding = (tuple(at[key]) for key in ("kernel", "stride", "padding"))
    fits = kernel == stride and not any(padding) and kernel[0] * kernel[1] <= XNOR_POOL_MAX
    return consumers[0] if fits else None


def _output_free(graph: FloatGraph, name: str) -> bool:
    """Return whether no output of the network is the value or its movement."""
    return name not in graph.outputs and all(
        _output_free(graph, node.name) for node in graph.consumers(name) if node.op in SAME_SCALE
    )
