# SPDX-License-Identifier: Apache-2.0
"""Transfer and noise tables against the rational formulas of docs/engines/pim.md, section 1."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.engines.pim import PimSpec
from cosil.lowering.pim_transfer import Errors, Grid, noise_table, synthetic, with_errors
from cosil.packed.decomposition import DECOMPOSITIONS

HALF = Fraction(1, 2)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Draw a layer's ADC on either grid."""
    return Grid(
        draw(st.sampled_from(DECOMPOSITIONS)),
        draw(st.integers(2, 6)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 20)),
        draw(st.integers(2, 10)),
        draw(st.sampled_from(["A", "B"])),
        draw(st.integers(1, 9)),
        draw(st.integers(-9, 30)),
    )


def codes_of(grid: Grid) -> list[int]:
    """Return the code of each value, converted as the page says."""
    low, high = grid.codes
    return [min(max((int(t) + 8) >> 4, low), high) for t in grid.table()]


@settings(max_examples=150)
@given(grids())
def test_codes_without_noise_are_those_of_the_page(grid: Grid) -> None:
    """The table's two roundings are one: floor((v - l - 1/2) / k) + 1, floor(top v / FS + 1/2)."""
    least, most = grid.values
    low, high = grid.codes
    for v, code in zip(range(least, most + 1), codes_of(grid), strict=True):
        if grid.kind == "A":
            exact = math.floor((v - grid.offset - HALF) / grid.lsb) + 1
        else:
            exact = math.floor(Fraction(high * v, most) + HALF)
        assert code == min(max(exact, low), high)


@settings(max_examples=150)
@given(grids())
def test_a_code_stands_for_the_values_that_give_it(grid: Grid) -> None:
    """Grid A: the mean of a code's values; grid B: within half a step of each; ends left out."""
    values: dict[int, list[int]] = {}
    for v, code in zip(range(grid.values[0], grid.values[1] + 1), codes_of(grid), strict=True):
        values.setdefault(code, []).append(v)
    for code in sorted(values)[1:-1]:
        stands_for = grid.step * code + grid.origin
        if grid.kind == "A":
            assert stands_for == Fraction(sum(values[code]), len(values[code]))
        else:
            assert all(abs(v - stands_for) <= grid.step / 2 for v in values[code])


def test_full_scale_grid_reaches_its_ends() -> None:
    """On grid B zero is code 0 and the largest value the largest code, which stands for it."""
    for decomposition in DECOMPOSITIONS:
        grid = Grid(decomposition, 4, 1, 144, 7)
        table = grid.table()
        assert table[-grid.values[0]] == 0
        assert table[-1] == 16 * grid.codes[1]
        assert grid.step * grid.codes[1] == grid.values[1]


@given(grids(), st.sampled_from([1, 2]), st.integers(1, 4))
def test_acc_origin_is_the_sum_over_conversions(grid: Grid, slices: int, groups: int) -> None:
    """A value of one code in every conversion gives the same sum by either route."""
    spec = PimSpec(
        grid.decomposition, weight_bits=grid.weight_bits, slice_bits=grid.slice_bits,
        activation_bits=grid.slice_bits * slices, rows=grid.rows, columns=24, mux=1,
    )  # fmt: skip
    code = 1
    value = grid.step * code + grid.origin
    levels = [spec.slice_levels**s for s in range(spec.slices)]
    weights = [level * weight * groups for level in levels for weight in spec.plane_weights]
    acc = sum(weight * code for weight in weights)
    origin = grid.acc_origin(spec.activation_bits, groups)
    assert sum(weight * value for weight in weights) == grid.step * acc + origin


@settings(max_examples=60)
@given(grids(), st.integers(0, 2**32 - 1))
def test_errors_act_as_the_page_says(grid: Grid, seed: int) -> None:
    """Gain, offset and INL of each column, entry by entry; no errors leave the table."""
    rng = np.random.default_rng(seed)
    low, high = grid.codes
    codes = high - low + 1
    gain, offset = rng.integers(2000, 7000, 3), rng.integers(-5000, 5000, 3)
    inl = rng.integers(-99, 99, (3, codes))
    table = grid.table().tolist()
    bent = with_errors(grid, Errors(gain, offset, inl))
    assert bent.dtype == np.int16
    for r in range(3):
        for t, found in zip(table, bent[r].tolist(), strict=True):
            code = min(max(t // 16, low), high) - low
            exact = t * int(gain[r]) // 4096 + int(offset[r]) + int(inl[r, code])
            assert found == min(max(exact, -32768), 32767)
    none = Errors(np.full(2, 4096), np.zeros(2, int), np.zeros((2, codes), int))
    assert [table, table] == with_errors(grid, none).tolist()


def test_errors_of_other_shapes_are_refused() -> None:
    """One offset a column and one INL a code are required."""
    errors = Errors(np.full(2, 4096), np.zeros(2, int), np.zeros((2, 8), int))
    message = r"^pim: errors of 2 columns must have offset \(2,\) and inl \(2, 16\), not \(2,\) and"
    with pytest.raises(ValueError, match=message):
        with_errors(Grid("bit_serial", 4, 1, 16, 4), errors)


def test_synthetic_errors_have_the_asked_size() -> None:
    """INL peaks at what is asked and is 0 at both ends; gain and offset have their deviation.

    2,000 columns: a sample's deviation is within 4 / sqrt(2 * 2000) = 6.4 % of the true one.
    """
    grid = Grid("bit_serial", 4, 1, 144, 7)
    errors = synthetic(grid, 2000, gain_sigma=0.05, offset_sigma=3, inl_peak=1.5, seed=8)
    assert set(np.abs(errors.inl).max(axis=1)) == {24}
    assert not errors.inl[:, [0, -1]].any()
    assert np.abs(np.diff(errors.inl, axis=1)).max() <= 2, "a smooth curve"
    assert np.std(errors.gain) / 4096 == pytest.approx(0.05, rel=0.064)
    assert np.std(errors.offset) / 16 == pytest.approx(3, rel=0.064)
    assert np.mean(errors.gain) == pytest.approx(4096, abs=4 * 0.05 * 4096 / 2000**0.5)
    bows = (errors.inl > 0).all(axis=1) | (errors.inl < 0).all(axis=1)
    assert not bows.all(), "curves differ in the number of their lobes"


def test_synthetic_errors_are_a_columns_own() -> None:
    """Column r draws from stream seed + r, whatever the number of columns; 0 means no error."""
    grid = Grid("native", 4, 1, 20, 6)
    some = synthetic(grid, 3, gain_sigma=0.1, offset_sigma=1, inl_peak=1, seed=10)
    more = synthetic(grid, 9, gain_sigma=0.1, offset_sigma=1, inl_peak=1, seed=8)
    for name in ("gain", "offset", "inl"):
        np.testing.assert_array_equal(getattr(some, name), getattr(more, name)[2:5])
    none = synthetic(grid, 3)
    np.testing.assert_array_equal(grid.table()[None].repeat(3, axis=0), with_errors(grid, none))


@pytest.mark.parametrize("noise_bits", [2, 5, 10])
@pytest.mark.parametrize("sigma", [0.1, 0.35, 3.0])
def test_noise_table_inverts_the_normal(noise_bits: int, sigma: float) -> None:
    """Entry i is the sixteenth nearest to the quantile (i + 1/2) / n, by the error function."""
    table = noise_table(sigma, noise_bits).tolist()
    n = 2**noise_bits
    assert len(table) == n
    assert [-entry for entry in table[::-1]] == table
    for i, entry in enumerate(table):
        below, above = (
            0.5 * math.erfc(-(entry + side) / 16 / sigma / math.sqrt(2)) for side in (-0.5, 0.5)
        )
        assert below - 1e-12 <= (i + 0.5) / n <= above + 1e-12


def test_noise_table_has_its_deviation() -> None:
    """1,024 quantiles of a normal have 99.7 % of its deviation (their tails are cut)."""
    table = noise_table(10, 10).astype(float) / 16
    assert np.std(table) == pytest.approx(10, rel=0.004)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Grid("native", 4, 1, 9, 4, "C"), "grid must be 'A' or 'B', not 'C'"),
        (lambda: Grid("native", 4, 1, 9, 4, "A", 0), "grid_lsb must be at least 1, not 0"),
        (lambda: Grid("native", 8, 8, 3, 4), "a column must have at most 65536 values, not 195076"),
        (lambda: noise_table(1, 1), "noise_bits must be in 2..10, not 1"),
        (lambda: noise_table(-1, 4), "sigma must be at least 0 and fit int16 / 16 LSB, not -1"),
        (lambda: noise_table(1e4, 4), "sigma must be at least 0 and fit int16 / 16 LSB, not 1"),
        (lambda: noise_table(math.nan, 4), "sigma must be at least 0 and fit int16 / 16 LSB, not"),
    ],
)
def test_refusals(build, message: str) -> None:
    """What no table can be is refused with what is possible."""
    with pytest.raises(ValueError, match=f"^pim: {message}"):
        build()
