# SPDX-License-Identifier: Apache-2.0
"""HBNN: weights as the image of the Riemannian exponential map; the public part of it.

Source: "Hyperbolic Binary Neural Network" (TNNLS 2024, arXiv 2501.03471), whose abstract alone is
public here and for which no code was found. Present: a filter is a point of the Poincare ball, the
exponential map at its origin of an unconstrained vector. Absent: the exponential parametrisation
cluster (EPC), whose definition and hyper-parameters were not found. Assumed: curvature 1, the
identity as the sign's gradient, scale and inputs as in `ste`. Its figures are not the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, clipped, like, norms, rows, signed


class Hbnn(Binariser):
    """w = tanh(r) v / r with r = |v| of each output, b = sign(w) = sign(v).

    Only gradients change: dL/dv = J^T dL/dw with
    J = (tanh(r) / r) (I - u u^T) + (1 - tanh(r)^2) u u^T, u = v / r.
    """

    def weight(self, weight: Tensor) -> Tensor:
        """Return sign(v)."""
        return signed(_exponential(weight))

    def scale(self, weight: Tensor) -> Tensor:
        """Return mean |w|."""
        return rows(_exponential(weight.detach())).abs().mean(dim=1)

    def activation(self, x: Tensor) -> Tensor:
        """Return sign(x), with the gradient where |x| <= 1."""
        return clipped(x)


def _exponential(v: Tensor) -> Tensor:
    r = norms(v)
    return v * like(torch.tanh(r) / r, v)
