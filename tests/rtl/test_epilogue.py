# SPDX-License-Identifier: Apache-2.0
"""Leaf parts of the W4A8 array against arithmetic that shares nothing with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.fixed_point import FixedPointLane
from rtl.lib.verilog import to_verilog
from rtl.w4a8.epilogue_fp16 import EpilogueFp16Lane
from rtl.w4a8.requant import Requant
from verif.lib.vectors import run_vectors

# One build compiles for both tests of a worker.
pytestmark = [pytest.mark.cosim, pytest.mark.xdist_group("leaf_parts")]

CHANNEL = W4A8Spec(max_k=16384)
GROUP = W4A8Spec(scales="group", max_k=65536)
"""Accumulators of 26 and, the widest that a spec admits, 32 bits."""

Part = Requant | EpilogueFp16Lane | FixedPointLane
Run = Callable[..., dict[str, NDArray[np.uint64]]]

WIDE_ACC_BITS = 43
"""The widest accumulator of the attention engine, which has the fixed lane too."""

NEGATED_ACC_BITS = 38
"""The widest of the PIM engine, sixteenths included."""

INPUTS = {
    "en": 1, "code": 4, "scale": 16, "acc": signed(WIDE_ACC_BITS), "s_ch": 32, "a_s": 32,
    "column": 64, "relu": 1, "wide": 1, "negate": 1,
}  # fmt: skip
PARTS: dict[str, Callable[[], Part]] = {
    "w_twos": lambda: Requant(W4A8Spec(scales="group", weight_encoding="twos")),
    "w_offset": lambda: Requant(GROUP),
    "y_channel": lambda: EpilogueFp16Lane(CHANNEL),
    "y_group": lambda: EpilogueFp16Lane(GROUP),
    "y_fixed_channel": lambda: FixedPointLane(CHANNEL.acc_bits),
    "y_fixed_group": lambda: FixedPointLane(GROUP.acc_bits),
    "y_fixed_wide": lambda: FixedPointLane(WIDE_ACC_BITS),
    "y_fixed_negates": lambda: FixedPointLane(NEGATED_ACC_BITS, negates=True),
}
"""Output port of `Parts`, and the part that drives it."""


class Parts(wiring.Component):
    """Every leaf part once, on common inputs, so that Verilator compiles only one model."""

    def __init__(self) -> None:
        outputs = {name: Out(8 if name.startswith("w") else 16) for name in PARTS}
        super().__init__({name: In(shape) for name, shape in INPUTS.items()} | outputs)

    def elaborate(self, platform: object) -> Module:
        """Connect every input of a part to the port of that name."""
        m = Module()
        for name, make in PARTS.items():
            m.submodules[name] = part = make()
            for port, member in part.signature.members.items():
                if member.flow == In:
                    m.d.comb += getattr(part, port).eq(getattr(self, port))
                else:
                    m.d.comb += getattr(self, name).eq(getattr(part, port))
        return m


@pytest.fixture(scope="module")
def run() -> Run:
    """Drive the parts; inputs that a test does not name are 0, and the clock enable 1."""
    verilog = to_verilog(Parts(), name="top")

    def drive(**inputs: NDArray[Any]) -> dict[str, NDArray[np.uint64]]:
        cycles = len(next(iter(inputs.values())))
        full = {port: np.zeros(cycles, dtype=np.uint64) for port in INPUTS}
        full["en"] += np.uint64(1)
        return run_vectors(verilog, full | inputs, tuple(PARTS))

    return drive


def test_requant_every_code_and_scale(run: Run) -> None:
    """Every nibble times every finite float16 is exact, rounded half to even and clamped."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    scale, code = (grid.ravel() for grid in np.meshgrid(bits, np.arange(16, dtype=np.uint8)))
    padding = np.zeros(Requant.STAGES, dtype=np.uint8)
    got = run(code=np.append(code, padding), scale=np.append(scale, padding))
    # A float64 holds 4 x 11 bits exactly, and rint rounds half to even.
    for name, weight in (
        ("w_offset", code.astype(int) - 8),
        ("w_twos", (code ^ 8).astype(int) - 8),
    ):
        exact = weight * scale.view(np.float16).astype(np.float64)
        expected = np.clip(np.rint(exact), -128, 127).astype(np.int8)
        actual = got[name][Requant.STAGES :].astype(np.uint8).view(np.int8)
        np.testing.assert_array_equal(expected, actual, err_msg=name)


def _fp16_expected(
    acc: NDArray[np.int64], s_ch: NDArray[np.uint32], a_s: NDArray[np.uint32]
) -> NDArray[np.uint16]:
    with np.errstate(all="ignore"):
        product = acc.astype(np.float32) * s_ch.view(np.float32)
        y = (product * a_s.view(np.float32)).astype(np.float16)
    return np.where(np.isnan(y), np.uint16(0x7E00), y.view(np.uint16))


def _f32_patterns(rng: np.random.Generator, n: int) -> NDArray[np.uint32]:
    """Any bits, scales of a useful size, subnormals, and specials, a quarter each."""
    any_bits = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    useful = (rng.integers(105, 130, n, dtype=np.uint32) << 23) | (any_bits & 0x807FFFFF)
    subnormal = any_bits & np.uint32(0x807FFFFF) >> rng.integers(0, 23, n, dtype=np.uint32)
    special = rng.choice(
        np.array(
            [
                0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000,
                0x3F800001, 0x33000000, 0x33800000, 0x47800000, 0x477FE000, 0x477FF000, 0x387FC000,
            ],
            dtype=np.uint32,
        ),
        n,
    ) | (any_bits & np.uint32(1 << 31))  # fmt: skip
    kind = rng.integers(0, 4, n)
    return np.choose(kind, [any_bits, useful, subnormal, special]).astype(np.uint32)


def _acc_patterns(rng: np.random.Generator, n: int, bits: int) -> NDArray[np.int64]:
    """Every magnitude about equally often, with the bounds and the float32 rounding edges."""
    top = 1 << (bits - 1)
    size = rng.integers(0, bits, n)
    values = rng.integers(0, 1 << size, n) * rng.choice([-1, 1], n)
    edges = [0, 1, -1, top - 1, -top, *((1 << 24) + np.arange(-2, 4)), *((3 << 24) + np.arange(9))]
    edges = [value for value in edges if -top <= value < top]
    return np.where(rng.integers(0, 8, n) == 0, rng.choice(edges, n), values).astype(np.int64)


@pytest.mark.parametrize(("port", "spec"), [("y_channel", CHANNEL), ("y_group", GROUP)])
def test_fp16_lane_equals_numpy(run: Run, port: str, spec: W4A8Spec) -> None:
    """The lane gives numpy's IEEE result for 400,000 accumulators and scales of every kind."""
    rng = np.random.default_rng(20)
    n, stages = 400_000, spec.epilogue_latency - 1
    acc = _acc_patterns(rng, n, spec.acc_bits)
    s_ch, a_s = _f32_patterns(rng, n), _f32_patterns(rng, n)
    got = run(acc=acc & (1 << WIDE_ACC_BITS) - 1, s_ch=s_ch, a_s=a_s)
    expected = _fp16_expected(acc, s_ch, a_s)
    # The mixture must reach what is hard: subnormal, infinite and NaN results in number.
    exponent = (expected >> 10) & 31
    assert min((exponent == 0).sum(), (exponent == 31).sum(), (expected == 0x7E00).sum()) > 1000
    assert ((exponent > 0) & (exponent < 31)).sum() > 40_000
    assert ((expected & 0x7FFF > 0) & (exponent == 0)).sum() > 1000
    np.testing.assert_array_equal(expected[:-stages], got[port][stages:].astype(np.uint16))


def test_fp16_lane_rounding_to_float16(run: Run) -> None:
    """Products next to every float16 boundary, ties included, round to nearest even."""
    # s_ch = 1 and a_s = 1 + j ulp walk a float32 over the midpoints of float16.
    half = np.arange(1, 0x7C00, dtype=np.uint16)
    value = half.view(np.float16).astype(np.float32)
    after = np.append(value[1:], np.float32(65536.0))
    middle = ((value.astype(np.float64) + after) / 2).astype(np.float32).view(np.uint32)
    a_s = np.concatenate([middle - 1, middle, middle + 1])
    ones = np.full(len(a_s), 0x3F800000, dtype=np.uint32)
    acc = np.ones(len(a_s), dtype=np.int64)
    stages = CHANNEL.epilogue_latency - 1
    got = run(acc=acc, s_ch=ones, a_s=a_s)["y_channel"]
    expected = _fp16_expected(acc, ones, a_s)
    np.testing.assert_array_equal(expected[:-stages], got[stages:].astype(np.uint16))


def test_fp16_lane_holds_while_not_enabled(run: Run) -> None:
    """Under random stalls each cycle shows the result of as many enabled cycles before."""
    rng = np.random.default_rng(21)
    n, stages = 40_000, CHANNEL.epilogue_latency - 1
    en = rng.integers(0, 2, n)
    en[:100] = rng.integers(0, 4, 100) == 0
    acc = _acc_patterns(rng, n, CHANNEL.acc_bits)
    s_ch, a_s = (_f32_patterns(rng, n) & 0x8FFFFFFF | 0x38000000 for _ in range(2))
    got = run(en=en, acc=acc & (1 << WIDE_ACC_BITS) - 1, s_ch=s_ch, a_s=a_s)["y_channel"]
    expected = _fp16_expected(acc, s_ch, a_s)[en == 1]
    assert len(np.unique(expected)) > 1000
    passed = np.cumsum(en) - en - stages
    shown = passed >= 0
    np.testing.assert_array_equal(expected[passed[shown]], got[shown].astype(np.uint16))


def _fixed_expected(
    acc: NDArray[np.int64], column: NDArray[np.uint64], relu: bool, wide: bool
) -> list[int]:
    """Python integers: exact whatever the width."""
    low, high = (-32768, 32767) if wide else (-128, 127)
    result: list[int] = []
    for a, c in zip(acc.tolist(), column.tolist(), strict=True):
        bias, mult, shift = c & 0xFFFFFFFF, (c >> 32) & 0xFFFF, (c >> 48) & 63
        total = (a + bias - ((bias >> 31) << 32)) * mult
        quotient, remainder = total >> shift, total & ((1 << shift) - 1)
        twice = 2 * remainder
        quotient += twice > 1 << shift or (twice == 1 << shift and quotient & 1)
        if relu:
            quotient = max(quotient, 0)
        result.append(min(max(quotient, low), high) & 0xFFFF)
    return result


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_fixed_lane_equals_python_integers(run: Run, relu: bool, wide: bool) -> None:
    """The lane gives the exact rounded, clamped quotient for 60,000 random and corner cases."""
    rng = np.random.default_rng([relu, wide])
    n = 60_000
    for port, bits in (
        ("y_fixed_channel", CHANNEL.acc_bits),
        ("y_fixed_group", GROUP.acc_bits),
        ("y_fixed_wide", WIDE_ACC_BITS),
        ("y_fixed_negates", NEGATED_ACC_BITS),
    ):
        given = _acc_patterns(rng, n, bits)
        negate = rng.integers(0, 2, n)
        acc = np.where(negate, -given, given) if port == "y_fixed_negates" else given
        size = rng.integers(0, 32, n)
        bias = np.where(
            rng.integers(0, 6, n) == 0,
            rng.choice([-(1 << 31), (1 << 31) - 1, 0], n),
            rng.integers(0, 1 << size, n) * rng.choice([-1, 1], n),
        )
        mult = np.where(
            rng.integers(0, 4, n) == 0,
            rng.choice([0, 1, 0x8000, 0xFFFF], n),
            rng.integers(0, 1 << 16, n),
        )
        # Shifts near the width of the value, where results are neither 0 nor saturated; ties at
        # powers of two.
        width = np.frexp(np.abs((acc + bias) * mult).astype(np.float64))[1]
        shift = np.clip(width - rng.integers(-2, 18, n), 0, 63)
        shift = np.where(rng.integers(0, 8, n) == 0, rng.integers(0, 64, n), shift)
        column = (
            (bias & 0xFFFFFFFF).astype(np.uint64)
            | mult.astype(np.uint64) << np.uint64(32)
            | shift.astype(np.uint64) << np.uint64(48)
        )
        flags = {"relu": np.full(n, relu), "wide": np.full(n, wide), "negate": negate}
        got = run(acc=given & (1 << WIDE_ACC_BITS) - 1, column=column, **flags)[port]
        expected = _fixed_expected(acc, column, relu, wide)
        top = 32767 if wide else 127
        assert expected.count(top) > 200
        assert len(set(expected)) > 100
        stages = FixedPointLane.STAGES
        np.testing.assert_array_equal(expected[:-stages], got[stages:], err_msg=port)


def test_lanes_stand_still_without_enable(run: Run) -> None:
    """A result is visible after exactly the stated number of enabled cycles, however they fall."""
    rng = np.random.default_rng(5)
    n = 20_000
    en = rng.integers(0, 3, n) > 0
    acc = _acc_patterns(rng, n, CHANNEL.acc_bits)
    s_ch, a_s = _f32_patterns(rng, n), _f32_patterns(rng, n)
    column = rng.integers(0, 1 << 54, n, dtype=np.uint64)
    got = run(en=en, acc=acc & (1 << WIDE_ACC_BITS) - 1, s_ch=s_ch, a_s=a_s, column=column)
    taken = np.flatnonzero(en)
    for port, latency, expected in (
        ("y_channel", CHANNEL.epilogue_latency, _fp16_expected(acc, s_ch, a_s)),
        ("y_fixed_group", 7, np.array(_fixed_expected(acc, column, False, False))),
    ):
        # What enabled cycle i took is at the output in the cycle after enabled cycle i + 12.
        last = latency - 2
        shown = got[port][taken[last:-1] + 1].astype(np.uint16)
        np.testing.assert_array_equal(expected[taken[: len(shown)]], shown, err_msg=port)
