# SPDX-License-Identifier: Apache-2.0
"""One lane of the float16 epilogue (docs/engines/w4a8.md, section 1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.float32 import (
    SIGNIFICAND_BITS,
    UNPACKED,
    Multiply,
    Normaliser,
    Unpack,
    increment,
    round_up,
    unpacked,
)
from rtl.lib.pipeline import register

F16_INFINITY = 0x7C00
F16_NAN = 0x7E00


class AccToFloat(wiring.Component):
    """An integer rounded to float32 (to nearest even), in six pipeline stages.

    Parameters
    ----------
    width : int
        Bits of the signed integer, at most 32.

    Members
    -------
    en : In(1)
        Clock enable.
    acc : In(signed(width))
    number : Out(UNPACKED)
        Six enabled cycles later; registers.
    """

    STAGES = 1 + Normaliser.STAGES + 2

    en: Signal
    acc: Signal
    number: data.View

    def __init__(self, width: int) -> None:
        self._width = width
        super().__init__({"en": In(1), "acc": In(signed(width)), "number": Out(UNPACKED)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # |-2^(width-1)| needs all `width` bits; at least one bit is always cut off below.
        width = max(self._width, SIGNIFICAND_BITS + 1)
        magnitude = Signal(width)
        m.d.comb += magnitude.eq(Mux(self.acc[-1], -self.acc, self.acc))
        m.submodules.normaliser = normaliser = Normaliser(width)
        m.d.comb += [
            normaliser.en.eq(self.en),
            normaliser.magnitude.eq(register(m, self.en, magnitude, name="magnitude_reg")),
        ]
        sign = register(m, self.en, self.acc[-1], name="sign", stages=self.STAGES - 1)

        cut_bits = width - SIGNIFICAND_BITS
        kept, cut = normaliser.shifted[cut_bits:], normaliser.shifted[:cut_bits]
        rest = cut[:-1] if cut_bits > 1 else Const(0, 1)
        up = register(m, self.en, round_up(kept[0], cut[-1], rest), name="up")
        kept = register(m, self.en, kept, name="kept")
        zero = register(m, self.en, ~normaliser.shifted[-1], name="zero")
        exponent = Signal(UNPACKED["exponent"].shape)
        m.d.comb += exponent.eq(width - 1 - normaliser.leading_zeros)
        exponent = register(m, self.en, exponent, name="exponent_reg")

        significand, exponent = increment(kept, exponent, up)
        never = Const(0, 1)
        result = unpacked(significand, exponent, sign, zero, infinite=never, nan=never)
        m.d.comb += self.number.eq(register(m, self.en, result, name="number_reg"))
        return m


class PackF16(wiring.Component):
    """A float32 rounded to float16 (to nearest even), in three pipeline stages.

    Subnormal results are kept, what is too large becomes infinite, and NaN is always 0x7E00.

    Members
    -------
    en : In(1)
        Clock enable.
    number : In(UNPACKED)
    bits : Out(16)
        Three enabled cycles later; a register.
    """

    STAGES = 3

    en: Signal
    number: data.View
    bits: Signal

    def __init__(self) -> None:
        super().__init__({"en": In(1), "number": In(UNPACKED), "bits": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        number = self.number
        # Below 2^-14 the significand moves right, and the exponent field stays 0. From 12 places on
        # less than half an ulp is left, however many there are.
        missing = Signal(signed(11))
        m.d.comb += missing.eq(-14 - number.exponent)
        tiny, gone = ~missing[-1], missing[4:-1].any()
        shift = register(m, self.en, Mux(tiny, missing[:4] | gone.replicate(4), 0), name="shift")
        lost = register(
            m, self.en, Cat(tiny & (gone | (missing[:4] > bit)) for bit in range(12)), name="lost"
        )
        field = Signal(5)
        m.d.comb += field.eq(number.exponent[:5] + 14)
        field = register(m, self.en, Mux(tiny, 0, field), name="field_reg")
        significand = register(m, self.en, number.significand, name="significand")
        large = ~number.exponent[-1] & number.exponent[4:-1].any()  # from 2^16 on
        infinite = number.infinite | (~number.zero & large)
        flags = Cat(number.sign, number.nan, number.zero, infinite)

        # What is lost is masked, not shifted out: both take their bits from registers.
        low, high = significand[:12], significand[12:]
        sticky = register(m, self.en, low.any() | (high & lost).any(), name="sticky")
        kept = register(m, self.en, high >> shift, name="kept")
        field = register(m, self.en, field, name="field_held")
        sign, nan, zero, infinite = register(m, self.en, flags, name="flags", stages=2)

        # `kept` is 11 bits above the half bit; the hidden one adds one to the exponent field.
        rounded = Signal(15)
        bits = Signal(16)
        m.d.comb += rounded.eq(
            (field << 10) + kept[1:] + round_up(kept[1], kept[0], sticky),
        )
        with m.If(nan):
            m.d.comb += bits.eq(F16_NAN)
        with m.Elif(infinite):
            m.d.comb += bits.eq(Cat(Const(F16_INFINITY, 15), sign))
        with m.Else():
            m.d.comb += bits.eq(Cat(Mux(zero, 0, rounded), sign))
        m.d.comb += self.bits.eq(register(m, self.en, bits, name="bits_reg"))
        return m


class EpilogueFp16Lane(wiring.Component):
    """y = f16(f32(f32(acc) * s_ch) * a_s), each step rounded to nearest even.

    `Multiply` keeps 24 bits of a product below 2^-126. In the first product that is exact: f32(acc)
    is an integer and `s_ch` a multiple of 2^-149, so a product below 2^-126 is one too and has at
    most 23 significant bits. In the second it does not matter: whatever lies near or below 2^-126
    is a zero in float16.

    Parameters
    ----------
    spec : W4A8Spec
        Gives the accumulator width.

    Members
    -------
    en : In(1)
        All ``epilogue_latency - 1`` stages advance, or hold. Inside only `y` does so in the same
        cycle, what lies before it one cycle later, which does not show outside.
    acc : In(signed(spec.acc_bits))
        Accumulator.
    s_ch : In(32)
        Channel scale of the column, any float32.
    a_s : In(32)
        Scale of the row, any float32.
    y : Out(16)
        float16 bits, ``epilogue_latency - 1`` enabled cycles later; a register.
    """

    en: Signal
    acc: Signal
    s_ch: Signal
    a_s: Signal
    y: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "en": In(1),
                "acc": In(signed(spec.acc_bits)),
                "s_ch": In(32),
                "a_s": In(32),
                "y": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.to_float = to_float = AccToFloat(self._spec.acc_bits)
        m.submodules.unpack_s_ch = unpack_s_ch = Unpack()
        m.submodules.unpack_a_s = unpack_a_s = Unpack()
        m.submodules.by_s_ch = by_s_ch = Multiply()
        m.submodules.by_a_s = by_a_s = Multiply()
        m.submodules.pack = pack = PackF16()
        # Some 1800 registers cannot be reached with what the output decides in the same cycle. So
        # all of them run a clock cycle behind, enable and operands alike, and `y` makes up for it.
        late = Signal()
        m.d.sync += late.eq(self.en)
        for part in (to_float, unpack_s_ch, unpack_a_s, by_s_ch, by_a_s, pack):
            m.d.comb += part.en.eq(late)
        acc = register(m, 1, self.acc, name="acc_late")
        s_ch = register(m, 1, self.s_ch, name="s_ch_late")
        a_s = register(m, 1, self.a_s, name="a_s_late")

        wait_s_ch = AccToFloat.STAGES - Unpack.STAGES
        wait_a_s = wait_s_ch + Multiply.STAGES
        m.d.comb += [
            to_float.acc.eq(acc),
            unpack_s_ch.bits.eq(s_ch),
            unpack_a_s.bits.eq(register(m, late, a_s, name="a_s_wait", stages=wait_a_s)),
            by_s_ch.a.eq(to_float.number),
            by_s_ch.b.eq(
                register(m, late, unpack_s_ch.number, name="s_ch_number", stages=wait_s_ch)
            ),
            by_a_s.a.eq(by_s_ch.product),
            by_a_s.b.eq(unpack_a_s.number),
            pack.number.eq(by_a_s.product),
        ]
        # A stage that did not run behind would hold now what this one takes next.
        bits = register(m, late, pack.bits, name="bits_late")
        bits = Mux(late, pack.bits, bits)
        m.d.comb += self.y.eq(register(m, self.en, bits, name="y_reg"))
        stages = AccToFloat.STAGES + 2 * Multiply.STAGES + PackF16.STAGES + 2
        assert stages == self._spec.epilogue_latency - 1
        return m
