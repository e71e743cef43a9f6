# SPDX-License-Identifier: Apache-2.0
"""QQQ: W4A8 after training, with smoothing or rotation and Hessian compensation.

Source: Zhang et al., "QQQ: Quality Quattuor-bit Quantization for Large Language Models", arXiv
2406.09904, and its repository HandH1998/QQQ. Where the two differ, the default follows the
repository:

=====================  ==============================  =====================  ================
part                   paper                           repository             default here
=====================  ==============================  =====================  ================
outliers               adaptive smoothing              rotation               rotation
clip search            with smoothing: off             with rotation: on      on
lm_head, embedding     float16                         float16                lm_head W4A8,
                                                                              embedding float16
calibration inputs     float weights before the layer  layers before it are   layers before it
                                                       quantised, a decoder   are quantised, one
                                                       block at a time        linear at a time
activations there      float                           float                  int8 per token
group size             128                             128                    128, or K if less
=====================  ==============================  =====================  ================

Both use act-order, static groups, damping 0.01 and blocks of 128 columns. Networks of convolutions
get what applies to them: the Hessian of im2col rows, the clip search, static activation scales and,
as an option, bias correction. They are not rotated: a ReLU stands between any two layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from algos.lib.calibrate import ActivationSettings, BiasCorrection, calibrate, mode_of
from algos.lib.clip import Observer, mse_grid
from algos.lib.emit import emit
from algos.lib.gptq import BLOCK, Hessian, compensated_codes
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.hadamard import RotationKind
from algos.lib.progress import progress_bar
from algos.lib.provenance import provenance_of
from algos.lib.quantise import (
    Grid,
    QuantisedWeight,
    absmax_grid,
    effective_group_size,
    with_scales,
)
from algos.lib.rotation import rotate
from algos.lib.smooth import smooth
from cosil.packed.network import PackedNetwork

Clip = Literal["none", "mse", "hessian"]
Rotation = Literal["hadamard", "orthogonal", "none"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "scales": ("channel", "group"),
    "rotation": ("hadamard", "orthogonal", "none"),
    "clip": ("none", "mse", "hessian"),
    "observer": ("max", "percentile", "mse"),
    "bias_correction": ("none", "output"),
}


@dataclass(frozen=True, slots=True)
class QqqSettings:
    """Hyper-parameters of QQQ.

    Parameters
    ----------
    scales : {"channel", "group"}
        One weight scale per output channel, or one per `group_size` inputs of it.
    group_size : int
        At least 1; a layer with fewer inputs has one short group.
    rotation : {"hadamard", "orthogonal", "none"}
        Of the residual stream and of each value head. A width without a Hadamard matrix gets a
        random orthogonal one.
    smoothing : bool
        Adaptive smoothing on the first calibration batch, after rotation where both are on.
    clip : {"none", "mse", "hessian"}
        Search of the grid's end: least error of norm 2.4 (``mse``), or least squared error weighted
        by the diagonal of the Hessian (``hessian``).
    act_order : bool
        Round the columns with the largest inputs first.
    damping : float
        Added to the Hessian's diagonal, as a fraction of its mean.
    block : int
        Columns that are repaired at once; changes nothing but the speed.
    observer : {"max", "percentile", "mse"}
        Rule of static activation scales (networks of convolutions).
    percentile : float
        Used by ``percentile``.
    bias_correction : {"none", "output"}
        Networks of convolutions: match each channel's mean output to the float network's.
    seed : int
        Of the rotation.
    """

    scales: Literal["channel", "group"] = "channel"
    group_size: int = 128
    rotation: Rotation = "hadamard"
    smoothing: bool = False
    clip: Clip = "mse"
    act_order: bool = True
    damping: float = 0.01
    block: int = BLOCK
    observer: Observer = "mse"
    percentile: float = 99.99
    bias_correction: BiasCorrection = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            value = getattr(self, name)
            if value not in legal:
                raise ValueError(
                    f"qqq: {name} must be one of {', '.join(map(repr, legal))}, not {value!r}"
                )
        for name in ("group_size", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"qqq: {name} must be at least 1, not {getattr(self, name)!r}")
        if not self.damping > 0:
            raise ValueError(f"qqq: damping must be positive, not {self.damping!r}")


SETTINGS = QqqSettings


class Compensation:
    """How QQQ quantises one layer: clip search, then Hessian compensation.

    Parameters
    ----------
    settings : QqqSettings
        Hyper-parameters.
    """

    needs_hessian = True

    def __init__(self, settings: QqqSettings) -> None:
        self.settings = settings

    def __call__(self, weight: Tensor, hessian: Hessian | None) -> QuantisedWeight:
        """Quantise float32[N, K] for inputs of that Hessian."""
        assert hessian is not None
        settings = self.settings
        # A dead input's weights are free; they must not widen a group's grid.
        weight = torch.where(hessian.dead(), torch.zeros_like(weight), weight)
        grid = self._grid(weight, hessian)
        codes = compensated_codes(
            weight,
            hessian.matrix,
            grid,
            act_order=settings.act_order,
            damping=settings.damping,
            block=settings.block,
        )
        return with_scales(codes, grid)

    def _grid(self, weight: Tensor, hessian: Hessian) -> Grid:
        group_size = effective_group_size(weight.shape[1], _group_size(self.settings))
        if self.settings.clip == "none":
            return absmax_grid(weight, group_size)
        if self.settings.clip == "mse":
            return mse_grid(weight, group_size)
        importance = torch.diagonal(hessian.matrix)
        return mse_grid(weight, group_size, importance=importance, norm=2.0)


def prepare(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: QqqSettings
) -> tuple[FloatGraph, tuple[str, ...]]:
    """Rotate and smooth a float graph: what QQQ does before it quantises.

    Parameters
    ----------
    graph : FloatGraph
        A network.
    calibration : sequence of Tensor
        Its first batch serves the smoothing's search.
    settings : QqqSettings
        Hyper-parameters.

    Returns
    -------
    graph : FloatGraph
        Same function up to rounding; a network of convolutions comes back as it is.
    notes : tuple of str
        What could not be rotated, and why.
    """
    notes: tuple[str, ...] = ()
    if mode_of(graph) == "fixed":
        return graph, notes
    if settings.rotation != "none":
        kind: RotationKind = settings.rotation
        rotated = rotate(graph, kind, np.random.default_rng(settings.seed))
        graph, notes = rotated.graph, rotated.notes
    if settings.smoothing:
        graph = smooth(graph, calibration[0], _group_size(settings))
    return graph, notes


def _group_size(settings: QqqSettings) -> int:
    return settings.group_size if settings.scales == "group" else 0


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: QqqSettings | None = None
) -> PackedNetwork:
    """Compress a network with QQQ.

    Parameters
    ----------
    graph : FloatGraph
        A network with one input.
    calibration : sequence of Tensor
        Batches of that input, at least one.
    settings : QqqSettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        Every linear and convolution layer in W4A8, the first and the last included. Equal graph,
        data and settings give equal bits.

    Raises
    ------
    ValueError
        If there is no calibration data, or the network cannot be packed; the message names the
        operation.
    """
    settings = settings or QqqSettings()
    if not calibration:
        raise ValueError("qqq: calibration data is needed, none was given; pass at least one batch")

    def bar(nodes: Sequence[FloatNode]) -> Iterable[FloatNode]:
        return progress_bar(nodes, "qqq")

    prepared, notes = prepare(graph, calibration, settings)
    activations = ActivationSettings(
        settings.observer, settings.percentile, settings.bias_correction
    )
    calibrated = calibrate(prepared, calibration, Compensation(settings), activations, bar)
    return emit(calibrated, provenance_of("qqq", asdict(settings), calibration, notes))
