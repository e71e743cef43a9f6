# SPDX-License-Identifier: Apache-2.0
"""ReCU: weights at the tails of their distribution are pulled in.

Source: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks" (ICCV 2021); code
z-hXu/ReCU@9a73bed, `cifar/modules/binarized_modules.py`. SupeRBNN's weight rectified clamp is this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, learned_scale, like, polynomial, rows, signed

TAU_START, TAU_END = 0.85, 0.99
EPS = 1e-5


class Recu(Binariser):
    """Rectified clamp unit.

    Of each output w1 = (w - mean) / (sqrt(var + 1e-5) / (2 sqrt 2)), its quantile, if it were
    Laplace's, Q = -mean |w1| ln(2 - 2 tau) over the whole tensor, w2 = clamp(w1, -Q, Q),
    b = sign(w2) with the identity as gradient; Q is a constant in it. tau rises from 0.85 to 0.99
    as an exponential of the training. The scale of an output is learned.
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__(weight, generator)
        self.alpha = learned_scale(weight, generator)

    @property
    def tau(self) -> float:
        """A e^progress + B with tau(0) = 0.85 and tau(1) = 0.99."""
        a = (TAU_END - TAU_START) / (math.e - 1)
        return a * math.exp(self.progress) + TAU_START - a

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(w2)."""
        centred = weight - like(rows(weight).mean(dim=1), weight)
        deviation = torch.sqrt(rows(centred).var(dim=1) + EPS) / (2 * math.sqrt(2))
        scaled = centred / like(deviation, weight)
        q = float(scaled.detach().abs().mean()) * -math.log(2 - 2 * self.tau)
        return signed(scaled.clamp(-q, q))

    def scale(self, weight: Tensor) -> Tensor:
        """Return alpha."""
        return self.alpha

    def activation(self, x: Tensor) -> Tensor:
        """Return the signs with the polynomial's gradient."""
        return polynomial(x)

    def parameters(self) -> Iterator[Tensor]:
        """Yield alpha."""
        yield self.alpha
