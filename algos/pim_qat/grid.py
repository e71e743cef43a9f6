# SPDX-License-Identifier: Apache-2.0
"""Which ADC grid a layer should have: compute signal-to-noise ratio, and its search.

An LSB of k units whose first threshold lies l + 1/2 units above zero (grid A) is what hardware
offers without a multiplier. Most column values lie in a small part of the full scale, so that k and
l fitted to them are worth several bits (Kavishwar and Shanbhag, arXiv 2507.09776, whose figures the
test recomputes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cosil.lowering.pim_transfer import Grid


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often, weighted, columns hold each value.

    Attributes
    ----------
    least : int
        Value of the first entry.
    weight : float64[V]
        At least 0; a conversion counts with the square of its plane's and its slice's factor, so
        that an error's mean square is that of the shifted sum if errors are independent.
    """

    least: int
    weight: NDArray[np.float64]

    @property
    def values(self) -> NDArray[np.float64]:
        """The values, float64[V]."""
        return self.least + np.arange(len(self.weight), dtype=np.float64)

    def variance(self) -> float:
        """Return the weighted variance."""
        mean = np.average(self.values, weights=self.weight)
        return float(np.average((self.values - mean) ** 2, weights=self.weight))


def mean_square_error(
    histogram: Histogram, step: float, first: float, codes: tuple[int, int], sigma: float
) -> float:
    """Return the mean square of (what the code stands for - value).

    Parameters
    ----------
    histogram : Histogram
        Of column values.
    step, first : float
        LSB, and the threshold between the least code and the next, in units. A code stands for the
        middle of its interval, the outermost for that of an interval as wide.
    codes : (int, int)
        Least and largest code.
    sigma : float
        Deviation of the noise before the conversion, units.
    """
    count = codes[1] - codes[0] + 1
    values, weight = histogram.values, histogram.weight
    if sigma == 0:
        # Ties go up, as in the hardware.
        code = np.clip(np.floor((values - first) / step) + 1, 0, count - 1)
        meant = first + (code - 0.5) * step
        return float(np.average((meant - values) ** 2, weights=weight))
    thresholds = first + step * np.arange(count - 1)
    reach = torch.as_tensor((thresholds - values[:, None]) / (sigma * math.sqrt(2)))
    below = 0.5 * (1 + torch.erf(reach).numpy())
    probability = np.diff(below, axis=1, prepend=0.0, append=1.0)
    meant = first + (np.arange(count) - 0.5) * step
    error = (probability * (meant - values[:, None]) ** 2).sum(axis=1)
    return float(np.average(error, weights=weight))


def csnr_db(variance: float, error: float) -> float:
    """Return 10 log10(variance of the values / mean square error)."""
    return 10 * math.log10(variance / error) if error > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Choice:
    """A grid of kind A for a layer.

    Attributes
    ----------
    lsb, offset : int
        k and l.
    csnr_db, full_scale_db : float
        Compute signal-to-noise ratio of this grid and of grid B, the full scale.
    """

    lsb: int
    offset: int
    csnr_db: float
    full_scale_db: float


def search(histogram: Histogram, grid: Grid, sigma_lsb: float = 0.0) -> Choice:
    """Return k and l of least mean square error.

    Every k is tried up to the one that covers the values that occur (above 16 about 8 an octave),
    with the lowest threshold at steps of k / 4 from below the least of them; the first of equal
    ones wins.

    Parameters
    ----------
    histogram : Histogram
        Of a layer's column values.
    grid : Grid
        Decomposition and bits; its kind and grid do not matter.
    sigma_lsb : float
        Deviation of the noise, LSB.
    """
    low, high = grid.codes
    count = high - low + 1
    held = np.flatnonzero(histogram.weight)
    least, most = histogram.least + int(held[0]), histogram.least + int(held[-1])
    span = most - least + 1
    full = float(Grid(grid.decomposition, grid.weight_bits, grid.slice_bits, grid.rows,
                      grid.adc_bits).step)  # fmt: skip
    whole = mean_square_error(histogram, full, (low + 0.5) * full, (low, high), sigma_lsb * full)
    best = (math.inf, 1, 0)
    for lsb in _lsbs(-(-span // count) + 1):
        last = max(least, most - lsb * (count - 1)) + lsb
        for first in range(least - lsb, last + 1, max(1, lsb // 4)):
            error = mean_square_error(histogram, lsb, first + 0.5, (low, high), sigma_lsb * lsb)
            if error < best[0]:
                # l + 1/2 is the threshold below code 1: signed codes begin lower.
                best = error, lsb, first - low * lsb
    variance = histogram.variance()
    return Choice(best[1], best[2], csnr_db(variance, best[0]), csnr_db(variance, whole))


def _lsbs(most: int) -> Sequence[int]:
    """Return every LSB up to 16, then about 8 an octave, up to `most`."""
    fine = [*range(1, min(most, 16) + 1)]
    while fine[-1] < most:
        fine.append(min(most, fine[-1] + max(1, fine[-1] // 8)))
    return fine
