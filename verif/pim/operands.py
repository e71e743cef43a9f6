# SPDX-License-Identifier: Apache-2.0
"""Random and corner operands of the PIM macro, stream by stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_WIDE, Job, macro_transfer
from cosil.lowering.pim_transfer import Errors, Grid, noise_table, synthetic, with_errors
from cosil.packed import bitplane
from cosil.packed.decomposition import encoding
from cosil.packed.generators import xorshift32_step
from verif.lib.generate import fixed_point_columns

TRANSFERS = ("A", "A errors", "B", "B errors", "B synthetic", "random", "ends", "largest")
"""Styles of `transfer`: the grids alone, with errors of columns drawn at random, and with smooth
ones; any entries; ends of int16 and of the roundings; the largest sum or the smallest."""

NOISES = ("normal", "small", "any", "zero")
"""Styles of `noise`: a normal table, half an LSB to one and a half, all of int16, none."""


def pick(rng: np.random.Generator, values: tuple[int, ...], high: int) -> int:
    """Return one of the values that are in 1..high."""
    return int(rng.choice([value for value in values if 1 <= value <= high]))


def codes(spec: PimSpec, rng: np.random.Generator, m: int, k: int) -> NDArray[np.uint8]:
    """Return activations uint8[M, K]: a style for each vector."""
    top = (1 << spec.activation_bits) - 1
    x = rng.integers(0, top, (m, k), dtype=np.uint8, endpoint=True)
    style = rng.choice(["any", "any", "zeros", "largest", "sparse", "single"], m)
    x[style == "zeros"] = 0
    x[style == "largest"] = top
    sparse = style == "sparse"
    x[sparse] *= (rng.random((int(sparse.sum()), k)) < 0.2).astype(np.uint8)
    for vector in np.flatnonzero(style == "single"):
        x[vector] = 0
        x[vector, rng.integers(k)] = top
    return x


def weights(spec: PimSpec, rng: np.random.Generator, job: Job) -> NDArray[np.int64]:
    """Return weight codes int64[n, K], uniform."""
    most = (1 << (spec.weight_bits - 1)) - 1
    least = -most if spec.decomposition == "differential" else -most - 1
    return rng.integers(least, most, (job.n, job.k), endpoint=True)


def packed_weights(spec: PimSpec, job: Job, values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the cells of weights, uint64[n, P.Q, G, words]."""
    kind = encoding(spec.decomposition)
    return bitplane.encode(values, encoding=kind, bits=spec.weight_bits, rows=job.rows).words.copy()


def cells(
    spec: PimSpec, rng: np.random.Generator, job: Job, *, dense: bool = False
) -> NDArray[np.uint64]:  # fmt: skip
    """Return cells uint64[n, P.Q, G, words].

    Unless `dense`, some outputs have one weight only (the least, the largest, 0 or -1), or cells
    that no weight gives: both of a differential pair.
    """
    values = weights(spec, rng, job)
    most = (1 << (spec.weight_bits - 1)) - 1
    least = -most if spec.decomposition == "differential" else -most - 1
    style = rng.integers(0, 2 if dense else 8, job.n)
    for number, value in enumerate((least, most, 0, -1), 3):
        values[style == number] = value
    words = packed_weights(spec, job, values)
    used = packed_weights(spec, job, np.full_like(values, -1))[:, spec.bit_planes - 1 :]
    every = style == 7
    words[every] = rng.integers(1 << 64, size=words[every].shape, dtype=np.uint64) & used[every]
    return words


def transfer(
    spec: PimSpec, rng: np.random.Generator, rows: int, style: str | None = None
) -> NDArray[np.int16]:  # fmt: skip
    """Return transfer tables int16[C, V] for groups of so many rows; `style` as in `TRANSFERS`.

    Columns that no output uses hold anything.
    """
    style = style or str(rng.choice(TRANSFERS))
    low, high = spec.code_min, spec.code_max
    shape = (spec.columns, spec.entries)
    anything = rng.integers(16 * low - 24, 16 * high + 24, shape, dtype=np.int16, endpoint=True)
    if style == "random":
        return anything
    if style == "ends":
        code = 16 * rng.integers(low - 1, high + 1, shape, endpoint=True)
        near = code + rng.choice([-9, -8, 7, 8], shape)
        return np.where(
            rng.random(shape) < 0.2, rng.choice([-32768, 32767], shape), near
        ).astype(np.int16)  # fmt: skip
    if style == "largest":
        sign = np.resize(np.sign(spec.plane_weights), spec.columns) * rng.choice([-1, 1])
        return np.tile(np.where(sign > 0, 32767, -32768).astype(np.int16)[:, None], shape[1])
    grid = Grid(spec.decomposition, spec.weight_bits, spec.slice_bits, rows, spec.adc_bits)
    values = grid.values
    if style.startswith("A"):
        step = int(rng.integers(1, 1 + 2 * max(1, (values[1] - values[0]) // (high - low))))
        offset = int(rng.integers(-step, 2 * step, endpoint=True))
        grid = Grid(
            spec.decomposition, spec.weight_bits, spec.slice_bits, rows, spec.adc_bits, "A", step,
            offset,
        )  # fmt: skip
    used = spec.outputs * spec.planes
    tables = grid.table()[None]
    if style.endswith("errors"):
        tables = with_errors(grid, _errors(grid, rng, used))
    elif style.endswith("synthetic"):
        drawn = synthetic(grid, used, gain_sigma=0.03, offset_sigma=0.5, inl_peak=1.0,
                          seed=int(rng.integers(1 << 31)))  # fmt: skip
        tables = with_errors(grid, drawn)
    memory = macro_transfer(spec, tables, rows)
    memory[used:] = anything[used:]
    return memory


def _errors(grid: Grid, rng: np.random.Generator, columns: int) -> Errors:
    low, high = grid.codes
    return Errors(
        gain=rng.integers(3600, 4600, columns),
        offset=rng.integers(-24, 24, columns, endpoint=True),
        inl=rng.integers(-16, 16, (columns, high - low + 1), endpoint=True),
    )


def noise(
    spec: PimSpec, rng: np.random.Generator, style: str | None = None
) -> NDArray[np.int16]:  # fmt: skip
    """Return a noise table int16[2**noise_bits], or an empty one without noise hardware."""
    if not spec.noise_bits:
        return np.zeros(0, dtype=np.int16)
    style = style or str(rng.choice(NOISES, p=(0.5, 0.2, 0.2, 0.1)))
    if style == "normal":
        return noise_table(float(rng.uniform(0.2, 2.0)), spec.noise_bits)
    if style == "zero":
        return np.zeros(spec.noise_entries, dtype=np.int16)
    if style == "small":
        size = rng.integers(9, 24, spec.noise_entries, endpoint=True)
        return np.where(rng.random(spec.noise_entries) < 0.5, size, -size).astype(np.int16)
    table = rng.integers(-32768, 32767, spec.noise_entries, dtype=np.int16, endpoint=True)
    table[rng.integers(spec.noise_entries, size=2)] = -32768, 32767
    return table


def states(spec: PimSpec, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Return a state for each ADC, corners among them, or none without noise hardware."""
    adcs = spec.adcs if spec.noise_bits else 0
    drawn = rng.integers(1, 1 << 32, adcs, dtype=np.uint32)
    corner = rng.choice(np.array([1, 0x80000000, 0xFFFFFFFF], dtype=np.uint32), adcs)
    return np.where(rng.random(adcs) < 0.2, corner, drawn).astype(np.uint32)


def advanced(before: NDArray[np.uint32], steps: int) -> NDArray[np.uint32]:
    """Return the generators' states after a number of steps."""
    after = before.tolist()
    for _ in range(steps):
        after = [xorshift32_step(state) for state in after]
    return np.array(after, dtype=np.uint32)


def largest_sum(spec: PimSpec, job: Job) -> int:
    """Return a bound on the magnitude of the accumulators."""
    weight = max(map(abs, spec.plane_weights))
    slices = ((1 << spec.activation_bits) - 1) // (spec.slice_levels - 1)
    return job.groups * spec.code_max * weight * slices


def parameters(
    spec: PimSpec, rng: np.random.Generator, job: Job, *, corners: bool
) -> NDArray[np.uint64]:  # fmt: skip
    """Return column parameters uint64[n] whose results fill the output's range, or corners too."""
    largest = 16 * largest_sum(spec, job)
    return fixed_point_columns(rng, job.n, largest, wide=job.has(FLAG_WIDE), corners=corners)
