# SPDX-License-Identifier: Apache-2.0
"""A layer in training, binary or digital, and the integers of its epilogue."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.binary.binariser import Binariser
from algos.lib.emit import BIAS_LIMIT, fixed_epilogue, with_room_for_bias
from algos.lib.qat.emission import digital_layer, gain_and_offset, multiplier_of
from algos.lib.qat.layers import EPS, Trained
from cosil.lowering.xnor_threshold import fold_batch_norm

SUM_UNITS = 16
"""The engine multiplies its sum by 16 before the bias is added."""
NEGATE = np.uint64(1 << 54)


@dataclass(eq=False)
class BinaryLayer(Trained):
    """A linear or convolution layer.

    Attributes
    ----------
    binariser : Binariser or None
        None: the layer is digital.
    """

    binariser: Binariser | None = None

    def copy(self) -> Self:
        """Return a layer with its own tensors and its own binariser."""
        return replace(super().copy(), binariser=deepcopy(self.binariser))

    def rule(self) -> Binariser:
        """Return the binariser of a binary layer."""
        assert self.binariser is not None
        return self.binariser

    @torch.no_grad()
    def signs(self) -> Tensor:
        """Return the deployed weight codes, float[N, C, kh, kw]."""
        return self.rule().signs(self.weight)


@torch.no_grad()
def threshold_columns(layer: BinaryLayer) -> NDArray[np.uint64]:
    """Return the columns of a layer that gives signs: its batch norm, folded exactly."""
    norm = layer.norm
    assert norm is not None
    return fold_batch_norm(
        _array(norm.gamma), _array(norm.beta), _array(norm.mean), _array(norm.var),
        k=layer.weight[0].numel(), eps=EPS, alpha=_array(layer.rule().scale(layer.weight)),
    )  # fmt: skip


@torch.no_grad()
def fixed_columns(layer: BinaryLayer, output_scale: float) -> NDArray[np.uint64]:
    """Return the columns of a binary layer that gives int8 values: sums of signs, scaled."""
    gain, offset = gain_and_offset(layer)
    gain = gain * layer.rule().scale(layer.weight).double()
    bias = _array(offset)
    # A channel whose sums weigh nothing keeps a multiplier that its bias fits.
    unit = np.maximum(_array(multiplier_of(gain)) / SUM_UNITS, 1.001 * np.abs(bias) / BIAS_LIMIT)
    words = fixed_epilogue(unit, bias, 1.0, output_scale)
    return np.where(_array(gain) < 0, words | NEGATE, words)


@torch.no_grad()
def digital_columns(
    layer: BinaryLayer, input_scale: float, output_scale: float
) -> tuple[Tensor, NDArray[np.uint64]]:
    """Return the weight codes int8[N, K] of a digital layer, and its columns."""
    made = digital_layer(layer)
    assert made.bias is not None
    bias = made.bias.double().numpy()
    weight = with_room_for_bias(made.weight, bias, input_scale)
    channel = weight.channel.double().numpy()
    return weight.codes, fixed_epilogue(channel, bias, input_scale, output_scale)


def _array(x: Tensor) -> NDArray[np.float64]:
    return x.detach().double().cpu().numpy()
