# SPDX-License-Identifier: Apache-2.0
"""The engine's reference equals integer and rational arithmetic, case by case.

Oracles are Python integers and fractions; float rounding is `_ieee`, written from the definition of
binary16 and binary32 and checked against the struct module.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference.w4a8 import (
    epilogue_fixed,
    epilogue_fp16,
    integer_matmul,
    reference,
    requantise,
    rne_shift,
    to_half,
    unpack_int4,
)
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.gemm import gemm_job
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands
from cosil.packed import int4

HALF = (11, -14, 15)
SINGLE = (24, -126, 127)


def _ieee(value: Fraction | float, fmt: tuple[int, int, int]) -> Fraction | float:
    """Round to a binary format (precision, least and largest exponent), ties to even."""
    if isinstance(value, float):
        return value
    precision, low, high = fmt
    exponent = low
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - precision + 1)
    rounded = round(value / unit) * unit
    if abs(rounded) >= Fraction(2) ** (high + 1):
        return math.copysign(math.inf, value)
    return rounded


def _times(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    if isinstance(a, float) or isinstance(b, float):
        return float(a) * float(b)
    return _ieee(a * b, SINGLE)


def test_oracle_rounds_as_struct_does() -> None:
    """The tests' own rounding gives what the struct module packs, for both formats."""
    rng = np.random.default_rng(0)
    for value in np.ldexp(rng.standard_normal(500), rng.integers(-30, 15, 500)):
        exact = Fraction(float(value))
        half, single = struct.pack("<e", value), struct.pack("<f", value)
        assert float(_ieee(exact, HALF)) == struct.unpack("<e", half)[0]
        assert float(_ieee(exact, SINGLE)) == struct.unpack("<f", single)[0]


def test_requantise_exhaustive() -> None:
    """All 16 codes x 19,448 positive float16 scales up to 15.94 give the integer model's byte.

    The model: P = q * significand, then P / 2**(25 - exponent field) to nearest even; no case
    needs the clamp. Source: reference note w4a8.md, section 14.
    """
    bits = np.arange(1, 0x7C00, dtype=np.uint16)
    bits = bits[bits.view(np.float16) < 15.945]
    assert bits.size * 16 == 311_168
    codes = np.arange(-8, 8)
    exponent = np.maximum(bits >> 10, 1).astype(np.int64)
    significand = (bits & 1023) + np.where(bits >> 10, 1024, 0).astype(np.int64)
    product = codes[:, None] * significand
    shift = 25 - exponent
    quotient = product >> shift
    rest = product - (quotient << shift)
    half = np.int64(1) << (shift - 1)
    expected = quotient + ((rest > half) | ((rest == half) & (quotient & 1 == 1)))
    assert (expected.min(), expected.max()) == (-128, 112)
    scales = torch.from_numpy(bits.view(np.float16))[None, :]
    weights = torch.from_numpy(np.tile(codes.astype(np.int8), (bits.size, 1)))
    result = requantise(weights, scales, 16)
    np.testing.assert_array_equal(expected.T, result.numpy())


@settings(max_examples=200, deadline=None)
@given(code=st.integers(-8, 7), bits=st.integers(0, 0xFFFF).filter(lambda b: b & 0x7C00 != 0x7C00))
def test_requantise_any_scale(code: int, bits: int) -> None:
    """Negative, large and subnormal scales: the exact product, to nearest even, then clamped."""
    scale = struct.unpack("<e", struct.pack("<H", bits))[0]
    expected = min(max(round(code * Fraction(scale)), -128), 127)
    half = torch.tensor([[scale]], dtype=torch.float16)
    assert expected == int(requantise(torch.tensor([[code]], dtype=torch.int8), half, 1))


def test_requantise_ties() -> None:
    """Halves go to the even neighbour: 1.5 and 2.5 give 2, -0.5 gives 0, 127.5 clamps to 127."""
    codes = torch.tensor([[3, 5, -1, 7, 5]], dtype=torch.int8)
    scales = torch.tensor([[0.5], [0.5], [0.5], [127.5 / 7], [25.5]], dtype=torch.float16)
    assert requantise(codes, scales, 1).tolist() == [[2, 2, 0, 127, 127]]


FLOATS = st.integers(0, 2**32 - 1).map(lambda b: struct.unpack("<f", struct.pack("<I", b))[0])


@settings(max_examples=200, deadline=None)
@given(
    acc=st.integers(-(2**30), 2**30),
    s_ch=st.floats(width=32, allow_nan=False) | FLOATS,
    a_s=st.floats(width=32, allow_nan=False) | st.sampled_from([2.0**-24, 65504.0, 1.0]),
)
def test_epilogue_fp16(acc: int, s_ch: float, a_s: float) -> None:
    """Three float32 roundings and one to float16, in QQQ's order, infinities and NaN included."""
    exact = [Fraction(v) if math.isfinite(v) else v for v in (s_ch, a_s)]
    product = _times(_times(_ieee(Fraction(acc), SINGLE), exact[0]), exact[1])
    expected = _ieee(product, HALF)
    y = epilogue_fp16(torch.tensor([[acc]]), torch.tensor([s_ch]), torch.tensor([a_s]))
    bits = int(y.view(torch.int16)) & 0xFFFF
    if math.isnan(expected):
        assert bits == 0x7E00
    else:
        assert float(expected) == float(y)
        assert (bits >> 15) == (
            (acc < 0) ^ (math.copysign(1, s_ch) < 0) ^ (math.copysign(1, a_s) < 0)
        )


@settings(max_examples=200, deadline=None)
@given(
    acc=st.integers(-(2**30), 2**30),
    bias=st.integers(-(2**31), 2**31 - 1),
    mult=st.integers(0, 65535),
    shift=st.integers(0, 63),
    relu=st.booleans(),
    wide=st.booleans(),
)
def test_epilogue_fixed(acc: int, bias: int, mult: int, shift: int, relu: bool, wide: bool) -> None:
    """Python's round of the exact fraction, clamped at 0 for relu, saturated to int8 or int16."""
    column = (bias & 0xFFFFFFFF) | mult << 32 | shift << 48
    y = round(Fraction((acc + bias) * mult, 2**shift))
    limit = 32768 if wide else 128
    expected = min(max(y, 0 if relu else -limit), limit - 1)
    result = epilogue_fixed(
        torch.tensor([[acc]]), np.array([column], dtype=np.uint64), relu=relu, wide=wide
    )
    assert result.dtype == (torch.int16 if wide else torch.int8)
    assert expected == int(result)


@settings(max_examples=200, deadline=None)
@given(value=st.integers(-(2**62), 2**62), shift=st.integers(0, 63))
def test_rne_shift(value: int, shift: int) -> None:
    """rne_shift is Python's round of the exact fraction."""
    assert round(Fraction(value, 2**shift)) == int(rne_shift(torch.tensor(value), shift))


def test_to_half_matches_every_neighbour() -> None:
    """Each float16, its upper midpoint and the float32 beside that round as NumPy's cast does."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (half[:-1].astype(np.float64) + half[1:]) / 2
    values = np.concatenate([half, middle, np.nextafter(middle.astype(np.float32), np.inf)])
    values = np.concatenate([values, [65519.99, 65520.0, 1e9, np.inf]]).astype(np.float32)
    values = np.concatenate([values, -values])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    result = to_half(torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(expected.view(np.uint16), result.view(np.uint16))


def test_integer_matmul_at_the_bounds() -> None:
    """Worst-case operands are exact on both sides of float32's 2**24 bound."""
    for k in (1024, 1025, 4096):
        x = torch.full((2, k), -128, dtype=torch.int8)
        w = torch.full((3, k), -128, dtype=torch.int8)
        assert integer_matmul(x, w).unique().tolist() == [k * 2**14]
        w[:, -1] = 127
        assert integer_matmul(x, w).unique().tolist() == [(k - 1) * 2**14 - 127 * 128]


def test_golden_nibbles() -> None:
    """Codes -8..-1 in offset binary, and 0..7 in two's complement, are the word 0x76543210.

    Source: reference note w4a8.md, section 14.
    """
    word = np.array([[0x76543210]], dtype=np.uint32)
    assert unpack_int4(word, 8, "offset").tolist() == [list(range(-8, 0))]
    assert unpack_int4(word, 8, "twos").tolist() == [list(range(8))]


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 4),
    n=st.integers(1, 4),
    k=st.integers(1, 21),
    group=st.sampled_from([0, 1, 5, 8, 21]),
    seed=st.integers(0, 2**31),
)
def test_whole_job(m: int, n: int, k: int, group: int, seed: int) -> None:
    """A job's result is the triple loop's, for both scale datapaths, with short last groups."""
    rng = np.random.default_rng(seed)
    group = min(group, k)
    x = rng.choice([-128, 127, 0, 5, -77], (m, k)).astype(np.int8)
    codes = rng.integers(-8, 8, (n, k))
    scales = (rng.standard_normal((-(-k // group) if group else 0, n)) * 20).astype(np.float16)
    channel = rng.random(n).astype(np.float32)
    rows = rng.random(m).astype(np.float32)
    spec = W4A8Spec(scales="group" if group else "channel")
    weight = int4.encode(
        codes,
        encoding="offset" if group else "twos",
        channel=channel,
        group=scales if group else None,
        group_size=group,
    )
    result = reference(spec, *gemm_job(spec, x, weight, row_scales=rows))
    for i in range(m):
        for j in range(n):
            acc = 0
            for p in range(k):
                w = int(codes[j, p])
                if group:
                    w = round(w * Fraction(float(scales[p // group, j])))
                    w = min(max(w, -128), 127)
                acc += int(x[i, p]) * w
            scaled = _times(_ieee(Fraction(acc), SINGLE), Fraction(float(channel[j])))
            expected = _ieee(_times(scaled, Fraction(float(rows[i]))), HALF)
            assert float(expected) == float(result[i, j])


def test_bases_strides_and_flags() -> None:
    """Bases, strides and flags are honoured, and memory past its end reads as zero."""
    spec = W4A8Spec(epilogue="fixed")
    a = np.array([99, 0x01020304, 99, 0x04030201], dtype=np.uint32)
    w = np.array([99, 99, 0x00001234, 99, 0x0000F111], dtype=np.uint32)
    e = np.array([7, 1 << 32, (1 << 32) | (1 << 48)], dtype=np.uint64)
    none = np.zeros(0, dtype=np.uint32)
    operands = Operands(a=a, w=w, s=np.zeros(0, dtype=np.uint16), e=e, r=none)
    base = {"k": 4, "group": 4, "s_base": 0, "s_stride": 0, "r_base": 0, "y_base": 0}
    job = Job(m=3, n=2, a_base=1, a_stride=2, w_base=2, w_stride=2, e_base=1, y_stride=2, **base)
    # Rows: (4, 3, 2, 1), (1, 2, 3, 4), and past the end; columns (4, 3, 2, 1), (1, 1, 1, -1).
    exact = np.array([[30, 8], [20, 2], [0, 0]])
    expected = np.stack([exact[:, 0], np.rint(exact[:, 1] / 2)], axis=1)
    np.testing.assert_array_equal(expected, reference(spec, job, operands).numpy())
    fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    flagged = Job(**(fields | {"flags": FLAG_RELU | FLAG_WIDE}))
    assert reference(spec, flagged, operands).dtype == torch.int16
    with pytest.raises(ValueError, match=r"^w4a8: K must be at most max_k = 3, not 4$"):
        reference(W4A8Spec(max_k=3, epilogue="fixed"), job, operands)
