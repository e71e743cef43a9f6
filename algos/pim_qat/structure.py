# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network run on an array."""

from __future__ import annotations

from algos.lib.calibrate import SAME_SCALE
from algos.lib.graph import FloatGraph
from algos.lib.qat.structure import hidden_layers


def array_layers(graph: FloatGraph) -> tuple[str, ...]:
    """Return the layers that run on the array, in topological order.

    All but the first and the last, those of several groups, and those whose input may be negative:
    an array is driven with unsigned codes.
    """
    return tuple(
        name for name in hidden_layers(graph) if _unsigned(graph, graph.node(name).inputs[0])
    )


def _unsigned(graph: FloatGraph, name: str) -> bool:
    node = graph.producer(name)
    if node is None:
        return False
    if node.op == "relu" or node.attrs.get("relu", False):
        return True
    movement = (*SAME_SCALE, "avgpool", "concat", "add")
    return node.op in movement and all(_unsigned(graph, source) for source in node.inputs)
