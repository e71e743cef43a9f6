# SPDX-License-Identifier: Apache-2.0
"""One lane of the fixed-point epilogue (docs/engines/w4a8.md, section 1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.float32 import round_up
from rtl.lib.pipeline import register

COLUMN = data.StructLayout(
    {"bias": signed(32), "mult": 16, "shift": 6, "reserved": 10},
)
"""Parameters of one column as the stream `i_e` carries them, low bits first."""

_SPLIT = 17
"""Low bits of the sum in one multiplier: an 18-bit signed operand holds them."""


class EpilogueFixedLane(wiring.Component):
    """y = sat(RNE((acc + bias) * mult / 2^shift)), ties to even, relu before saturation.

    Parameters
    ----------
    spec : W4A8Spec
        Gives the accumulator width.

    Members
    -------
    en : In(1)
        Clock enable of all ``epilogue_latency - 1`` stages.
    acc : In(signed(spec.acc_bits))
        Accumulator.
    column : In(64)
        bias in bits 0..31, mult in 32..47, shift in 48..53, the rest ignored.
    relu : In(1)
        Negative results become 0. Constant while results are in flight.
    wide : In(1)
        Saturate to int16 instead of int8. Constant while results are in flight.
    y : Out(16)
        Result, an int8 sign-extended, six enabled cycles later; a register.
    """

    en: Signal
    acc: Signal
    column: Signal
    relu: Signal
    wide: Signal
    y: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "en": In(1),
                "acc": In(signed(spec.acc_bits)),
                "column": In(64),
                "relu": In(1),
                "wide": In(1),
                "y": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        en = self.en
        # 1: operands come straight out of a memory, whose access time fills most of a cycle.
        acc = register(m, en, self.acc, name="acc_reg")
        column = data.View(COLUMN, register(m, en, self.column, name="column_reg"))

        # 2: |acc| < 2^31 and the bias is an int32, so 33 bits hold the sum.
        total = Signal(signed(33))
        m.d.comb += total.eq(acc + column.bias)
        total = register(m, en, total, name="total_reg")
        mult = register(m, en, column.mult, name="mult")
        early = register(m, en, column.shift, name="shift", stages=2)
        shift = register(m, en, early, name="shift_last")

        # 3, 4: two products that fit an 18x18 multiplier, and their sum.
        low = register(m, en, total[:_SPLIT] * mult, name="low")
        high = register(m, en, total[_SPLIT:].as_signed() * mult, name="high")
        scaled = Signal(signed(50))
        m.d.comb += scaled.eq((high << _SPLIT) + low)
        scaled = register(m, en, scaled, name="scaled_reg")

        # 5: shift right; the bits that leave decide the rounding. Those below half are masked,
        # not shifted: the shift is known a stage before the product, so the mask is a register.
        below_half = Cat(early > bit + 1 for bit in range(len(scaled)))
        below_half = register(m, en, below_half, name="below_half")
        halves = Signal(signed(50 + 1))
        m.d.comb += halves.eq(Cat(Const(0, 1), scaled).as_signed() >> shift)
        floor = register(m, en, halves[1:].as_signed(), name="floor")
        half = register(m, en, halves[0], name="half")
        rest = register(m, en, (scaled & below_half).any(), name="rest")

        # 6: round, relu, saturate. A value that rounds up to a bound is judged after rounding.
        negative = floor[-1]
        rounded = Signal(signed(17))
        fits_16 = Mux(negative, floor[15:].all(), ~floor[15:].any())
        fits_8 = Mux(negative, floor[7:].all(), ~floor[7:].any())
        fits = Signal()
        bound = Signal(16)
        y = Signal(16)
        top = Signal(signed(16))
        m.d.comb += [
            rounded.eq(floor[:16].as_signed() + round_up(floor[0], half, rest)),
            fits.eq(
                Mux(
                    self.wide,
                    fits_16 & ~(~negative & rounded[15]),
                    fits_8 & ~(~negative & rounded[7]),
                )
            ),
            top.eq(Mux(self.wide, 0x7FFF, 0x7F)),
            bound.eq(Mux(negative, ~top, top)),
        ]
        with m.If(self.relu & negative):
            m.d.comb += y.eq(0)
        with m.Elif(fits):
            m.d.comb += y.eq(rounded)
        with m.Else():
            m.d.comb += y.eq(bound)
        m.d.comb += self.y.eq(register(m, en, y, name="y_reg"))
        assert self._spec.epilogue_latency - 1 == 6
        return m
