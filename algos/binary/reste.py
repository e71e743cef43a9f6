# SPDX-License-Identifier: Apache-2.0
"""ReSTE: the gradient of a power function that approaches the sign.

Source: Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator
for Binary Neural Networks Training" (ICCV 2023); code DravenALG/ReSTE@0d3c36a,
`model/binary_module/binarized_modules.py`.
"""

from __future__ import annotations

import math

from torch import Tensor

from algos.binary.binariser import Binariser, signed

O_END = 3.0
T = 1.5
"""Beyond it the gradient is 0."""
M = 0.1
"""Below it the gradient is the secant's, and finite."""


class Reste(Binariser):
    """b = sign(x) with the gradient of sign(x) |x|^(1/o), for weights and inputs.

    (1/o) |x|^((1 - o)/o) for 0.1 < |x| <= 1.5, 0.1^(1/o) / 0.1 for |x| <= 0.1, else 0. o rises from
    1, the clipped straight-through gradient, to 3: 1 + (1 - cos(pi progress / 2)) (3 - 1). One
    scale for the layer, mean |w|, taken as a constant in the gradient.
    """

    @property
    def o(self) -> float:
        """The power's reciprocal now."""
        return 1 + (1 - math.cos(math.pi * self.progress / 2)) * (O_END - 1)

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(w)."""
        return self._signed(weight)

    def scale(self, weight: Tensor) -> Tensor:
        """Return mean |w| of the layer for every output."""
        return weight.detach().abs().mean().expand(len(weight))

    def activation(self, x: Tensor) -> Tensor:
        """Return sign(x)."""
        return self._signed(x)

    def _signed(self, x: Tensor) -> Tensor:
        o = self.o
        magnitude = x.detach().abs()
        slope = magnitude.clamp_min(M).pow((1 - o) / o) / o
        slope = slope.where(magnitude > M, M ** (1 / o) / M).where(magnitude <= T, 0.0)
        return signed(x, slope)
