# SPDX-License-Identifier: Apache-2.0
"""BiPer: the weight is the sign of a periodic function.

Source: Vargas et al., "BiPer: Binary Neural Networks using a Periodic Function" (CVPR 2024); code
edmav4/BiPer@0c07fdd, `cifar10/modules`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, learned_scale, polynomial, sign, signed

OMEGA = 20.0
STAGES = 2 / 3
"""Part of the training that is stage 1: 600 of 900 epochs."""
TAU = (0.037, 0.0468)
"""Factor of the regulariser in the two stages."""
RANGE = 3.0
"""Deviations of the float weights that the start spreads over sin's rise; assumed."""


class BiPer(Binariser):
    """b = sign(sin(omega w)), omega = 20.

    Stage 1 multiplies with sin(omega w), real. Stage 2 with its sign, gradient omega cos(omega w).
    The loss has tau mean(1/2 - 1/2 cos(2 omega w)) for each layer, with the sign of the public
    code, which is least where sin is 0. The scale of an output is learned.
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__(weight, generator)
        self.alpha = learned_scale(weight, generator)

    def start(self, weight: Tensor) -> Tensor:
        """Return w with sin(omega w) = weight over three deviations, clipped."""
        deviation = weight.std().clamp_min(torch.finfo(weight.dtype).tiny)
        return torch.asin((weight / (RANGE * deviation)).clamp(-1, 1)) / OMEGA

    @property
    def stage(self) -> int:
        """0 or 1: the first or the second stage."""
        return int(self.progress >= STAGES)

    def weight(self, weight: Tensor) -> Tensor:
        """Return sin(omega w) in the first stage, then its sign."""
        wave = torch.sin(OMEGA * weight)
        return signed(wave) if self.stage else wave

    def signs(self, weight: Tensor) -> Tensor:
        """Return sign(sin(omega w)), in either stage."""
        return sign(torch.sin(OMEGA * weight.detach()))

    def scale(self, weight: Tensor) -> Tensor:
        """Return alpha."""
        return self.alpha

    def activation(self, x: Tensor) -> Tensor:
        """Return the signs with the polynomial's gradient."""
        return polynomial(x)

    def parameters(self) -> Iterator[Tensor]:
        """Yield alpha."""
        yield self.alpha

    def penalty(self, weight: Tensor) -> Tensor:
        """Return the regulariser."""
        return TAU[self.stage] * (0.5 - 0.5 * torch.cos(2 * OMEGA * weight)).mean()
