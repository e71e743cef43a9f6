# SPDX-License-Identifier: Apache-2.0
"""The analog array in the forward pass: what its ADCs make of a layer, exactly, in float tensors.

Arithmetic of docs/engines/pim.md, section 1. The columns of all outputs and planes are output
channels of one convolution, its row groups are the convolution's groups, and the slices of the
activations lie along the batch; a float32 holds each column's value exactly. One look-up in the
columns' transfer table is a conversion; the sum over slices, groups and planes follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.qat.layers import Geometry
from cosil.lowering.pim_transfer import Grid
from cosil.packed.decomposition import plane_weights

EXACT_FLOAT32 = 2**24
"""Integers up to here, and sums of them, are exact in float32."""


@dataclass(frozen=True, eq=False)
class Array:
    """The macro as one layer sees it.

    Attributes
    ----------
    grid : Grid
        Decomposition, bits of weights and ADC, the ADC's grid; its rows are those of a row group.
    activation_bits : int
        Of an input code; slices of `grid.slice_bits` are driven one after the other.
    unit_channels : int
        Input channels of a row group.
    table : int16[R, V]
        Transfer table in sixteenths of an LSB; column n * P + p of the layer has row
        (n * P + p) mod R. R is 1 or a multiple of P.
    noise : int16[2**i]
        Noise in sixteenths of an LSB, one entry a draw; empty without noise.
    """

    grid: Grid
    activation_bits: int
    unit_channels: int
    table: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        low, high = self.grid.values
        assert max(-low, high) <= EXACT_FLOAT32

    def to(self, device: torch.device) -> Array:
        """Return the array with its tables on a device."""
        return replace(self, table=self.table.to(device), noise=self.noise.to(device))

    def accumulate(
        self,
        x: Tensor,
        weight: Tensor,
        geometry: Geometry,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the accumulators, integers as float32[B, N, OH, OW].

        Parameters
        ----------
        x : float32[B, C, H, W]
            Input codes, integers in 0 .. 2**activation_bits - 1.
        weight : float32[N, C, kh, kw]
            Weight codes, integers that the decomposition can hold.
        geometry : Geometry
            Stride, padding, dilation.
        generator : torch.Generator, optional
            Draws the noise; only with noise. (The packed network draws from its own generators.)
        """
        cells, groups = self._cells(weight)
        least, most = self.grid.codes
        largest = max(-least, most) * sum(self._factors) * sum(map(abs, self._plane_weights))
        assert groups * largest <= EXACT_FLOAT32
        values = geometry.conv(self._slices(x, groups), cells, groups)
        codes = self._convert(values, len(weight), groups, generator)
        shape = (-1, len(x), groups, len(weight), len(self._plane_weights), *codes.shape[2:])
        slices = codes.reshape(shape)
        acc = slices[-1].sum((1, 3))
        for s, factor in enumerate(self._factors[:-1]):
            acc += slices[s].sum((1, 3)) * factor
        return acc

    def values(self, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        """Return what the columns hold before conversion, float32[S, B, G, N, P, OH, OW]."""
        cells, groups = self._cells(weight)
        values = geometry.conv(self._slices(x, groups), cells, groups)
        count = len(self._plane_weights)
        shape = (len(self._factors), len(x), groups, len(weight), count, *values.shape[2:])
        return values.reshape(shape)

    def origin(self, channels: int) -> float:
        """Return what a sum of 0 stands for, in units, for a layer of so many input channels."""
        return float(self.grid.acc_origin(self.activation_bits, -(-channels // self.unit_channels)))

    @cached_property
    def _plane_weights(self) -> tuple[int, ...]:
        return plane_weights(self.grid.decomposition, self.grid.weight_bits)

    @cached_property
    def _factors(self) -> list[int]:
        """Factors of the slices' codes, most significant slice first."""
        return [1 << shift for shift in self._shifts]

    @cached_property
    def _shifts(self) -> list[int]:
        bits = self.grid.slice_bits
        return [*range(self.activation_bits - bits, -1, -bits)]

    def _slices(self, x: Tensor, groups: int) -> Tensor:
        """Return the slices along the batch, channels filled up to whole groups."""
        missing = groups * self.unit_channels - x.shape[1]
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        if len(self._shifts) == 1:
            return x
        integers = x.to(torch.int32)
        mask = (1 << self.grid.slice_bits) - 1
        return torch.cat([(integers >> shift) & mask for shift in self._shifts]).to(x.dtype)

    def _cells(self, weight: Tensor) -> tuple[Tensor, int]:
        """Return float32[G * N * P, unit channels, kh, kw] and G."""
        decomposition = self.grid.decomposition
        if decomposition == "bit_serial":
            integers = weight.to(torch.int32)
            bits = range(self.grid.weight_bits)
            parts = [((integers >> bit) & 1).to(weight.dtype) for bit in bits]
        elif decomposition == "differential":
            parts = [weight.clamp_min(0), (-weight).clamp_min(0)]
        else:
            parts = [weight]
        cells = torch.stack(parts, dim=1)
        outputs, count, channels, *kernel = cells.shape
        groups = -(-channels // self.unit_channels)
        cells = F.pad(cells, (0, 0, 0, 0, 0, groups * self.unit_channels - channels))
        cells = cells.reshape(outputs, count, groups, self.unit_channels, *kernel)
        return cells.permute(2, 0, 1, 3, 4, 5).flatten(0, 2), groups

    def _convert(
        self, values: Tensor, outputs: int, groups: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return each conversion's code times its plane's factor, shaped as `values`."""
        planes, entries = len(self._plane_weights), self.table.shape[1]
        column = torch.arange(outputs * planes, device=values.device) % len(self._table)
        start = (column * entries - self.grid.values[0]).to(torch.int32).repeat(groups)
        index = values.to(torch.int32).add_(start.reshape(1, -1, 1, 1)).flatten()
        if not len(self.noise):
            return torch.index_select(self._codes, 0, index).reshape(values.shape)
        drawn = torch.randint(
            len(self.noise), index.shape, dtype=torch.int32, device=index.device,
            generator=generator,
        )  # fmt: skip
        level = torch.index_select(self._table.flatten(), 0, index)
        level += torch.index_select(self.noise.float(), 0, drawn)
        codes = level.add_(8).div_(16).floor_().clamp_(*self.grid.codes).reshape(values.shape)
        factors = torch.tensor(self._plane_weights, dtype=codes.dtype, device=codes.device)
        return codes.mul_(factors.repeat(groups * outputs).reshape(1, -1, 1, 1))

    @cached_property
    def _table(self) -> Tensor:
        """The table with a row per plane at least, float32."""
        rows = max(len(self.table), len(self._plane_weights))
        return self.table.float().expand(rows, -1).contiguous()

    @cached_property
    def _codes(self) -> Tensor:
        """Code without noise times the plane's factor, flat."""
        factors = torch.tensor(self._plane_weights, dtype=torch.float32, device=self.table.device)
        codes = ((self._table + 8) / 16).floor().clamp(*self.grid.codes)
        return (codes * factors.repeat(len(codes) // len(factors))[:, None]).flatten()
