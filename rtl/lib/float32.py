# SPDX-License-Identifier: Apache-2.0
"""IEEE 754 binary32 in pieces: unpacking, normalisation, a rounded product.

Between pieces a number travels as `UNPACKED`, whose exponent is wide enough to hold every finite
float32 with its leading bit in place, subnormal ones included.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.pipeline import register

F32 = data.StructLayout({"fraction": 23, "exponent": 8, "sign": 1})
"""Fields of the 32 bits, low bits first."""

SIGNIFICAND_BITS = 24
_HALF = SIGNIFICAND_BITS // 2


UNPACKED = data.StructLayout(
    {
        "significand": SIGNIFICAND_BITS,
        "exponent": signed(10),
        "sign": 1,
        "zero": 1,
        "infinite": 1,
        "nan": 1,
    }
)
"""A number: (-1)^sign * significand * 2^(exponent - 23), significand in 2^23..2^24 - 1.

At most one of `zero`, `infinite` and `nan` is set; exponent and significand then mean nothing.
"""


def unpacked(
    significand: Value, exponent: Value, sign: Value, zero: Value, infinite: Value, nan: Value
) -> data.View:
    """Return the number with these fields, each of its exact width.

    Fields that are assigned one by one to a common signal look like a loop to Verilator where one
    depends on another.
    """
    return data.View(UNPACKED, Cat(significand, exponent, sign, zero, infinite, nan))


def round_up(lsb: Value, half: Value, rest: Value) -> Value:
    """Return 1 where a magnitude cut after `lsb` rounds away from zero (to nearest, ties to even).

    `half` is the first bit cut off and `rest` the bits below it.
    """
    return half & (rest.any() | lsb)


def increment(significand: Value, exponent: Value, up: Value) -> tuple[Value, Value]:
    """Return a significand whose top bit is set, plus `up`, and its exponent.

    What leaves the top of the fraction counts the exponent up and leaves the fraction 0, so both
    are one sum.
    """
    fraction_bits = len(significand) - 1
    total = (Cat(significand[:-1], exponent) + up)[: fraction_bits + len(exponent)]
    return Cat(total[:fraction_bits], 1), total[fraction_bits:].as_signed()


class Normaliser(wiring.Component):
    """Shift a magnitude left until its top bit is set, in three pipeline stages.

    Parameters
    ----------
    width : int
        Bits of the magnitude, at most 32.

    Members
    -------
    en : In(1)
        Clock enable.
    magnitude : In(width)
    shifted : Out(width)
        `magnitude << leading_zeros`, three enabled cycles later; 0 for 0.
    leading_zeros : Out(5)
        Zero bits above the leading one; meaningless for 0.
    """

    STAGES = 3

    en: Signal
    magnitude: Signal
    shifted: Signal
    leading_zeros: Signal

    def __init__(self, width: int) -> None:
        assert 1 <= width <= 32
        super().__init__(
            {
                "en": In(1),
                "magnitude": In(width),
                "shifted": Out(width),
                "leading_zeros": Out(5),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, zeros = self.magnitude, Const(0, 0)
        for stage, steps in enumerate(((16,), (8, 4), (2, 1))):
            value, taken = self._levels(m, value, steps)
            value = register(m, self.en, value, name=f"value_{stage}")
            zeros = register(m, self.en, Cat(taken, zeros), name=f"zeros_{stage}")
        m.d.comb += [self.shifted.eq(value), self.leading_zeros.eq(zeros)]
        return m

    @staticmethod
    def _levels(m: Module, value: Value, steps: tuple[int, ...]) -> tuple[Value, Value]:
        """Return `value` after the shifts of `steps`, and the shifts taken (last step lowest)."""
        taken: list[Value] = []
        for step in steps:
            width = len(value)
            if step >= width:
                taken.append(Const(0, 1))
                continue
            empty = Signal(name=f"empty_{step}")
            shifted = Signal(width, name=f"by_{step}")
            m.d.comb += [
                empty.eq(~value[width - step :].any()),
                shifted.eq(Mux(empty, value << step, value)),
            ]
            taken.append(empty)
            value = shifted
        return value, Cat(*reversed(taken))


class Unpack(wiring.Component):
    """A float32 as `UNPACKED`, in five pipeline stages.

    Members
    -------
    en : In(1)
        Clock enable.
    bits : In(32)
        Any float32.
    number : Out(UNPACKED)
        Its value, exact, five enabled cycles later; registers.
    """

    STAGES = Normaliser.STAGES + 2

    en: Signal
    bits: Signal
    number: data.View

    def __init__(self) -> None:
        super().__init__({"en": In(1), "bits": In(32), "number": Out(UNPACKED)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = data.View(F32, self.bits)
        tiny, full = bits.exponent == 0, bits.exponent == 0xFF
        flags = Cat(
            bits.sign,
            tiny & (bits.fraction == 0),
            full & (bits.fraction == 0),
            full & (bits.fraction != 0),
        )
        # A subnormal has the exponent of the smallest normal number, 1, and no hidden bit.
        exponent = Signal(UNPACKED["exponent"].shape)
        m.d.comb += exponent.eq((bits.exponent | tiny) - 127)
        m.submodules.normaliser = normaliser = Normaliser(SIGNIFICAND_BITS)
        m.d.comb += [
            normaliser.en.eq(self.en),
            normaliser.magnitude.eq(
                register(m, self.en, Cat(bits.fraction, ~tiny), name="magnitude")
            ),
        ]
        before = Normaliser.STAGES + 1
        exponent = register(m, self.en, exponent, name="exponent_reg", stages=before)
        flags = register(m, self.en, flags, name="flags", stages=before)
        normal_exponent = Signal(UNPACKED["exponent"].shape)
        m.d.comb += normal_exponent.eq(exponent - normaliser.leading_zeros)
        result = unpacked(normaliser.shifted, normal_exponent, *flags)
        m.d.comb += self.number.eq(register(m, self.en, result, name="number_reg"))
        return m


class Multiply(wiring.Component):
    """The float32 product, rounded to nearest even, in six pipeline stages.

    A product below 2^-126 keeps 24 significant bits, which is more than a float32 holds. Both uses
    in the epilogue are exact nevertheless; `rtl.w4a8.epilogue_fp16` says why.

    Members
    -------
    en : In(1)
        Clock enable.
    a, b : In(UNPACKED)
    product : Out(UNPACKED)
        Six enabled cycles later; at or above 2^128 it is infinite.
    """

    STAGES = 6

    en: Signal
    a: data.View
    b: data.View
    product: data.View

    def __init__(self) -> None:
        super().__init__(
            {"en": In(1), "a": In(UNPACKED), "b": In(UNPACKED), "product": Out(UNPACKED)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Hardware multipliers lie in columns of their own: the way there and back is a cycle each.
        a = register(m, self.en, self.a, name="a_reg")
        b = register(m, self.en, self.b, name="b_reg")

        # Four 12x12 products: one hardware multiplier each on an 18x18 fabric.
        a_low, a_high = a.significand[:_HALF], a.significand[_HALF:]
        b_low, b_high = b.significand[:_HALF], b.significand[_HALF:]
        low = register(m, self.en, a_low * b_low, name="low", stages=2)
        cross_0 = register(m, self.en, a_low * b_high, name="cross_0", stages=2)
        cross_1 = register(m, self.en, a_high * b_low, name="cross_1", stages=2)
        high = register(m, self.en, a_high * b_high, name="high", stages=2)
        total = Cat(low, high) + ((cross_0 + cross_1) << _HALF)
        total = register(m, self.en, total[: 2 * SIGNIFICAND_BITS], name="total")

        nan = a.nan | b.nan | (a.zero & b.infinite) | (a.infinite & b.zero)
        zero, infinite = (a.zero | b.zero) & ~nan, (a.infinite | b.infinite) & ~nan
        flags = Cat(a.sign ^ b.sign, zero, infinite, nan)
        sign, zero, infinite, nan = register(m, self.en, flags, name="flags", stages=4)
        exponent = register(m, self.en, a.exponent + b.exponent, name="exponent", stages=3)

        # The product of two numbers in [1, 2) is in [1, 4).
        above_two = total[-1]
        aligned = Signal(2 * SIGNIFICAND_BITS)
        m.d.comb += aligned.eq(Mux(above_two, total, total << 1))
        kept, cut = aligned[SIGNIFICAND_BITS:], aligned[:SIGNIFICAND_BITS]
        up = register(m, self.en, round_up(kept[0], cut[-1], cut[:-1]), name="up")
        kept = register(m, self.en, kept, name="kept")
        aligned_exponent = Signal(UNPACKED["exponent"].shape)
        m.d.comb += aligned_exponent.eq(exponent + above_two)
        aligned_exponent = register(m, self.en, aligned_exponent, name="exponent_aligned")

        significand, exponent = increment(kept, aligned_exponent, up)
        # Above 127 and, as a sum of two exponents, below 257.
        overflow = ~exponent[-1] & exponent[7:-1].any()
        infinite = infinite | (overflow & ~zero & ~nan)
        result = unpacked(significand, exponent, sign, zero, infinite, nan)
        m.d.comb += self.product.eq(register(m, self.en, result, name="product_reg"))
        return m
