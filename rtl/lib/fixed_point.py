# SPDX-License-Identifier: Apache-2.0
"""One lane of a fixed-point epilogue (docs/engines/w4a8.md, section 1)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.common import FIXED_EPILOGUE_LATENCY
from rtl.lib.float32 import round_up
from rtl.lib.pipeline import register

COLUMN = data.StructLayout(
    {"bias": signed(32), "mult": 16, "shift": 6, "reserved": 10},
)
"""Parameters of one column, low bits first."""

PARAMETERS = data.StructLayout(
    {"bias": signed(32), "mult": 16, "shift": 6, "negate": 1, "reserved": 9}
)
"""Parameters of one column whose sum may be negated, low bits first."""

FRACTION_BITS = 4
"""The bias of `PARAMETERS` counts sixteenths of what the sums count."""

_SPLIT = 17
"""Bits of the sum in one multiplier: an 18-bit signed operand holds them."""


class FixedPointLane(wiring.Component):
    """y = sat(RNE((acc + bias) * mult / 2^shift)), ties to even, relu before saturation.

    Parameters
    ----------
    acc_bits : int
        Width of the accumulator.
    negates : bool
        There is a port `negate`.

    Members
    -------
    en : In(1)
        Clock enable of all `STAGES` stages.
    acc : In(signed(acc_bits))
        Accumulator.
    column : In(COLUMN)
        `reserved` is ignored.
    negate : In(1)
        -acc takes the place of acc.
    relu : In(1)
        Negative results become 0. Constant while results are in flight.
    wide : In(1)
        Saturate to int16 instead of int8. Constant while results are in flight.
    y : Out(16)
        Result, an int8 sign-extended, `STAGES` enabled cycles later; a register.
    """

    en: Signal
    acc: Signal
    column: Any
    negate: Signal
    relu: Signal
    wide: Signal
    y: Signal

    STAGES = FIXED_EPILOGUE_LATENCY - 1

    def __init__(self, acc_bits: int, *, negates: bool = False) -> None:
        self._acc_bits, self._negates = acc_bits, negates
        super().__init__(
            {
                "en": In(1),
                "acc": In(signed(acc_bits)),
                "column": In(COLUMN),
                **({"negate": In(1)} if negates else {}),
                "relu": In(1),
                "wide": In(1),
                "y": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        en = self.en
        # 1: operands come straight out of a memory, whose access time fills most of a cycle.
        acc: Value = self.acc
        if self._negates:
            acc = (acc.as_unsigned() ^ self.negate.replicate(self._acc_bits)).as_signed()
        acc = register(m, en, acc, name="acc_reg")
        column = register(m, en, self.column, name="column_reg")
        bias = column.bias

        # 2: one bit more than the wider of accumulator and bias holds the sum.
        total = Signal(signed(max(self._acc_bits, 32) + 1))
        if self._negates:
            # -acc is ~acc + 1; a bit below the sum carries the 1 into the one adder.
            carry = register(m, en, self.negate, name="negate_reg")
            acc, bias = Cat(carry, acc).as_signed(), Cat(carry, bias).as_signed()
            m.d.comb += total.eq((acc + bias) >> 1)
        else:
            m.d.comb += total.eq(acc + bias)
        total = register(m, en, total, name="total_reg")
        mult = register(m, en, column.mult, name="mult")
        early = register(m, en, column.shift, name="shift", stages=2)
        shift = register(m, en, early, name="shift_last")

        # 3, 4: products that fit an 18x18 multiplier, and their sum.
        scaled = Signal(signed(len(total) + len(mult) + 1))
        parts: list[Value] = []
        for first in range(0, len(total), _SPLIT):
            part = total[first : first + _SPLIT]
            if first + _SPLIT >= len(total):
                part = part.as_signed()
            part = register(m, en, part * mult, name=f"product_{first}")
            parts.append(part << first)
        m.d.comb += scaled.eq(sum(parts[1:], start=parts[0]))
        scaled = register(m, en, scaled, name="scaled_reg")

        # 5: shift right; the bits that leave decide the rounding. Those below half are masked,
        # not shifted: the shift is known a stage before the product, so the mask is a register.
        below_half = Cat(early > bit + 1 for bit in range(len(scaled)))
        below_half = register(m, en, below_half, name="below_half")
        halves = Signal(signed(len(scaled) + 1))
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
        return m
