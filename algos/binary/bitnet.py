# SPDX-License-Identifier: Apache-2.0
"""BitNet b1.58 Reloaded: ternary weights, scaled by the median magnitude.

Source: Nielsen and Schneider-Kamp, "BitNet b1.58 Reloaded" (arXiv 2407.09527); code
schneiderkamplab/bitlinear@7b66f06, `bitlinear/bitlinear.py`, `measures.py`. There inputs are int8
behind a layer norm; the array reads signs, here with the gradient of `ste`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, clipped
from algos.lib.qat.codes import instead

EPS = 1e-5


class BitNet(Binariser):
    """q = clip(round(w / s), -1, 1) with s = max(median |w|, 1e-5) of the layer; gradient identity.

    The quantiser's strength lambda is 1: w + (q s - w), the difference a constant in the gradient.
    """

    ternary: ClassVar[bool] = True

    def weight(self, weight: Tensor) -> Tensor:
        """Return q; the gradient of q s by w is 1."""
        s = _median(weight)
        codes = torch.round(weight.detach() / s).clamp(-1, 1)
        return instead(weight, codes, 1 / s)

    def scale(self, weight: Tensor) -> Tensor:
        """Return s for every output."""
        return _median(weight).expand(len(weight))

    def activation(self, x: Tensor) -> Tensor:
        """Return sign(x), with the gradient where |x| <= 1."""
        return clipped(x)


def _median(weight: Tensor) -> Tensor:
    """Return the median magnitude: of an even number of weights the lower one of the middle two."""
    return weight.detach().abs().median().clamp_min(EPS)
