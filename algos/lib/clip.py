# SPDX-License-Identifier: Apache-2.0
"""Clipping: how much smaller than the largest value the grid's end should be."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from algos.lib.quantise import INT8_MAX, Grid, absmax_grid, grouped, nearest_codes

STEPS = 80
NORM = 2.4
GRID = 100
"""QQQ `gptq/quant.py`: shrink by i / 100 for i in 0..79, error norm 2.4."""

SAMPLE = 1 << 18
"""Elements on which `static_scale` judges a clip."""

Observer = Literal["max", "percentile", "mse"]


def mse_grid(
    weight: Tensor,
    group_size: int,
    *,
    importance: Tensor | None = None,
    norm: float = NORM,
    steps: int = STEPS,
) -> Grid:
    """Search, per row or group, the clipped grid with the least rounding error.

    Parameters
    ----------
    weight : float[N, K]
        A weight matrix.
    group_size : int
        0 for one step per row.
    importance : float[K] or None
        Weight of each column's error, e.g. the diagonal of the Hessian; None counts all alike, as
        QQQ does.
    norm : float
        Exponent of the error.
    steps : int
        Candidates p = 1 - i / 100 for i = 0..steps - 1; the first of equal ones wins.

    Returns
    -------
    Grid
        Steps p * max / 7 (per channel) or p * max / 7.5 (per group).
    """
    start = absmax_grid(weight, group_size)
    blocks = grouped(weight.float(), group_size)
    cost = None if importance is None else grouped(importance.float()[None, :], group_size)
    best = start.steps.clone()
    least = torch.full_like(best, torch.inf)
    for i in range(steps):
        step = start.steps * (1.0 - i / GRID)
        codes = nearest_codes(blocks, step[:, :, None], start.low, start.high)
        error = (codes * step[:, :, None] - blocks).abs().pow(norm)
        total = (error if cost is None else error * cost).sum(dim=2)
        better = total < least
        best = torch.where(better, step, best)
        least = torch.where(better, total, least)
    return Grid(best, group_size)


def static_scale(values: Tensor, observer: Observer, percentile: float = 99.99) -> float:
    """Return the int8 scale of an activation tensor from calibration values.

    Parameters
    ----------
    values : float[...]
        Calibration activations.
    observer : {"max", "percentile", "mse"}
        ``max``: largest magnitude / 127. ``percentile``: that percentile of the magnitudes / 127.
        ``mse``: the clip among 80 shrunken maxima with the least squared rounding error.
    percentile : float
        Used by ``percentile``, 0..100.

    Returns
    -------
    float
        A positive float32 value; 1 where all values are zero.
    """
    flat = values.detach().float().flatten()
    magnitude = flat.abs()
    largest = float(magnitude.max())
    if largest == 0.0:
        return 1.0
    if observer == "max":
        return largest / INT8_MAX
    if observer == "percentile":
        rank = max(1, round(percentile / 100 * magnitude.numel()))
        value = float(magnitude.kthvalue(rank).values)
        return (value if value > 0 else largest) / INT8_MAX
    if flat.numel() > SAMPLE:
        # An odd stride does not fall in step with channels or rows of a power of two.
        flat = flat[:: (flat.numel() // SAMPLE) | 1]
    best, least = largest / INT8_MAX, torch.inf
    for i in range(STEPS):
        scale = largest * (1.0 - i / GRID) / INT8_MAX
        codes = torch.round(flat / scale).clamp(-INT8_MAX - 1, INT8_MAX)
        error = float((codes * scale - flat).square().mean())
        if error < least:
            best, least = scale, error
    return best
