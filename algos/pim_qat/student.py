# SPDX-License-Identifier: Apache-2.0
"""The network in training: codes of weights and activations, arrays, batch norms put back in.

A float graph has its batch norms folded. Each layer but the last gets one again, behind it, with
the scale and offset that give the float layer's mean and deviation on the calibration data.

Every value has one step, in training as in the packed network, in which it is an int8. The step of
what an array reads is its clip / (2**activation_bits - 1): the clip acts where the array reads, so
a shortcut keeps the whole int8 range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.calibrate import SAME_SCALE, fuse_relu, is_wide
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatGraph, FloatNode
from algos.pim_qat.layers import instead, own, trained_layer
from algos.pim_qat.quantisers import activation_codes, rounded
from algos.pim_qat.structure import array_layers, root, value_names

MOMENTUM = 0.1
INT8_LOW, INT8_HIGH = -128, 127


class Student:
    """A network whose layers are trained as they will run.

    Parameters
    ----------
    graph : FloatGraph
        Of mode fixed.
    weight_bits, activation_bits : int
        Of the layers on the array.
    device : torch.device
        Where it is trained.

    Attributes
    ----------
    teacher, graph : FloatGraph
        The float network on the device; the same with ReLUs fused.
    on_array : tuple of str
        Layers for the array, in topological order.
    roots : dict of str to str
        Value -> the value whose step it has.
    clipped : set of str
        Roots that an array reads.
    log_steps : dict of str to Tensor
        Root -> logarithm of its step.
    backward_rescale : bool
        Multiply an array's gradient by xi = sigma(array's sums) / sigma(digital sums).
    """

    def __init__(
        self,
        graph: FloatGraph,
        weight_bits: int,
        activation_bits: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.teacher = _on(graph, torch.device(device))
        self.graph = fuse_relu(self.teacher)
        self.top = min(INT8_HIGH, (1 << activation_bits) - 1)
        self.backward_rescale = True
        on_array = set(array_layers(self.graph))
        self.layers = {
            node.name: trained_layer(
                node,
                weight_bits if node.name in on_array else None,
                last=is_wide(self.graph, node.name),
            )
            for node in self.graph.ops("linear", "conv2d")
        }
        self.on_array = tuple(name for name in self.layers if name in on_array)
        self.roots = {name: root(self.graph, name) for name in value_names(self.graph)}
        self.clipped = {self.roots[self.graph.node(name).inputs[0]] for name in self.on_array}
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
                layer = self.layers[node.name]
                if before is not None:
                    before(node, inputs[0])
                y = self.raw(node, inputs[0], generator)
                y = self.finish(node, y if layer.norm is None else layer.norm(y, momentum))
            else:
                y = OPS[node.op](node, inputs, None)
            if node.attrs.get("relu", False):
                y = F.relu(y)
            values[node.name] = y if node.op in SAME_SCALE else self.held(node.name, y)
        return values[self.graph.outputs[0]]

    def raw(self, node: FloatNode, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a layer's sums in real units, before its batch norm or bias: float[B, N, H, W]."""
        layer = self.layers[node.name]
        step = self.step(node.inputs[0])
        weight = layer.codes()
        unit = step * layer.unit(weight)
        codes = self.input_codes(node, x)
        if layer.array is None:
            return layer.geometry.conv(codes, weight, layer.groups) * unit
        with torch.no_grad():
            array = layer.array
            acc = array.accumulate(codes.detach(), weight.detach(), layer.geometry, generator)
            sums = acc.mul_(float(array.grid.step)).add_(array.origin(weight.shape[1]))
            sums = sums.mul_(layer.eta)
        if not torch.is_grad_enabled():
            return sums * unit
        digital = layer.geometry.conv(codes, weight)
        with torch.no_grad():
            xi = sums.std() / digital.std().clamp_min(1e-6)
            factor = xi if self.backward_rescale else torch.ones_like(xi)
        return instead(digital, sums, factor) * unit

    def input_codes(self, node: FloatNode, x: Tensor) -> Tensor:
        """Return the codes that a layer reads of a held value, as [B, C, H, W]."""
        codes = rounded(x / self.step(node.inputs[0]))
        if node.name in self.on_array:
            codes = codes.clamp(0, self.top)
        return codes.reshape(-1, codes.shape[-1], 1, 1) if node.op == "linear" else codes

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

    def copy(self) -> Student:
        """Return a student with its own tensors; arrays are shared."""
        other = copy(self)
        other.layers = {name: layer.copy() for name, layer in self.layers.items()}
        other.log_steps = {name: own(step) for name, step in self.log_steps.items()}
        return other


def _on(graph: FloatGraph, device: torch.device) -> FloatGraph:
    """Return the graph with its tensors on a device."""
    nodes = tuple(
        node.with_tensors(**{key: tensor.to(device) for key, tensor in node.tensors.items()})
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
