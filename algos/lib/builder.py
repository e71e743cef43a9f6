# SPDX-License-Identifier: Apache-2.0
"""A float graph that grows in the order of a recorded module's nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from algos.lib.capture import Capture, op_name
from algos.lib.graph import FloatGraph, FloatNode
from cosil.packed.network import Value


class Builder:
    """A float graph that grows in the order of the recorded nodes.

    Attributes
    ----------
    trace : Capture
        The recorded module.
    nodes : dict of str to FloatNode
        What has been added, by name.
    """

    def __init__(self, trace: Capture, name: str) -> None:
        self.trace = trace
        self.nodes: dict[str, FloatNode] = {}
        self._title = name
        self._values = {node: node.name for node in trace.inputs}

    def name(self, node: object) -> str:
        """Return the name of the value that a recorded node became."""
        assert isinstance(node, fx.Node)
        return self._values[node]

    def add(
        self, node: fx.Node, op: str, inputs: Sequence[str],
        attrs: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None,
        final: bool = True,
    ) -> str:  # fmt: skip
        """Add an operation; `final` makes it the value of the recorded node."""
        path, leaf = self.trace.path(node)
        name = self._fresh(path if leaf and path else f"{path}.{op}" if path else op)
        floats = {k: t.detach().float().contiguous() for k, t in (tensors or {}).items()}
        self.nodes[name] = FloatNode(name, op, tuple(inputs), dict(attrs or {}), floats, path)
        if final:
            self._values[node] = name
        return name

    def alias(self, node: fx.Node, source: fx.Node) -> None:
        """Let a recorded node be the value of another."""
        self._values[node] = self._values[source]

    def rewrite(self, node: FloatNode) -> None:
        """Replace the node of that name."""
        self.nodes[node.name] = node

    def linear_rows(self, source: fx.Node, rows: Tensor, suffix: str) -> str:
        """Add some rows of a linear layer as a layer of its own."""
        x, weight, bias = linear_parts(self.trace, source)
        tensors = {"weight": weight[rows]} | ({} if bias is None else {"bias": bias[rows]})
        name = self.add(source, "linear", (self.name(x),), {}, tensors, final=False)
        fused = self.nodes.pop(name)
        name = self._fresh(f"{fused.name}.{suffix}")
        self.nodes[name] = replace(fused, name=name)
        return name

    def only_reader(self, source: fx.Node, reader: fx.Node) -> FloatNode | None:
        """Return the node of `source` if `reader` alone reads it, so that it may be rewritten."""
        node = self.nodes.get(self._values[source])
        return node if list(source.users) == [reader] and source not in self.trace.outputs else None

    def graph(self, outputs: Sequence[fx.Node]) -> FloatGraph:
        """Return the finished graph."""
        inputs: list[Value] = []
        for node, x in zip(self.trace.inputs, self.trace.example_inputs, strict=True):
            shape = tuple(
                0 if self.trace.is_variable(node, d) else int(x.shape[d]) for d in range(1, x.ndim)
            )
            inputs.append(Value(node.name, "f32" if x.is_floating_point() else "ids", shape))
        names = tuple(self.name(node) for node in outputs)
        return FloatGraph(self._title, tuple(inputs), tuple(self.nodes.values()), names).pruned()

    def _fresh(self, wanted: str) -> str:
        wanted = re.sub(r"[^A-Za-z0-9_.]", "_", wanted)
        taken = self.nodes.keys() | {node.name for node in self.trace.inputs}
        name, i = wanted, 1
        while name in taken:
            i += 1
            name = f"{wanted}_{i}"
        return name


Handler = Callable[[Builder, fx.Node], None]
"""Adds what a recorded node stands for."""


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """Return an argument of a recorded call, given by place or by name."""
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def pair(value: Any) -> list[int]:
    """Return a size for both axes of an image."""
    values: list[Any] = [*value] if hasattr(value, "__len__") else [value]
    return [int(v) for v in (values * 2 if len(values) == 1 else values)]


def scalar_value(trace: Capture, argument: object) -> float | None:
    """Return a constant number, or None for data and for constants of more elements."""
    if trace.is_data(argument):
        return None
    value = trace.value(argument)
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value)


def linear_parts(trace: Capture, node: fx.Node) -> tuple[fx.Node, Tensor, Tensor | None]:
    """Return input, weight (N, K) and bias of a recorded linear layer."""
    name = op_name(node)
    bias: object = None
    if name == "aten.linear":
        x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    elif name == "aten.addmm":
        bias, x, weight = node.args[:3]
    else:
        x, weight = node.args[:2]
    if not trace.is_data(x) or trace.is_data(weight):
        raise trace.refuse(node, "it is a product of two values", _PRODUCT_HINT)
    matrix = trace.value(weight)
    if matrix.ndim != 2:
        raise trace.refuse(node, f"its constant has {matrix.ndim} axes, not 2", _PRODUCT_HINT)
    assert isinstance(x, fx.Node)
    return x, matrix if name == "aten.linear" else matrix.t(), trace.value(bias)


_PRODUCT_HINT = "write a layer as nn.Linear and attention as F.scaled_dot_product_attention"


def scale_rows(layer: FloatNode, gain: Tensor, offset: Tensor) -> FloatNode:
    """Return a linear or conv2d node followed by y * gain + offset, per output channel."""
    weight = layer.tensors["weight"]
    bias = layer.tensors.get("bias", torch.zeros(weight.shape[0]))
    shape = (-1, *[1] * (weight.ndim - 1))
    return layer.with_tensors(weight=weight * gain.reshape(shape), bias=bias * gain + offset)
