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
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.calibrate import SAME_SCALE, fuse_relu, is_wide
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatGraph, FloatNode
from algos.pim_qat.array import Array, Geometry
from algos.pim_qat.quantisers import (
    activation_codes,
    constant_scale,
    deviation_scale,
    rounded,
    weight_codes,
)

DIGITAL_BITS = 4
"""Weight bits of the layers that stay digital: engine `w4a8`."""
EPS = 1e-5
MOMENTUM = 0.1
INT8_LOW, INT8_HIGH = -128, 127


@dataclass(slots=True, eq=False)
class Norm:
    """A batch norm over the axis of channels."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor

    def __call__(self, y: Tensor, momentum: float | None) -> Tensor:
        """Normalise by the batch and note its statistics, or, momentum None, by those noted."""
        training = momentum is not None
        return F.batch_norm(
            y, self.mean, self.var, self.gamma, self.beta, training, momentum or 0.0, EPS
        )

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return gain and offset of each channel, float64."""
        gain = self.gamma.double() * torch.rsqrt(self.var.double() + EPS)
        return gain.detach(), (self.beta.double() - self.mean.double() * gain).detach()


@dataclass(slots=True, eq=False)
class Trained:
    """A linear or convolution layer in training.

    Attributes
    ----------
    weight : float[N, C, kh, kw]
        Of a linear layer with kh = kw = 1.
    bits : int
        Of a weight code.
    geometry : Geometry
        Stride, padding, dilation.
    groups : int
        Of a convolution that stays digital.
    norm, bias
        A layer has one of the two; the last layer of the network has the bias.
    array : Array or None
        What converts its sums; None is exact (digital).
    eta : float
        Factor of the array's output in the forward pass.
    """

    weight: Tensor
    bits: int
    geometry: Geometry
    groups: int = 1
    norm: Norm | None = None
    bias: Tensor | None = None
    array: Array | None = None
    eta: float = 1.0

    def codes(self) -> Tensor:
        """Return the weight codes, float[N, C, kh, kw]."""
        return weight_codes(self.weight, self.bits)

    def copy(self) -> Trained:
        """Return a layer with its own tensors; the array is shared."""
        norm = self.norm
        if norm is not None:
            norm = Norm(_own(norm.gamma), _own(norm.beta), _own(norm.mean), _own(norm.var))
        bias = None if self.bias is None else _own(self.bias)
        return replace(self, weight=_own(self.weight), norm=norm, bias=bias)

    def unit(self, codes: Tensor) -> Tensor:
        """Return what one weight code stands for."""
        if self.norm is None:
            return deviation_scale(codes, self.weight)
        return constant_scale(codes)


class _Instead(torch.autograd.Function):
    """A value in the place of another, whose gradient it gets, times a factor."""

    @staticmethod
    def forward(ctx: Any, digital: Tensor, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grad_outputs[0] * factor, None, None


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
            node.name: _trained(self.graph, node, weight_bits if node.name in on_array else None)
            for node in self.graph.ops("linear", "conv2d")
        }
        self.on_array = tuple(name for name in self.layers if name in on_array)
        self.roots = {name: _root(self.graph, name) for name in _values(self.graph)}
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
        apply = cast("Callable[..., Tensor]", _Instead.apply)  # pyright: ignore[reportUnknownMemberType]
        return apply(digital, sums, factor) * unit

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
        other.log_steps = {name: _own(step) for name, step in self.log_steps.items()}
        return other


def _own(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


# -- structure of the graph ----------------------------------------------------------------------


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
        and _root(graph, node.inputs[0]) != source
        and not is_wide(graph, node.name)
        and _unsigned(graph, node.inputs[0])
    )


def _root(graph: FloatGraph, name: str) -> str:
    """Return the value whose step a value has."""
    node = graph.producer(name)
    while node is not None and node.op in SAME_SCALE:
        name = node.inputs[0]
        node = graph.producer(name)
    return name


def _values(graph: FloatGraph) -> list[str]:
    return [graph.inputs[0].name, *(node.name for node in graph.nodes)]


def _unsigned(graph: FloatGraph, name: str) -> bool:
    node = graph.producer(name)
    if node is None:
        return False
    if node.op == "relu" or node.attrs.get("relu", False):
        return True
    movement = (*SAME_SCALE, "avgpool", "concat", "add")
    return node.op in movement and all(_unsigned(graph, source) for source in node.inputs)


def _on(graph: FloatGraph, device: torch.device) -> FloatGraph:
    """Return the graph with its tensors on a device."""
    nodes = tuple(
        node.with_tensors(**{key: tensor.to(device) for key, tensor in node.tensors.items()})
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _trained(graph: FloatGraph, node: FloatNode, bits: int | None) -> Trained:
    weight = node.tensors["weight"].float()
    at = node.attrs
    if node.op == "linear":
        weight = weight[:, :, None, None]
        geometry = Geometry()
    else:
        parts = (tuple(int(v) for v in at[key]) for key in ("stride", "padding", "dilation"))
        geometry = Geometry(*parts)  # pyright: ignore[reportArgumentType]
    layer = Trained(
        weight.clone().requires_grad_(), bits or DIGITAL_BITS, geometry, int(at.get("groups", 1))
    )
    size, device = weight.shape[0], weight.device
    if is_wide(graph, node.name):
        bias = node.tensors.get("bias", torch.zeros(size, device=device))
        layer.bias = bias.float().clone().requires_grad_()
    else:
        one, zero = (torch.full((size,), value, device=device) for value in (1.0, 0.0))
        layer.norm = Norm(
            one.clone().requires_grad_(), zero.clone().requires_grad_(), zero.clone(), one.clone()
        )
    return layer
