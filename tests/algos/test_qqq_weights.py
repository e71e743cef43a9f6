# SPDX-License-Identifier: Apache-2.0
"""Layer-level mathematics of RTN and QQQ: grids, clipping, compensation, rotations."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.lib.clip import mse_grid, static_scale
from algos.lib.gptq import Hessian, compensated_codes, output_error
from algos.lib.hadamard import hadamard, random_rotation
from algos.lib.quantise import (
    Grid,
    absmax_grid,
    per_tensor_int8,
    per_token_int8,
    round_to_grid,
    with_scales,
)

torch.set_num_threads(1)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def test_per_channel_grid_reaches_the_largest_weight_with_code_seven():
    """Step max / 7, codes -7..7, ties to even."""
    weight = torch.tensor([[7.0, -7.0, 0.5, 1.5, 2.5, -3.4]])
    grid = absmax_grid(weight, 0)
    assert grid.steps.tolist() == [[1.0]]
    assert round_to_grid(weight, grid).tolist() == [[7, -7, 0, 2, 2, -3]]


def test_per_group_grid_uses_minus_eight():
    """Step max / 7.5: the most negative weight gets RNE(-7.5) = -8, the most positive 7."""
    weight = torch.tensor([[-7.5, 1.0, 15.0, 0.0, 3.0]])
    grid = absmax_grid(weight, 2)
    assert torch.allclose(torch.tensor([[1.0, 2.0, 3.0 / 7.5]]), grid.steps)
    assert round_to_grid(weight, grid).tolist() == [[-8, 1, 7, 0, 7]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(1, 40), group=st.integers(1, 40))
def test_second_level_scales_stay_in_int8(seed: int, columns: int, group: int):
    """|q * s_g| <= 127 up to float16's rounding, so the engine never clamps; values are kept."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_t(3, (5, columns))).float()
    weight[0] = 0.0
    grid = absmax_grid(weight, min(group, columns))
    codes = round_to_grid(weight, grid)
    packed = with_scales(codes, grid)
    assert packed.group is not None
    exact = (
        codes.numpy().astype(np.float64)
        * np.repeat(packed.group.numpy().T.astype(np.float64), packed.group_size, axis=1)[
            :, :columns
        ]
    )
    assert np.abs(exact).max() <= 127 * (1 + 2**-11)
    assert np.array_equal(np.clip(np.rint(exact), -128, 127), packed.operand().numpy())
    wanted = codes.numpy() * grid.per_column(columns).numpy()
    channel = packed.channel.numpy()[:, None]
    assert np.all(np.abs(packed.dequantise().numpy() - wanted) <= 0.57 * channel)


def test_clip_search_is_the_best_of_its_candidates():
    """For every row no other of the 80 shrunken steps has a smaller error of norm 2.4."""
    weight = torch.from_numpy(np.random.default_rng(5).standard_t(3, (6, 33))).float()
    for group_size, half, low in ((0, 7.0, -7), (11, 7.5, -8)):
        grid = mse_grid(weight, group_size)
        width = group_size or 33
        for row, part in itertools.product(range(6), range(33 // width)):
            values = weight[row, part * width : (part + 1) * width].numpy()
            steps = [np.abs(values).max() / half * (1 - i / 100) for i in range(80)]
            errors = [
                (np.abs(np.clip(np.rint(values / s), low, 7) * s - values) ** 2.4).sum()
                for s in steps
            ]
            got = float(grid.steps[row, part])
            nearest = int(np.argmin([abs(s - got) for s in steps]))
            assert errors[nearest] <= min(errors) * (1 + 1e-4)


def test_compensation_finds_the_best_codes_of_two_columns():
    """With two inputs the last code is the best one given the first, found by trying all codes."""
    generator = np.random.default_rng(2)
    inputs = torch.from_numpy(generator.standard_normal((400, 2)) @ [[1.0, 0.9], [0.0, 0.4]])
    hessian = Hessian(2)
    hessian.add(inputs)
    weight = _normal(20, 2, seed=3)
    grid = absmax_grid(weight, 0)
    codes = compensated_codes(weight, hessian.matrix, grid, act_order=False, damping=1e-9)
    h = hessian.matrix.numpy()
    for row in range(20):
        step = float(grid.steps[row, 0])
        first = int(np.clip(np.rint(float(weight[row, 0]) / step), -7, 7))
        errors = {}
        for second in range(-7, 8):
            d = weight[row].numpy() - np.array([first, second]) * step
            errors[second] = d @ h @ d
        assert int(codes[row, 0]) == first
        assert errors[int(codes[row, 1])] <= min(errors.values()) * (1 + 1e-9)


@pytest.mark.parametrize("group_size", [0, 16, 48])
@pytest.mark.parametrize("act_order", [False, True])
def test_compensation_beats_rounding_on_correlated_inputs(group_size: int, act_order: bool):
    """Output error falls by a fifth at least, as measured on the calibration rows themselves."""
    inputs = _normal(500, 64, seed=1) @ _normal(64, 64, seed=2)
    weight = _normal(24, 64, seed=4)
    hessian = Hessian(64)
    for part in inputs.split(77):
        hessian.add(part)
    grid = absmax_grid(weight, group_size)
    rounded = with_scales(round_to_grid(weight, grid), grid).dequantise()
    codes = compensated_codes(weight, hessian.matrix, grid, act_order=act_order, block=20)
    compensated = with_scales(codes, grid).dequantise()
    measured = float(((inputs @ (weight - compensated).t()) ** 2).sum(dim=1).mean())
    assert measured < 0.8 * float(((inputs @ (weight - rounded).t()) ** 2).sum(dim=1).mean())
    assert abs(output_error(weight, compensated, hessian.matrix) / measured - 1) < 1e-4


def test_compensation_does_not_depend_on_the_block():
    """Blocks only batch the updates: 1, 7 and 128 columns at once give the same codes."""
    inputs, weight = _normal(300, 40, seed=6) @ _normal(40, 40, seed=7), _normal(9, 40, seed=8)
    hessian = Hessian(40)
    hessian.add(inputs)
    grid = absmax_grid(weight, 16)
    results = [compensated_codes(weight, hessian.matrix, grid, block=b) for b in (1, 7, 128)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_dead_inputs_get_code_zero_and_a_white_hessian_changes_nothing():
    """H_jj = 0 removes the column; with H a multiple of the identity compensation is rounding."""
    weight = _normal(6, 12, seed=9)
    grid = absmax_grid(weight, 0)
    hessian = torch.eye(12, dtype=torch.float64) * 3.0
    hessian[4, 4] = 0.0
    codes = compensated_codes(weight, hessian, grid)
    expected = round_to_grid(weight, grid)
    expected[:, 4] = 0
    assert torch.equal(expected, codes)


def test_hessian_is_twice_the_mean_outer_product_however_rows_arrive():
    """Batches of any size give 2 XᵀX / rows and the mean row."""
    rows = _normal(101, 5, seed=10)
    hessian = Hessian(5)
    for part in rows.split([1, 40, 60]):
        hessian.add(part.reshape(1, -1, 5))
    expected = 2 * np.cov(rows.numpy().T, bias=True) + 2 * np.outer(rows.mean(0), rows.mean(0))
    assert np.allclose(expected, hessian.matrix.numpy(), atol=1e-5)
    assert np.allclose(rows.numpy().mean(axis=0), hessian.mean.numpy(), atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 40, 44, 60, 64, 108, 140])
def test_hadamard_rows_are_orthogonal_signs(order: int):
    """H Hᵀ = n I with entries ±1."""
    matrix = hadamard(order)
    assert matrix is not None
    assert np.array_equal(np.abs(matrix), np.ones((order, order)))
    assert np.array_equal(order * np.eye(order), matrix @ matrix.T)


@pytest.mark.parametrize(("order", "kind"), [(48, "hadamard"), (7, "hadamard"), (48, "orthogonal")])
def test_random_rotations_are_orthogonal_and_reproducible(order: int, kind: str):
    """QᵀQ = I; one seed gives one matrix and another seed another; 7 has no Hadamard matrix."""
    a, b, c = (random_rotation(order, kind, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.allclose(a.t() @ a, torch.eye(order, dtype=torch.float64), atol=1e-12)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_per_token_codes_follow_float16_scales():
    """The scale is f16(max / 127), codes round to even and a zero row stays zero."""
    rows = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [1000.0, 3.0, -1000.0]])
    got = per_token_int8(rows).numpy()
    for row in (0, 2):
        scale = np.float32(np.float16(np.abs(rows[row].numpy()).max() / np.float32(127)))
        codes = np.clip(np.rint(rows[row].numpy() / scale), -128, 127)
        assert np.array_equal(codes * scale, got[row])
    assert np.array_equal([0.0, 0.0, 0.0], got[1])


def test_static_scales():
    """Max and percentile are order statistics over 127; mse is at least as good as both."""
    values = torch.cat([_normal(5000, seed=11), torch.tensor([30.0])])
    largest = static_scale(values, "max")
    assert abs(largest - 30.0 / 127) < 1e-6
    percentile = static_scale(values, "percentile", 99.0)
    assert abs(percentile - np.sort(np.abs(values.numpy()))[int(0.99 * 5001) - 1] / 127) < 1e-3

    def error(scale: float) -> float:
        return float((per_tensor_int8(values, scale) - values).square().mean())

    best = error(static_scale(values, "mse"))
    assert best <= error(largest)
    assert best <= error(percentile)
    assert static_scale(torch.zeros(3), "mse") == 1.0


def test_a_group_of_zeros_in_a_row_is_kept():
    """Zero groups and zero rows get finite scales and dequantise to zero."""
    codes = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0]], dtype=torch.int8)
    packed = with_scales(codes, Grid(torch.tensor([[1e-8, 1.0], [0.0, 0.0]]), 2))
    assert packed.group is not None
    assert bool(torch.isfinite(packed.group).all())
    assert packed.dequantise()[1].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert packed.dequantise()[0, 2:].tolist() == [0.0, 0.0]
