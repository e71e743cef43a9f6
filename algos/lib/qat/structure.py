# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network an array may take, and which values share a step."""

from __future__ import annotations

from algos.lib.calibrate import SAME_SCALE, is_wide
from algos.lib.graph import FloatGraph


def hidden_layers(graph: FloatGraph) -> tuple[str, ...]:
    """Return the layers of one group between the first and the last, in topological order."""
    source = graph.inputs[0].name
    return tuple(
        node.name
        for node in graph.ops("linear", "conv2d")
        if int(node.attrs.get("groups", 1)) == 1
        and root(graph, node.inputs[0]) != source
        and not is_wide(graph, node.name)
    )


def root(graph: FloatGraph, name: str) -> str:
    """Return the value whose step a value has."""
    node = graph.producer(name)
    while node is not None and node.op in SAME_SCALE:
        name = node.inputs[0]
        node = graph.producer(name)
    return name


def value_names(graph: FloatGraph) -> list[str]:
    """Return the names of all values: the input's, then the nodes'."""
    return [graph.inputs[0].name, *(node.name for node in graph.nodes)]
