# SPDX-License-Identifier: Apache-2.0
"""OvSW: gradients that are too small for their filter are raised, silent weights are shrunk.

Source: Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural Networks" (ECCV
2024, arXiv 2407.05257); code JingyangXiang/OvSW@4043cb0, `model/modules/ovsw.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, like, norms, polynomial, rows, sign, signed

EPS = 1e-5
DELTA = 0.04
"""Least ratio of a filter's gradient and weight (CIFAR)."""
LAMBDA = 9e-4
"""Decay of silent weights (CIFAR)."""
MOMENTUM, SILENT = 0.999, 1e-4
LEAST_GRADIENT, LEAST_WEIGHT = 1e-6, 1e-3


class Ovsw(Binariser):
    """Adaptive gradient scaling (AGS) and silence awareness decaying (SAD).

    b = sign(w), gradient the identity; scale mean |(w - mean) / sqrt(var + 1e-5)| of an output, not
    learned. AGS, by output: r = max(|g|, 1e-6) / max(|w|, 1e-3), norms of the filter;
    g <- g delta / r where r < delta. SAD: S <- 0.999 S + 0.001 [the sign has changed], from 0;
    g <- g + lambda w where S < 1e-4.

    Attributes
    ----------
    state : float[N, C, kh, kw]
        S.
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__(weight, generator)
        self.state = torch.zeros_like(weight)
        self._before = sign(weight)

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(w)."""
        return signed(weight)

    def scale(self, weight: Tensor) -> Tensor:
        """Return the mean magnitude of the standardised filter."""
        flat = rows(weight.detach())
        deviation = torch.sqrt(flat.var(dim=1, keepdim=True) + EPS)
        return ((flat - flat.mean(dim=1, keepdim=True)) / deviation).abs().mean(dim=1)

    def activation(self, x: Tensor) -> Tensor:
        """Return the signs with the polynomial's gradient."""
        return polynomial(x)

    @torch.no_grad()
    def adjust(self, weight: Tensor) -> None:
        """Raise small gradients, then add the decay of silent weights."""
        assert weight.grad is not None
        gradient = norms(weight.grad).clamp_min(LEAST_GRADIENT)
        ratio = gradient / norms(weight).clamp_min(LEAST_WEIGHT)
        weight.grad.mul_(like((DELTA / ratio).clamp_min(1.0), weight))
        now = sign(weight)
        self.state.mul_(MOMENTUM).add_((now != self._before).float(), alpha=1 - MOMENTUM)
        self._before = now
        weight.grad.add_((self.state < SILENT) * weight, alpha=LAMBDA)
