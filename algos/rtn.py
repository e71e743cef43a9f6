# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: the baseline that every other method is held against.

Weights are rounded on the grid that reaches their largest magnitude (max / 7 per channel, max / 7.5
per group). Language models get int8 activations per token at run time; networks of convolutions get
one static scale per activation tensor, which is all that calibration data is used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor

from algos.lib.calibrate import ActivationSettings, calibrate, mode_of
from algos.lib.clip import Observer
from algos.lib.emit import emit
from algos.lib.gptq import Hessian
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.progress import progress_bar
from algos.lib.provenance import provenance_of
from algos.lib.quantise import (
    QuantisedWeight,
    absmax_grid,
    effective_group_size,
    round_to_grid,
    with_scales,
)
from cosil.packed.network import PackedNetwork


@dataclass(frozen=True, slots=True)
class RtnSettings:
    """Hyper-parameters of round to nearest.

    Parameters
    ----------
    scales : {"channel", "group"}
        One weight scale per output channel, or one per `group_size` inputs of it.
    group_size : int
        At least 1; a layer with fewer inputs has one short group.
    observer : {"max", "percentile", "mse"}
        Rule of static activation scales (networks of convolutions).
    percentile : float
        Used by ``percentile``.
    seed : int
        Recorded; rounding to nearest draws no random numbers.
    """

    scales: Literal["channel", "group"] = "channel"
    group_size: int = 128
    observer: Observer = "mse"
    percentile: float = 99.99
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scales not in ("channel", "group"):
            raise ValueError(f"rtn: scales must be 'channel' or 'group', not {self.scales!r}")
        if self.observer not in ("max", "percentile", "mse"):
            raise ValueError(
                f"rtn: observer must be 'max', 'percentile' or 'mse', not {self.observer!r}"
            )
        if self.group_size < 1:
            raise ValueError(f"rtn: group_size must be at least 1, not {self.group_size!r}")


SETTINGS = RtnSettings


class _Rounding:
    needs_hessian = False

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size

    def __call__(self, weight: Tensor, hessian: Hessian | None) -> QuantisedWeight:
        grid = absmax_grid(weight, effective_group_size(weight.shape[1], self.group_size))
        return with_scales(round_to_grid(weight, grid), grid)


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: RtnSettings | None = None
) -> PackedNetwork:
    """Compress a network by rounding to nearest.

    Parameters
    ----------
    graph : FloatGraph
        A network with one input.
    calibration : sequence of Tensor
        Batches of that input. Language models need none.
    settings : RtnSettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        Every linear and convolution layer in W4A8, the first and the last included.

    Raises
    ------
    ValueError
        If the network cannot be packed; the message names the operation.
    """
    settings = settings or RtnSettings()

    def bar(nodes: Sequence[FloatNode]) -> Iterable[FloatNode]:
        return progress_bar(nodes, "rtn")

    quantiser = _Rounding(settings.group_size if settings.scales == "group" else 0)
    activations = ActivationSettings(settings.observer, settings.percentile)
    # Dynamic activations need no data: an f16 network is rounded without running it.
    batches = calibration if mode_of(graph) == "fixed" else ()
    calibrated = calibrate(graph, batches, quantiser, activations, bar)
    return emit(calibrated, provenance_of("rtn", asdict(settings), calibration))
