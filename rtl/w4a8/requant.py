# SPDX-License-Identifier: Apache-2.0
"""Group requantiser: int4 code times float16 scale to int8 (docs/engines/w4a8.md, section 1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.float32 import round_up
from rtl.lib.pipeline import register

F16 = data.StructLayout({"fraction": 10, "exponent": 5, "sign": 1})
"""Fields of the 16 bits, low bits first."""


class Requant(wiring.Component):
    """clamp(RNE(q * s), -128, 127) in look-up tables, two pipeline stages, one weight per cycle.

    A float16 is significand * 2^(e - 25) with an 11-bit significand and e = max(exponent, 1). So
    the integer product, at most 8 * 2047, moves right by 25 - e. From e = 25 on any code but 0
    saturates, and 15 places or more leave less than one half.

    Parameters
    ----------
    spec : W4A8Spec
        Gives the weight encoding.

    Members
    -------
    code : In(4)
        Stored nibble.
    scale : In(16)
        Finite float16 of any sign, subnormals included.
    out : Out(signed(8))
        Requantised weight, two cycles later; there is no enable.
    """

    STAGES = 2

    code: Signal
    scale: Signal
    out: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._offset_binary = spec.weight_encoding == "offset"
        super().__init__({"code": In(4), "scale": In(16), "out": Out(signed(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        en = Const(1)
        scale = data.View(F16, self.scale)
        weight = Signal(signed(4))
        magnitude = Signal(4)
        # Offset binary is two's complement with the top bit inverted.
        m.d.comb += [
            weight.eq(self.code ^ (8 if self._offset_binary else 0)),
            magnitude.eq(Mux(weight[-1], -weight, weight)),
        ]
        significand = Cat(scale.fraction, scale.exponent != 0)
        shift = Signal(4)
        m.d.comb += shift.eq(
            Mux(scale.exponent <= 10, 15, Mux(scale.exponent >= 24, 1, 25 - scale.exponent))
        )
        product = register(m, en, magnitude * significand, name="product")
        shift = register(m, en, shift, name="shift_reg")
        negative = register(m, en, weight[-1] ^ scale.sign, name="negative")
        huge = register(m, en, (scale.exponent >= 25) & (weight != 0), name="huge")

        aligned = Signal(15 + 15)
        m.d.comb += aligned.eq(Cat(Const(0, 15), product) >> shift)
        floor, half, rest = aligned[15:], aligned[14], aligned[:14]
        up = round_up(floor[0], half, rest)
        # -(floor + up) = ~floor + (1 - up): one adder serves both signs.
        operand = Signal(signed(8))
        rounded = Signal(signed(9))
        saturate = Signal()
        result = Signal(signed(8))
        m.d.comb += [
            operand.eq(
                Mux(negative, ~Cat(floor[:7], 0).as_signed(), Cat(floor[:7], 0).as_signed())
            ),
            rounded.eq(operand + (negative ^ up)),
            saturate.eq(huge | floor[7:].any() | (~negative & rounded[7])),
            result.eq(Mux(saturate, Mux(negative, -128, 127), rounded)),
            self.out.eq(register(m, en, result, name="out_reg")),
        ]
        return m
