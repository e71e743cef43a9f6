# SPDX-License-Identifier: Apache-2.0
"""The int4 grids of the W4A8 engine: steps, rounding, and what the array multiplies in the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHANNEL_MAX = 7
"""Codes of a per-channel weight are -7..7, step max / 7 (QQQ `gptq/quant.py`, maxq 7)."""
GROUP_LOW, GROUP_HIGH = -8, 7
"""Codes of a per-group weight are -8..7, step max / 7.5 (QQQ, maxq 15 with zero 8)."""
INT8_MAX = 127


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The representable values of a weight matrix before its second-level scales exist.

    Attributes
    ----------
    steps : float32[N, G]
        Distance of two codes; column k of row n belongs to group k // group_size.
    group_size : int
        Columns of a group; 0 means one step per row (G = 1).
    """

    steps: Tensor
    group_size: int

    @property
    def low(self) -> int:
        """Smallest code."""
        return -CHANNEL_MAX if self.group_size == 0 else GROUP_LOW

    @property
    def high(self) -> int:
        """Largest code."""
        return CHANNEL_MAX if self.group_size == 0 else GROUP_HIGH

    def per_column(self, columns: int) -> Tensor:
        """Return the step of every element, float32[N, columns]."""
        if self.group_size == 0:
            return self.steps.expand(-1, columns)
        return self.steps.repeat_interleave(self.group_size, dim=1)[:, :columns]


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """A weight matrix as the packed file holds it.

    Attributes
    ----------
    codes : int8[N, K]
        int4 codes; -7..7 per channel, -8..7 per group.
    channel : float32[N]
        Scale of the epilogue.
    group : float16[G, N] or None
        Scales that turn int4 into int8 before the multiply.
    group_size : int
        Columns of a group, 0 without group scales.
    """

    codes: Tensor
    channel: Tensor
    group: Tensor | None
    group_size: int

    def operand(self) -> Tensor:
        """Return the integers that the array multiplies, int8[N, K].

        Per channel these are the codes. Per group clamp(RNE(q * s_g), -128, 127); the product of a
        4-bit code and an 11-bit significand is exact in float32, so there is one rounding.
        """
        if self.group is None:
            return self.codes
        columns = self.codes.shape[1]
        scale = self.group.float().t().repeat_interleave(self.group_size, dim=1)[:, :columns]
        return torch.round(self.codes.float() * scale).clamp(-128, INT8_MAX).to(torch.int8)

    def dequantise(self) -> Tensor:
        """Return operand * channel, float32[N, K]."""
        return self.operand().float() * self.channel[:, None]


def effective_group_size(columns: int, group_size: int) -> int:
    """Return the group size that a matrix of `columns` columns gets: 0, or at most `columns`.

    A matrix narrower than the group has one short group.
    """
    return min(group_size, columns)


def grouped(matrix: Tensor, group_size: int) -> Tensor:
    """Return `matrix` float[N, K] as [N, G, group]; a short last group is padded with zeros."""
    rows, columns = matrix.shape
    if group_size == 0:
        return matrix[:, None, :]
    groups = -(-columns // group_size)
    padded = torch.nn.functional.pad(matrix, (0, groups * group_size - columns))
    return padded.reshape(rows, groups, group_size)


def absmax_grid(weight: Tensor, group_size: int) -> Grid:
    """Return the grid that reaches the largest weight of every row or group.

    Parameters
    ----------
    weight : float[N, K]
        A weight matrix.
    group_size : int
        0 for one step per row.

    Returns
    -------
    Grid
        Steps max / 7 per channel and max / 7.5 per group; an all-zero group has step 0.
    """
    largest = grouped(weight.float(), group_size).abs().amax(dim=2)
    return Grid(largest / (7.0 if group_size == 0 else 7.5), group_size)


def nearest_codes(weight: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Return clamp(RNE(weight / step), low, high) as float; where `step` is 0 the code is 0."""
    safe = torch.where(step > 0, step, torch.ones_like(step))
    codes = torch.round(weight / safe).clamp(low, high)
    return torch.where(step > 0, codes, torch.zeros_like(codes))


def round_to_grid(weight: Tensor, grid: Grid) -> Tensor:
    """Round every weight to its nearest code, int8[N, K]; ties to even."""
    step = grid.per_column(weight.shape[1])
    return nearest_codes(weight.float(), step, grid.low, grid.high).to(torch.int8)


def with_scales(codes: Tensor, grid: Grid) -> QuantisedWeight:
    """Turn codes and their grid into the scales that the engine uses.

    Per group the second level comes from the weights that are *already quantised*, as in QQQ's own
    repository: s_channel = max_k |codes * step| / 127 and s_g = float16(step / s_channel). Then
    |q * s_g| <= 127 up to float16's rounding. GPTQModel takes the unquantised weights and can leave
    the int8 range.

    Parameters
    ----------
    codes : int8[N, K]
        Codes on `grid`.
    grid : Grid
        Steps of the codes.

    Returns
    -------
    QuantisedWeight
        Rows without a non-zero code get s_channel 1 and group scales 0.
    """
    if grid.group_size == 0:
        channel = grid.steps[:, 0].clone()
        channel[channel == 0] = 1.0
        return QuantisedWeight(codes, channel, None, 0)
    values = codes.float() * grid.per_column(codes.shape[1])
    channel = values.abs().amax(dim=1) / INT8_MAX
    empty = channel == 0
    channel[empty] = 1.0
    steps = torch.where(empty[:, None], torch.zeros_like(grid.steps), grid.steps)
    group = (steps / channel[:, None]).t().contiguous().to(torch.float16)
    if not bool(torch.isfinite(group).all()):
        # A group of zero codes may have a step that float16 cannot hold beside the others.
        used = grouped(codes.float(), grid.group_size).abs().amax(dim=2).t() > 0
        group = torch.where(used, group, torch.zeros_like(group))
    return QuantisedWeight(codes, channel, group, grid.group_size)


def per_token_int8(values: Tensor) -> Tensor:
    """Round activations to int8 per row and return them dequantised (QQQ's rule D1).

    The scale is f32(f16(max|x| / 127)) with the division rounded once to float16; codes are
    clamp(RNE(x / scale), -128, 127). An all-zero row stays zero.

    Parameters
    ----------
    values : float[..., K]
        Activations; the row is the last axis.
    """
    x = values.float()
    scale = (x.abs().amax(dim=-1, keepdim=True) / 127.0).to(torch.float16).float()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = torch.round(x / safe).clamp(-128, INT8_MAX)
    return torch.where(scale > 0, codes * safe, torch.zeros_like(codes))


def per_tensor_int8(values: Tensor, scale: float) -> Tensor:
    """Round activations to int8 with one static scale and return them dequantised."""
    return torch.round(values.float() / scale).clamp(-128, INT8_MAX) * scale
