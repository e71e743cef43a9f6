# SPDX-License-Identifier: Apache-2.0
"""IR-Net: standardised weights, and a gradient that sharpens from the identity to the sign.

Source: Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks"
(CVPR 2020); code htqin/IR-Net@f63a590.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, like, rows, signed

T_MIN, T_MAX = 1e-3, 1e1
LEAST_DEVIATION = 1e-12


class IrNet(Binariser):
    """Libra parameter binarisation and the error decay estimator (EDE).

    Of each output w^ = (w - mean) / std, b = sign(w^), scale 2^round(log2(mean |w^|)), a constant
    in the gradient. Gradient of a sign, for weights and inputs: k t (1 - tanh(t x)^2), t from 1e-3
    to 1e1, linear in its logarithm, k = max(1 / t, 1).
    """

    @property
    def t(self) -> float:
        """The sharpness now."""
        return T_MIN * (T_MAX / T_MIN) ** self.progress

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(w^)."""
        return self._signed(_standardised(weight))

    def scale(self, weight: Tensor) -> Tensor:
        """Return the power of two nearest to mean |w^| in its logarithm."""
        mean = rows(_standardised(weight.detach())).abs().mean(dim=1)
        return torch.exp2(torch.round(torch.log2(mean.clamp_min(LEAST_DEVIATION))))

    def activation(self, x: Tensor) -> Tensor:
        """Return sign(x)."""
        return self._signed(x)

    def _signed(self, x: Tensor) -> Tensor:
        t = self.t
        k = max(1 / t, 1.0)
        return signed(x, k * t * (1 - torch.tanh(t * x.detach()).square()))


def _standardised(weight: Tensor) -> Tensor:
    flat = rows(weight)
    centred = weight - like(flat.mean(dim=1), weight)
    return centred / like(rows(centred).std(dim=1).clamp_min(LEAST_DEVIATION), weight)
