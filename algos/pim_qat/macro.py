# SPDX-License-Identifier: Apache-2.0
"""Arrays in the place of a student's exact sums: which grid, which errors, which eta."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from algos.lib.graph import FloatNode
from algos.pim_qat.array import Array
from algos.pim_qat.grid import Choice, Histogram, search
from algos.pim_qat.settings import PimQatSettings
from algos.pim_qat.student import Student
from cosil.lowering.pim_transfer import Grid, noise_table, synthetic, with_errors
from cosil.packed.decomposition import plane_weights

GRID_SAMPLES = 64
"""Images whose column values a grid is chosen on."""


def unit_channels(settings: PimQatSettings, channels: int, kernel: tuple[int, int]) -> int:
    """Return the input channels of a row group.

    Raises
    ------
    ValueError
        If not even one channel fits the rows.
    """
    area = kernel[0] * kernel[1]
    if area > settings.rows:
        raise ValueError(
            f"pim_qat: rows must be at least kh * kw = {area} of a convolution, "
            f"not {settings.rows!r}"
        )
    return min(channels, settings.rows // area)


def grid_of(
    settings: PimQatSettings, shape: tuple[int, ...], adc_bits: int, choice: Choice | None = None
) -> Grid:
    """Return the grid of a layer whose weight has this shape (N, C, kh, kw)."""
    kernel = (shape[2], shape[3])
    rows = unit_channels(settings, shape[1], kernel) * kernel[0] * kernel[1]
    kind = "B" if settings.grid == "B" else "A"
    lsb, offset = settings.grid_lsb, settings.grid_offset
    if settings.grid == "search":
        assert choice is not None
        lsb, offset = choice.lsb, choice.offset
    return Grid(
        settings.decomposition, settings.weight_bits, settings.slice_bits, rows, adc_bits,
        kind, lsb, offset,
    )  # fmt: skip


def array_of(
    settings: PimQatSettings, grid: Grid, channels: int, area: int, *, errors: bool
) -> Array:
    """Return a layer's array, ideal or with the chip's errors and noise."""
    table = grid.table()[None]
    noise = np.zeros(0, dtype=np.int16)
    if errors and settings.has_errors:
        spec = settings.spec()
        drawn = synthetic(
            grid, spec.outputs * spec.planes, gain_sigma=settings.gain_sigma,
            offset_sigma=settings.offset_sigma, inl_peak=settings.inl_peak,
            seed=settings.chip_seed,
        )  # fmt: skip
        table = with_errors(grid, drawn)
    if errors and settings.noise_sigma:
        noise = noise_table(settings.noise_sigma, settings.noise_bits)
    unit = min(channels, grid.rows // area)
    return Array(
        grid, settings.activation_bits, unit, torch.as_tensor(table), torch.as_tensor(noise)
    )


@torch.no_grad()
def put_arrays(
    student: Student,
    settings: PimQatSettings,
    samples: Tensor,
    *,
    adc_bits: int,
    errors: bool,
    rescale: bool,
) -> dict[str, Choice]:
    """Let the student's layers run on arrays, in place.

    Layers follow each other: where grids are searched, or eta is measured, a layer reads what the
    layers before it give on their arrays. A layer that has an array with ADCs of as many bits keeps
    its grid and its eta.

    Parameters
    ----------
    student : Student
        Changed in place.
    settings : PimQatSettings
        The macro and the chip.
    samples : float[B, ...]
        Inputs on which grids are chosen and eta is measured.
    adc_bits : int
        Of the ADCs.
    errors : bool
        Whether the arrays have the chip's errors and noise.
    rescale : bool
        Forward rescaling: eta = sigma(digital sums) / sigma(the array's sums), a constant of the
        layer from here on; else 1.

    Returns
    -------
    dict of str to Choice
        Grids found, by layer; empty unless `settings.grid` is ``search``.
    """
    noise = torch.Generator(samples.device).manual_seed(settings.chip_seed)
    found: dict[str, Choice] = {}

    def place(node: FloatNode, x: Tensor) -> None:
        if node.name not in student.on_array:
            return
        layer = student.layers[node.name]
        weight = layer.codes()
        shape = tuple(weight.shape)
        area = shape[2] * shape[3]
        codes = student.input_codes(node, x)
        if layer.array is not None and layer.array.grid.adc_bits == adc_bits:
            # What the layer was trained for stays; the chip's errors alone are new.
            array = array_of(settings, layer.array.grid, shape[1], area, errors=errors)
            layer.array = array.to(samples.device)
            return
        if settings.grid == "search":
            start = grid_of(settings, shape, adc_bits, Choice(1, 0, 0.0, 0.0))
            probe = array_of(settings, start, shape[1], area, errors=False).to(samples.device)
            values = probe.values(codes, weight, layer.geometry)
            noisy = settings.noise_sigma if errors else 0.0
            found[node.name] = search(_histogram(values, start), start, noisy)
        grid = grid_of(settings, shape, adc_bits, found.get(node.name))
        array = array_of(settings, grid, shape[1], area, errors=errors).to(samples.device)
        layer.array, layer.eta = array, 1.0
        if rescale:
            digital = layer.geometry.conv(codes, weight)
            got = array.accumulate(codes, weight, layer.geometry, noise) * float(grid.step)
            if float(got.std()) > 0:
                layer.eta = float(digital.std() / got.std())

    student.forward(samples[:GRID_SAMPLES], 0.0, noise, place)
    return found


def _histogram(values: Tensor, grid: Grid) -> Histogram:
    """Return the histogram of float32[S, B, G, N, P, H, W], weighted by slice and plane."""
    low, high = grid.values
    size = high - low + 1
    weight = torch.zeros(size, dtype=torch.float64, device=values.device)
    factors = plane_weights(grid.decomposition, grid.weight_bits)
    for s, part in enumerate(values):
        slice_weight = 1 << (grid.slice_bits * (len(values) - 1 - s))
        for p, factor in enumerate(factors):
            index = (part[:, :, :, p] - low).long().flatten()
            counts = torch.bincount(index, minlength=size)
            weight += counts.double() * float((factor * slice_weight) ** 2)
    return Histogram(low, weight.cpu().numpy())
