# SPDX-License-Identifier: Apache-2.0
"""The baseline: signs with the clipped straight-through gradient.

Source: Courbariaux et al., "Binarized Neural Networks" (arXiv 1602.02830); the scale is that of
XNOR-Net (Rastegari et al., arXiv 1603.05279), mean |w| of each output, here a constant in the
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, clipped, rows


class Ste(Binariser):
    """b = sign(w), dL/dw = dL/db where |w| <= 1; weights are kept in -1..1; inputs alike."""

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(w)."""
        return clipped(weight)

    def scale(self, weight: Tensor) -> Tensor:
        """Return mean |w|."""
        return rows(weight).detach().abs().mean(dim=1)

    def activation(self, x: Tensor) -> Tensor:
        """Return sign(x), with the gradient where |x| <= 1."""
        return clipped(x)

    @torch.no_grad()
    def settle(self, weight: Tensor) -> None:
        """Clip the weight."""
        weight.clamp_(-1, 1)
