# SPDX-License-Identifier: Apache-2.0
"""A layer in training: its geometry, its weight, its batch norm or bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.graph import FloatNode
from algos.lib.qat.codes import constant_scale, deviation_scale, weight_codes

DIGITAL_BITS = 4
"""Weight bits of the layers that stay digital: engine `w4a8`."""
EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Geometry:
    """How rows of an input meet a kernel; a linear layer is a 1 x 1 convolution of one position."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def conv(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """Return the convolution; integers whose sums float32 holds come out exactly."""
        # Of torch's algorithms on a CPU only NNPACK's transform the operands, which rounds.
        with torch.backends.nnpack.flags(enabled=False):
            y = F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, groups)
        # cuDNN may take Winograd's algorithm, whose error is far below one half.
        return y.round() if y.is_cuda and not y.requires_grad else y


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
        Of a convolution.
    norm, bias
        A layer has one of the two; the last layer of the network has the bias.
    """

    weight: Tensor
    bits: int
    geometry: Geometry
    groups: int = 1
    norm: Norm | None = None
    bias: Tensor | None = None

    def codes(self) -> Tensor:
        """Return the weight codes, float[N, C, kh, kw]."""
        return weight_codes(self.weight, self.bits)

    def copy(self) -> Self:
        """Return a layer with its own tensors."""
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


Layer = TypeVar("Layer", bound=Trained)


def trained_layer(kind: type[Layer], node: FloatNode, bits: int, *, last: bool) -> Layer:
    """Return the layer of a kind that a float node starts as; the last one has no norm."""
    weight = node.tensors["weight"].float()
    at = node.attrs
    if node.op == "linear":
        weight = weight[:, :, None, None]
        geometry = Geometry()
    else:
        parts = (tuple(int(v) for v in at[key]) for key in ("stride", "padding", "dilation"))
        geometry = Geometry(*parts)  # pyright: ignore[reportArgumentType]
    groups = int(at.get("groups", 1))
    layer = kind(weight.clone().requires_grad_(), bits, geometry, groups)
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
