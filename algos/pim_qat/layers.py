# SPDX-License-Identifier: Apache-2.0
"""A layer in training: its weight, its batch norm, and the array that converts its sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.graph import FloatNode
from algos.pim_qat.array import Array, Geometry
from algos.pim_qat.quantisers import constant_scale, deviation_scale, weight_codes

DIGITAL_BITS = 4
"""Weight bits of the layers that stay digital: engine `w4a8`."""
EPS = 1e-5


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
            norm = Norm(own(norm.gamma), own(norm.beta), own(norm.mean), own(norm.var))
        bias = None if self.bias is None else own(self.bias)
        return replace(self, weight=own(self.weight), norm=norm, bias=bias)

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


def instead(digital: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """Return `value`; its gradient, times a factor, goes to `digital`."""
    apply = cast("Callable[..., Tensor]", _Instead.apply)  # pyright: ignore[reportUnknownMemberType]
    return apply(digital, value, factor)


def trained_layer(node: FloatNode, bits: int | None, *, last: bool) -> Trained:
    """Return the layer that a float node starts as; `bits` None: it stays digital."""
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
    if last:
        bias = node.tensors.get("bias", torch.zeros(size, device=device))
        layer.bias = bias.float().clone().requires_grad_()
    else:
        one, zero = (torch.full((size,), value, device=device) for value in (1.0, 0.0))
        layer.norm = Norm(
            one.clone().requires_grad_(), zero.clone().requires_grad_(), zero.clone(), one.clone()
        )
    return layer


def own(x: Tensor) -> Tensor:
    """Return a copy that is trained if the tensor is."""
    return x.detach().clone().requires_grad_(x.requires_grad)
