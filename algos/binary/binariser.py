# SPDX-License-Identifier: Apache-2.0
"""The contract of a binariser: how a layer's weights and inputs become signs, and learn.

sign(0) = +1 everywhere, as the engine has it; the public code of the methods lets torch.sign make
it 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from algos.lib.qat.codes import instead


class Binariser(ABC):
    """One layer's rule, with the state that it keeps of the layer.

    Parameters
    ----------
    weight : float[N, C, kh, kw]
        The float layer's.
    generator : torch.Generator
        Of what starts at random.

    Attributes
    ----------
    progress : float
        How much of the training lies behind, 0 to 1.
    """

    ternary: ClassVar[bool] = False
    """Whether a weight may be 0."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        self.progress = 0.0

    def start(self, weight: Tensor) -> Tensor:
        """Return the trained weight that stands for the float layer's, of the same shape."""
        return weight

    @abstractmethod
    def weight(self, weight: Tensor) -> Tensor:
        """Return what the layer multiplies with in training, with the method's gradient."""

    def signs(self, weight: Tensor) -> Tensor:
        """Return the weight codes that are deployed: -1 and +1, or 0 too; no gradient."""
        return self.weight(weight).detach()

    @abstractmethod
    def scale(self, weight: Tensor) -> Tensor:
        """Return what a weight code stands for, float[N]."""

    @abstractmethod
    def activation(self, x: Tensor) -> Tensor:
        """Return the signs of a layer's inputs float[B, ...], with the method's gradient."""

    def parameters(self) -> Iterator[Tensor]:
        """Yield what is trained besides the weight."""
        return iter(())

    def begin(self, progress: float) -> None:
        """Note how much of the training lies before the step that begins."""
        self.progress = progress

    def penalty(self, weight: Tensor) -> Tensor | None:
        """Return the layer's term of the loss."""
        return None

    def adjust(self, weight: Tensor) -> None:  # noqa: B027 - few binarisers do
        """Change the weight's gradient before it is applied."""

    def settle(self, weight: Tensor) -> None:  # noqa: B027 - few binarisers do
        """Change the weight, or note it, after a step."""


def sign(x: Tensor) -> Tensor:
    """Return -1 and +1; 0 gives +1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def signed(x: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """Return the signs; the gradient, times `slope`, goes to `x`."""
    return instead(x, sign(x), torch.as_tensor(slope, device=x.device))


def clipped(x: Tensor) -> Tensor:
    """Return the signs; the gradient passes where abs(x) <= 1."""
    return signed(x, (x.abs() <= 1).to(x.dtype))


def polynomial(x: Tensor) -> Tensor:
    """Return the signs of x over its deviation, with the gradient max(0, 2 - 2 abs) of Bi-Real Net.

    The deviation is each sample's; the gradient passes it too. ReCU, OvSW and BiPer share it.
    """
    deviation = x.flatten(1).std(dim=1).clamp_min(1e-6)
    scaled = x / deviation.reshape(-1, *[1] * (x.ndim - 1))
    return signed(scaled, (2 - 2 * scaled.detach().abs()).clamp_min(0))


def rows(weight: Tensor) -> Tensor:
    """Return the weights of each output, float[N, K]."""
    return weight.flatten(1)


def norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each output's weights, float[N], at least 1e-12."""
    return torch.sqrt(rows(weight).square().sum(dim=1).clamp_min(1e-24))


def like(values: Tensor, weight: Tensor) -> Tensor:
    """Return one value per output, [N], in the axes of a weight."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def learned_scale(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return a trained scale of each output that starts in U(0, 1)."""
    drawn = torch.rand(len(weight), generator=generator)
    return drawn.to(weight.device).requires_grad_()
