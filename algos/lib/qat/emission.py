# SPDX-License-Identifier: Apache-2.0
"""What a trained student's values and digital layers become in a packed network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from algos.lib.calibrate import WIDE_HEADROOM, Layer, is_wide
from algos.lib.measure import calibration_batches
from algos.lib.qat.layers import Trained
from algos.lib.qat.structure import value_names
from algos.lib.qat.student import Student
from algos.lib.quantise import QuantisedWeight

LEAST_GAIN = 1e-12
"""A channel whose norm has no gain keeps a positive multiplier."""


def scales_of(student: Student[Any], samples: Tensor) -> dict[str, float]:
    """Return the real value of one code of each value; `samples` show how large logits get."""
    return {name: _scale(student, name, samples) for name in value_names(student.graph)}


def gain_and_offset(layer: Trained) -> tuple[Tensor, Tensor]:
    """Return what a layer's sums are multiplied by, and what is added then, float64[N]."""
    if layer.norm is not None:
        return layer.norm.fold()
    assert layer.bias is not None
    offset = layer.bias.detach().double()
    return torch.ones_like(offset), offset


def multiplier_of(gain: Tensor) -> Tensor:
    """Return the gains' magnitudes, which multipliers stand for, none of them 0."""
    return gain.abs().clamp_min(LEAST_GAIN)


def digital_layer(layer: Trained) -> Layer:
    """Return a layer of engine `w4a8`: codes, what an output's count stands for, the bias."""
    codes = layer.codes().detach()
    gain, offset = gain_and_offset(layer)
    # The engine has no negative multiplier; the codes are symmetric.
    signs = torch.where(gain < 0, -1, 1).to(torch.int8)
    matrix = signs[:, None] * codes.flatten(1).to(torch.int8)
    channel = (multiplier_of(gain) * float(layer.unit(codes))).float()
    return Layer(QuantisedWeight(matrix.cpu(), channel.cpu(), None, 0), offset.float().cpu())


def _scale(student: Student[Any], name: str, samples: Tensor) -> float:
    if is_wide(student.graph, name):
        largest = max(
            float(student.forward(part).abs().max()) for part in calibration_batches(samples)
        )
        return WIDE_HEADROOM * largest / 32767 if largest > 0 else 1.0
    return float(student.step(name))
