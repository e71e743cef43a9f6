# SPDX-License-Identifier: Apache-2.0
"""Integer tables of an ADC: its grid, its errors and its noise, as a packed file carries them.

`docs/engines/pim.md`, section 1, defines the tables. Grids and errors are exact integer arithmetic.
The curves of :func:`synthetic` are an assumption, in place of a chip's measured ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosil.packed import decomposition as decompose
from cosil.packed.decomposition import VALUES_MAX, Decomposition
from cosil.packed.generators import stream_state, xorshift32_step

LSB = 16
"""Steps of an LSB in transfer and noise tables."""

GAIN_ONE = 4096
"""Gain 1 of a column."""

_INT16 = (-32768, 32767)
_HARMONICS = 3


@dataclass(frozen=True, slots=True)
class Grid:
    """The codes that an ideal ADC gives for a layer's column values, and what they stand for.

    Parameters
    ----------
    decomposition, weight_bits, slice_bits, adc_bits
        As of `PimSpec`.
    rows : int
        Rows of the layer's group.
    kind : {"B", "A"}
        B: the full scale in equal steps; A: an LSB of `lsb` units from `offset` on.
    lsb : int
        k of grid A, at least 1; without effect on grid B.
    offset : int
        l of grid A, in units; without effect on grid B.
    """

    decomposition: Decomposition
    weight_bits: int
    slice_bits: int
    rows: int
    adc_bits: int
    kind: Literal["A", "B"] = "B"
    lsb: int = 1
    offset: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("A", "B"):
            raise ValueError(f"pim: grid must be 'A' or 'B', not {self.kind!r}")
        if self.lsb < 1:
            raise ValueError(f"pim: grid_lsb must be at least 1, not {self.lsb!r}")
        low, high = self.values
        if high - low + 1 > VALUES_MAX:
            raise ValueError(
                f"pim: a column must have at most {VALUES_MAX} values, not {high - low + 1}"
            )

    @property
    def values(self) -> tuple[int, int]:
        """Least and largest value of a column."""
        return decompose.value_range(
            self.decomposition, self.weight_bits, self.slice_bits, self.rows
        )

    @property
    def codes(self) -> tuple[int, int]:
        """Least and largest code."""
        return decompose.code_range(self.decomposition, self.adc_bits)

    def table(self) -> NDArray[np.int16]:
        """Return T, int16[largest - least value + 1], sixteenths of an LSB, saturated to int16.

        int16 holds every legal code with a margin, so that saturation moves no code.
        """
        low, high = self.values
        v = np.arange(low, high + 1, dtype=np.int64)
        if self.kind == "A":
            exact = (LSB * (v - self.offset) - LSB // 2) // self.lsb + LSB // 2
        else:
            exact = LSB * self.codes[1] * v // high
        return exact.clip(*_INT16).astype(np.int16)

    @property
    def step(self) -> Fraction:
        """Units of a code: code c stands for ``step * c + origin``."""
        if self.kind == "A":
            return Fraction(self.lsb)
        return Fraction(self.values[1], self.codes[1])

    @property
    def origin(self) -> Fraction:
        """What code 0 stands for, in units."""
        return self.offset - Fraction(self.lsb - 1, 2) if self.kind == "A" else Fraction(0)

    def acc_origin(self, activation_bits: int, groups: int) -> Fraction:
        """Return what a sum of 0 stands for: sum acc stands for ``step * acc + acc_origin``.

        Every conversion adds `origin`, times its weight: of slice, row group and plane.
        """
        slices = ((1 << activation_bits) - 1) // ((1 << self.slice_bits) - 1)
        planes = sum(decompose.plane_weights(self.decomposition, self.weight_bits))
        return self.origin * slices * groups * planes


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Static errors of columns, in integers.

    Attributes
    ----------
    gain : int64[R]
        4096ths.
    offset : int64[R]
        Sixteenths of an LSB.
    inl : int64[R, codes]
        Integral non-linearity at each code from the least on, sixteenths of an LSB.
    """

    gain: NDArray[np.int64]
    offset: NDArray[np.int64]
    inl: NDArray[np.int64]


def with_errors(grid: Grid, errors: Errors) -> NDArray[np.int16]:
    """Return a transfer table for each column, int16[R, values]: the grid's with errors.

    T' = clamp16(((T * gain) >> 12) + offset + inl[clamp(T >> 4, codes)]).

    Raises
    ------
    ValueError
        If the errors' shapes disagree, or the INL is not one number for each code.
    """
    low, high = grid.codes
    rows = errors.gain.shape[0]
    if errors.offset.shape != (rows,) or errors.inl.shape != (rows, high - low + 1):
        raise ValueError(
            f"pim: errors of {rows} columns must have offset ({rows},) and inl "
            f"({rows}, {high - low + 1}), not {errors.offset.shape} and {errors.inl.shape}"
        )
    ideal = grid.table().astype(np.int64)
    codes = (ideal >> 4).clip(low, high) - low
    scaled = (ideal * errors.gain[:, None]) >> 12
    bent = scaled + errors.offset[:, None] + errors.inl[:, codes]
    return bent.clip(*_INT16).astype(np.int16)


def synthetic(
    grid: Grid,
    columns: int,
    *,
    gain_sigma: float = 0.0,
    offset_sigma: float = 0.0,
    inl_peak: float = 0.0,
    seed: int = 0,
) -> Errors:
    """Draw errors of columns, the assumed stand-in for measured ones.

    Gain and offset are normal. The INL of a column is a sum of three half-wave sines over the code
    range with normal amplitudes that fall as 1/h, zero at both ends (the end-point fit), scaled so
    that its greatest magnitude is `inl_peak`: a smooth bow with one to three lobes, as a capacitor
    array's or a bitline's curvature gives, and not the jumps of single comparators.

    Parameters
    ----------
    grid : Grid
        Says the codes.
    columns : int
        R; one for each row of the transfer table.
    gain_sigma : float
        Standard deviation of gain - 1.
    offset_sigma, inl_peak : float
        LSB.
    seed : int
        Column r draws from xorshift32 stream seed + r: gain, offset, then the amplitudes of
        harmonics 1, 2 and 3. A draw's upper 24 bits are the argument of the normal's inverse CDF.
    """
    low, high = grid.codes
    normal = np.array([_normals(seed + r, 2 + _HARMONICS) for r in range(columns)])
    t = np.arange(high - low + 1) / (high - low)
    harmonics = np.arange(1, _HARMONICS + 1)
    curves = (normal[:, 2:] / harmonics) @ np.sin(math.pi * harmonics[:, None] * t)
    peaks = np.abs(curves).max(axis=1, keepdims=True)
    return Errors(
        gain=_rounded(GAIN_ONE * (1 + gain_sigma * normal[:, 0])),
        offset=_rounded(LSB * offset_sigma * normal[:, 1]),
        inl=_rounded(LSB * inl_peak * curves / peaks),
    )


def noise_table(sigma: float, noise_bits: int) -> NDArray[np.int16]:
    """Return RNE(16 sigma InverseNormal((i + 1/2) / 2**noise_bits)), int16[2**noise_bits].

    Parameters
    ----------
    sigma : float
        Standard deviation in LSB, at least 0.
    noise_bits : int
        Logarithm of the table's length, 2..10.

    Raises
    ------
    ValueError
        If a parameter is out of range, or an entry does not fit int16.
    """
    if not 2 <= noise_bits <= 10:
        raise ValueError(f"pim: noise_bits must be in 2..10, not {noise_bits!r}")
    entries = 1 << noise_bits
    inverse = NormalDist().inv_cdf
    exact = [LSB * sigma * inverse((i + 0.5) / entries) for i in range(entries)]
    if not (sigma >= 0 and exact[-1] <= _INT16[1]):
        raise ValueError(f"pim: sigma must be at least 0 and fit int16 / 16 LSB, not {sigma!r}")
    return np.array([round(value) for value in exact], dtype=np.int16)


def _normals(stream: int, count: int) -> list[float]:
    state = stream_state(stream)
    inverse = NormalDist().inv_cdf
    values: list[float] = []
    for _ in range(count):
        state = xorshift32_step(state)
        values.append(inverse(((state >> 8) + 0.5) / (1 << 24)))
    return values


def _rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(values).astype(np.int64)
