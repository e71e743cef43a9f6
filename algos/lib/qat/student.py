# SPDX-License-Identifier: Apache-2.0
"""A network in training: values as their int8 codes hold them, batch norms put back in.

A float graph has its batch norms folded. Each layer but the last gets one again, behind it, with
the scale and offset that give the float layer's mean and deviation on the calibration data.

Every value has one step, in training as in the packed network, in which it is an int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from typing import Generic, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.calibrate import SAME_SCALE, is_wide
from algos.lib.clip import static_scale
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.qat.codes import activation_codes, rounded
from algos.lib.qat.layers import Layer, own
from algos.lib.qat.structure import root, value_names

MOMENTUM = 0.1
INT8_LOW, INT8_HIGH = -128, 127


class Student(Generic[Layer]):
    """A network whose layers are trained as they will run; digital ones exactly.

    A method's student says what its own layers do.

    Parameters
    ----------
    teacher : FloatGraph
        Of mode fixed: the float network.
    graph : FloatGraph
        What is trained: the same network with ReLUs fused.

    Attributes
    ----------
    layers : dict of str to Trained
        By node name; the subclass fills it.
    roots : dict of str to str
        Value -> the value whose step it has.
    log_steps : dict of str to Tensor
        Root -> logarithm of its step; `start` fills it.
    """

    def __init__(self, teacher: FloatGraph, graph: FloatGraph) -> None:
        self.teacher, self.graph = teacher, graph
        self.layers: dict[str, Layer] = {}
        self.roots = {name: root(graph, name) for name in value_names(graph)}
        self.log_steps: dict[str, Tensor] = {}

    # -- running ---------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        momentum: float | None = None,
        generator: torch.Generator | None = None,
        before: Callable[[FloatNode, Tensor], None] | None = None,
    ) -> Tensor:
        """Return the network's output.

        Parameters
        ----------
        x : float[B, ...]
            Inputs.
        momentum : float, optional
            Batch norms use the batch's statistics and move towards them by this; None uses theirs.
        generator : torch.Generator, optional
            Of noise.
        before : callable, optional
            Called with each layer's node and its input before the layer runs.
        """
        source = self.graph.inputs[0].name
        values = {source: self.held(source, x)}
        for node in self.graph.nodes:
            inputs = tuple(values[name] for name in node.inputs)
            if node.name in self.layers:
                if before is not None:
                    before(node, inputs[0])
                y = self.output(node, inputs[0], momentum, generator)
            else:
                y = OPS[node.op](node, inputs, None)
            if node.attrs.get("relu", False):
                y = F.relu(y)
            values[node.name] = y if node.op in SAME_SCALE else self.held(node.name, y)
        return values[self.graph.outputs[0]]

    def output(
        self, node: FloatNode, x: Tensor, momentum: float | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return a layer's output before ReLU and rounding."""
        norm = self.layers[node.name].norm
        y = self.raw(node, x, generator)
        return self.finish(node, y if norm is None else norm(y, momentum))

    def raw(self, node: FloatNode, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a layer's sums in real units, before its batch norm or bias: float[B, N, H, W]."""
        layer = self.layers[node.name]
        weight = layer.codes()
        unit = self.step(node.inputs[0]) * layer.unit(weight)
        return layer.geometry.conv(self.input_codes(node, x), weight, layer.groups) * unit

    def input_codes(self, node: FloatNode, x: Tensor) -> Tensor:
        """Return the codes that a layer reads of a held value, as [B, C, H, W]."""
        return images(node, rounded(x / self.step(node.inputs[0])))

    def finish(self, node: FloatNode, y: Tensor) -> Tensor:
        """Return a layer's output of its normalised sums: the bias added, in the value's axes."""
        layer = self.layers[node.name]
        if layer.bias is not None:
            y = y + layer.bias.reshape(1, -1, 1, 1)
        return y.flatten(1) if node.op == "linear" else y

    def held(self, name: str, x: Tensor) -> Tensor:
        """Return a value as its int8 codes hold it; int16 outputs stay as they are."""
        if is_wide(self.graph, name):
            return x
        step = self.step(name)
        return activation_codes(x, step, low=INT8_LOW, high=INT8_HIGH) * step

    def step(self, name: str) -> Tensor:
        """Return the real value of one code of a value."""
        return self.log_steps[self.roots[name]].exp()

    def first_step(self, name: str, x: Tensor) -> float:
        """Return the step that a value with data like `x` starts from."""
        return static_scale(x, "mse")

    # -- training: what a method's student does besides ------------------------------------------

    def begin(self, progress: float) -> None:
        """Note how much of the training, 0 to 1, lies before the step that begins."""

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss."""
        return None

    def adjust(self) -> None:
        """Change the gradients before they are applied."""

    def settle(self) -> None:
        """Note what the step has done."""

    # -- state -----------------------------------------------------------------------------------

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what is trained, with its kind: ``weight``, ``step`` or ``other``."""
        for layer in self.layers.values():
            yield "weight", layer.weight
            if layer.norm is not None:
                yield "other", layer.norm.gamma
                yield "other", layer.norm.beta
            if layer.bias is not None:
                yield "other", layer.bias
        for step in self.log_steps.values():
            yield "step", step

    def copy(self) -> Self:
        """Return a student with its own tensors."""
        other = copy(self)
        other.layers = {name: layer.copy() for name, layer in self.layers.items()}
        other.log_steps = {name: own(step) for name, step in self.log_steps.items()}
        return other


def images(node: FloatNode, x: Tensor) -> Tensor:
    """Return a layer's input as [B, C, H, W]: rows of a linear layer are images of one pixel."""
    return x.reshape(-1, x.shape[-1], 1, 1) if node.op == "linear" else x


def on_device(graph: FloatGraph, device: torch.device) -> FloatGraph:
    """Return the graph with its tensors on a device."""
    nodes = tuple(
        node.with_tensors(**{key: tensor.to(device) for key, tensor in node.tensors.items()})
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
