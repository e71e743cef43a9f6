# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network run on an array, and which values share a step."""

from __future__ import annotations

from algos.lib.calibrate import SAME_SCALE, is_wide
from algos.lib.graph import FloatGraph


def array_layers(graph: FloatGraph) -> tuple[str, ...]:
    """Return the layers that run on the array, in topological order.

    All but the first and the last, those of several groups, and those whose input may be negative:
    an array is driven with unsigned codes.
    """
    source = graph.inputs[0].name
    return tuple(
        node.name
        for node in graph.ops("linear", "conv2d")
        if int(node.attrs.get("groups", 1)) == 1
        and root(graph, node.inputs[0]) != source
        and not is_wide(graph, node.name)
        and _unsigned(graph, node.inputs[0])
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


def _unsigned(graph: FloatGraph, name: str) -> bool:
    node = graph.producer(name)
    if node is None:
        return False
    if node.op == "relu" or node.attrs.get("relu", False):
        return True
    movement = (*SAME_SCALE, "avgpool", "concat", "add")
    return node.op in movement and all(_unsigned(graph, source) for source in node.inputs)
