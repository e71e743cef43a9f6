# SPDX-License-Identifier: Apache-2.0
"""The network in training: some of its layers on arrays.

The step of what an array reads is its clip / (2**activation_bits - 1): the clip acts where the
array reads, so a shortcut keeps the whole int8 range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.lib.calibrate import fuse_relu, is_wide
from algos.lib.clip import SAMPLE
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.qat.codes import instead
from algos.lib.qat.layers import DIGITAL_BITS, trained_layer
from algos.lib.qat.student import INT8_HIGH, on_device
from algos.lib.qat.student import Student as BaseStudent
from algos.pim_qat.layers import ArrayLayer
from algos.pim_qat.structure import array_layers

CLIPS = 40
"""Candidates of a clip: the largest value times i / CLIPS."""


class Student(BaseStudent[ArrayLayer]):
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
    on_array : tuple of str
        Layers for the array, in topological order.
    clipped : set of str
        Roots that an array reads.
    top : int
        Largest code that an array reads.
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
        teacher = on_device(graph, torch.device(device))
        super().__init__(teacher, fuse_relu(teacher))
        self.top = min(INT8_HIGH, (1 << activation_bits) - 1)
        self.backward_rescale = True
        on_array = set(array_layers(self.graph))
        self.layers = {
            node.name: trained_layer(
                ArrayLayer,
                node,
                weight_bits if node.name in on_array else DIGITAL_BITS,
                last=is_wide(self.graph, node.name),
            )
            for node in self.graph.ops("linear", "conv2d")
        }
        self.on_array = tuple(name for name in self.layers if name in on_array)
        self.clipped = {self.roots[self.graph.node(name).inputs[0]] for name in self.on_array}

    def raw(self, node: FloatNode, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a layer's sums in real units, before its batch norm or bias: float[B, N, H, W]."""
        layer = self.layers[node.name]
        array = layer.array
        if array is None:
            return super().raw(node, x, generator)
        weight = layer.codes()
        unit = self.step(node.inputs[0]) * layer.unit(weight)
        codes = self.input_codes(node, x)
        with torch.no_grad():
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
        codes = super().input_codes(node, x)
        return codes.clamp(0, self.top) if node.name in self.on_array else codes

    def first_step(self, name: str, x: Tensor) -> float:
        """Return the step that a value with data like `x` starts from."""
        if name in self.clipped:
            return clip(x, self.top) / self.top
        return super().first_step(name, x)


def clip(x: Tensor, top: int) -> float:
    """Return the clip with the least squared error of `top` + 1 codes."""
    flat = x.flatten()
    flat = flat[:: (flat.numel() // SAMPLE) | 1]
    largest = float(flat.max())
    if largest <= 0:
        return 1.0
    best, least = largest, torch.inf
    for i in range(1, CLIPS + 1):
        step = largest * i / CLIPS / top
        error = float((torch.round(flat / step).clamp(0, top) * step - flat).square().mean())
        if error < least:
            best, least = step * top, error
    return best
