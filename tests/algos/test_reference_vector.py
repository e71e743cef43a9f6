# SPDX-License-Identifier: Apache-2.0
"""The vector unit's definitions are close to the functions they stand for, and exact at corners.

Oracles are torch in float64, with an error bound that follows from the roundings of the definition,
and exact integer arithmetic.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference import vector
from cosil.lowering import tables
from cosil.packed import raw
from cosil.packed.network import Node

HALF_UNIT = 2.0**-11
"""Largest relative error of one rounding to float16 (normal range)."""


def _random(*shape: int, seed: int = 0, gain: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * gain).half()


@settings(max_examples=100, deadline=None)
@given(
    a=st.integers(-128, 127),
    b=st.integers(-128, 127),
    mul_a=st.integers(0, 65535),
    mul_b=st.integers(0, 65535),
    shift=st.integers(0, 63),
    relu=st.booleans(),
)
def test_add_codes(a: int, b: int, mul_a: int, mul_b: int, shift: int, relu: bool) -> None:
    """A residual sum is the exact fraction, to nearest even, clamped at 0 for relu, saturated."""
    y = round(Fraction(a * mul_a + b * mul_b, 2**shift))
    expected = min(max(y, 0 if relu else -128), 127)
    codes = (torch.tensor([value], dtype=torch.int8) for value in (a, b))
    assert expected == int(vector.add_codes(*codes, mul_a, mul_b, shift, relu=relu))


def test_quantize_ties_and_saturation() -> None:
    """Halves go to the even code; what is above 127 or below -128 saturates, infinities too."""
    x = torch.tensor([0.5, 1.5, -2.5, 126.5, 127.5, -128.5, 1e30, -torch.inf])
    assert vector.quantize(x, 1.0).tolist() == [0, 2, -2, 126, 127, -128, 127, -128]


def test_quantize_rows_is_qqq_rule() -> None:
    """The scale is rounded to float16 before the division; a zero row has scale 1 and codes 0."""
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [3.0, 0.1]], dtype=torch.float16)
    codes, scales = vector.quantize_rows(x)
    step = [float(np.float16(np.float32(amax) / np.float32(127))) for amax in (1.0, 3.0)]
    assert scales.tolist() == [1.0, *step]
    tenth = float(np.float16(0.1))
    assert codes.tolist() == [[0, 0], [127, -127], [127, round(tenth / step[1])]]


def test_quantize_rows_reaches_minus_128() -> None:
    """A subnormal scale that rounds down gives -128, and +128 saturates to 127."""
    # 190 units of 2**-24: the scale 190 / 127 = 1.496 rounds to 1 unit.
    x = torch.tensor([[-190.0, 190.0, 128.0, 127.0, -128.0]]) * 2.0**-24
    codes, scales = vector.quantize_rows(x.half())
    assert scales.tolist() == [2.0**-24]
    assert codes.tolist() == [[-128, 127, 127, 127, -128]]


def test_quantize_rows_tiny_row_is_zero() -> None:
    """Where amax / 127 rounds to 0 in float16 the scale is 1 and every code 0."""
    x = torch.full((1, 3), 63 * 2.0**-24).half()
    codes, scales = vector.quantize_rows(x)
    assert (scales.tolist(), codes.tolist()) == ([1.0], [[0, 0, 0]])


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 8, 100])
def test_tree_order(n: int) -> None:
    """A tree sum adds x[i] and x[i + half] of the padded axis, recursively; a zero sum is +0."""

    def recurse(x: list[np.float32]) -> np.float32:
        if len(x) == 1:
            return x[0]
        half = len(x) // 2
        return recurse([np.float32(a + b) for a, b in zip(x[:half], x[half:], strict=True)])

    rng = np.random.default_rng(n)
    x = (rng.standard_normal(n) * 2.0 ** rng.integers(-10, 10, n)).astype(np.float32)
    padded = [*x, *[np.float32(0)] * ((1 << (n - 1).bit_length()) - n)]
    assert recurse(padded) == vector.tree_sum(torch.from_numpy(x)[:, None]).item()
    zero = vector.tree_sum(torch.full((n, 1), -0.0))
    assert not torch.signbit(zero).item()


@pytest.mark.parametrize(
    ("table", "function"),
    [
        (tables.gelu_table, F.gelu),
        (tables.gelu_tanh_table, lambda x: F.gelu(x, approximate="tanh")),
        (tables.silu_table, F.silu),
    ],
    ids=["gelu", "gelu-tanh", "silu"],
)
def test_activations_are_close_on_every_input(table, function) -> None:
    """Every finite float16 is within the interpolation's and the roundings' error of the function.

    Linear interpolation over 1/16 errs by max|f''| / 8 / 256 (below 0.8 / 2048 for GELU, 0.5 / 2048
    for SiLU); input, entries and result of Q3.12 add two units of 2**-12; float16 half a unit.
    Beyond 8 the functions differ from x, or from 0, by less than 0.003 (SiLU at -8).
    """
    bits = torch.arange(65536).to(torch.int32).to(torch.int16)
    x = bits.view(torch.float16)
    x = x[torch.isfinite(x)]
    y = vector.activation(x, torch.from_numpy(table())).double()
    exact = function(x.double())
    bound = torch.where(x.abs() < 8, 0.8 / 2048 + 2 * 2.0**-12, 0.003) + exact.abs() * HALF_UNIT
    assert bool(((y - exact).abs() <= bound).all())
    assert bool((y[x <= -8] == 0).all())
    assert torch.equal(y[x >= 8], x[x >= 8].double())


@pytest.mark.parametrize("d", [3, 64, 100])
def test_norms_are_close(d: int) -> None:
    """Layer and RMS norm are within one float16 rounding, and float32's, of torch in float64."""
    x = _random(4, 5, d, seed=d, gain=3.0)
    gamma, beta = _random(d, seed=1).float(), _random(d, seed=2).float()
    wide = x.double(), gamma.double(), beta.double()
    ours = vector.normalise(x, gamma, beta, 1e-5, centre=True).double()
    exact = F.layer_norm(wide[0], (d,), wide[1], wide[2], 1e-5)
    torch.testing.assert_close(ours, exact, rtol=HALF_UNIT * 1.01, atol=1e-5)
    ours = vector.normalise(x, gamma, None, 1e-5, centre=False).double()
    exact = F.rms_norm(wide[0], (d,), wide[1], 1e-5)
    torch.testing.assert_close(ours, exact, rtol=HALF_UNIT * 1.01, atol=1e-6)


@pytest.mark.parametrize("style", ["interleaved", "half"])
def test_rotation_is_a_rotation(style: str) -> None:
    """Pairs turn by the position's angle: equal to complex multiplication in float64."""
    cos, sin = tables.rope_tables(7, 6)
    x = _random(2, 3, 7, 6, seed=4)
    y = vector.rotate(x, torch.from_numpy(cos), torch.from_numpy(sin), style).double()
    split = (lambda t: (t[..., 0::2], t[..., 1::2])) if style == "interleaved" else (
        lambda t: (t[..., :3], t[..., 3:])
    )  # fmt: skip
    turn = torch.complex(torch.from_numpy(cos).double(), torch.from_numpy(sin).double())
    expected = torch.complex(*split(x.double())) * turn
    a, b = split(y)
    torch.testing.assert_close(torch.complex(a, b), expected, rtol=HALF_UNIT * 2, atol=1e-7)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dim", [8, 12])
def test_attention_is_close(causal: bool, dim: int) -> None:
    """Attention is within the error of its table and its float16 probabilities of torch's, float64.

    Table and float16 rounding of p err by about 2**-10 relative each, so that the output errs by at
    most 2**-9 of the largest |v|, and one float16 rounding.
    """
    q, k = _random(2, 4, 9, dim, seed=1, gain=2), _random(2, 2, 9, dim, seed=2)
    v = _random(2, 2, 9, dim, seed=3)
    exp = torch.from_numpy(tables.exp2_table().astype(np.int64))
    scale = float(np.float32(dim**-0.5))
    ours = vector.attend(q, k, v, exp, scale, causal=causal).double()
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=causal, scale=scale, enable_gqa=True
    )
    assert float((ours - exact).abs().max()) <= float(v.abs().max()) * (2**-9 + HALF_UNIT)


def test_attention_of_equal_scores_is_the_mean() -> None:
    """Keys of equal score weigh the same: p = f16(1/n), and the sum runs in tree order."""
    q = torch.zeros(1, 1, 1, 4, dtype=torch.float16)
    k, v = _random(1, 1, 4, 4, seed=5), _random(1, 1, 4, 4, seed=6)
    exp = torch.from_numpy(tables.exp2_table().astype(np.int64))
    y = vector.attend(q, k, v, exp, 1.0, causal=False)[0, 0, 0]
    p = v[0, 0].float() * 0.25
    assert torch.equal(y, ((p[0] + p[2]) + (p[1] + p[3])).half())


def test_masked_values_take_no_part() -> None:
    """An infinite value at a masked position leaves the output finite, whatever follows it."""
    q, k, v = (_random(1, 2, 6, 4, seed=seed) for seed in range(3))
    exp = torch.from_numpy(tables.exp2_table().astype(np.int64))
    plain = vector.attend(q, k, v, exp, 0.5, causal=True)
    v[:, :, 4:] = torch.inf
    changed = vector.attend(q, k, v, exp, 0.5, causal=True)
    assert torch.equal(plain[:, :, :4], changed[:, :, :4])
    assert not bool(torch.isfinite(changed[:, :, 5]).any())


def test_average_pool_counts_padding_and_rounds_to_even() -> None:
    """A window's sum times mul / 2**shift, ties to even; padded positions count as 0."""
    node = Node("p", "avgpool", (), {"kernel": [2, 2], "padding": [1, 1], "mul": 1, "shift": 2})
    x = torch.tensor([[[[2, 4], [6, 8]]]], dtype=torch.int8)
    # Corners 2/4 -> 0, 4/4, 6/4 -> 2, 8/4; edges 6/4, 8/4, 12/4, 14/4 -> 4; centre 20/4.
    expected = [[[[0, 2, 1], [2, 5, 3], [2, 4, 2]]]]
    assert vector.apply(node, (x,)).tolist() == expected


def test_relu_of_zero_and_nan() -> None:
    """relu(-0) is +0 and a NaN stays, as 0x7E00."""
    x = torch.tensor([-0.0, -1.0, 2.0, torch.nan], dtype=torch.float16)
    assert vector.relu(x).view(torch.int16).tolist() == [0, 0, 0x4000, 0x7E00]


def test_table_constants_are_read_from_the_packed_words() -> None:
    """The activation's table is the node's tensor: a table of zeros gives zeros inside (-8, 8)."""
    node = Node("g", "gelu", (), {}, {"table": raw.encode(np.zeros(257, dtype=np.int16))})
    x = torch.tensor([-9.0, -1.0, 7.99, 8.0], dtype=torch.float16)
    assert vector.apply(node, (x,)).tolist() == [0, 0, 0, 8]
