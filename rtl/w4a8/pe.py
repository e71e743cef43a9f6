# SPDX-License-Identifier: Apache-2.0
"""Processing elements: one row, one pair of columns.

In the channel datapath both products of a pair come from one 18x18 multiplier: (w1 * 2^12 + w2) * a
holds w2 * a, signed, in its low 12 bits, and w1 * a above, less one if the low product is negative.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.layout import flags_layout, pair_bits, psum_bits


def products(m: Module, spec: W4A8Spec, cols: int, a: Value, w: Value) -> list[tuple[Value, Value]]:
    """Return, per column, the registered product of `a` and `w`, and a carry that completes it.

    Parameters
    ----------
    m : Module
        Module that receives the product registers.
    spec : W4A8Spec
    cols : int
        Columns of the pair, 1 or 2.
    a, w : Value
        Operand registers: 8 bits, `pair_bits`.
    """
    if spec.scales == "channel" and cols == 2:
        low, high = w[:4], w[4:]
        packed = Cat(low, low[-1].replicate(8), high).as_signed()
        product = Signal(24, reset_less=True)
        m.d.sync += product.eq(packed * a.as_signed())
        return [(product[:12], Const(0, 1)), (product[12:], product[11])]
    bits = 12 if spec.scales == "channel" else 16
    result: list[tuple[Value, Value]] = []
    for col in range(cols):
        product = Signal(bits, name=f"product_{col}", reset_less=True)
        m.d.sync += product.eq(w.word_select(col, len(w) // cols).as_signed() * a.as_signed())
        result.append((product, Const(0, 1)))
    return result


def add_product(total: Value, product: tuple[Value, Value]) -> Value:
    """Return total + product in one carry chain: the product's carry enters below bit 0."""
    bits, carry = product
    return (Cat(carry, total).as_signed() + Cat(carry, bits).as_signed()) >> 1


class OsElement(wiring.Component):
    """Element of the output-stationary array; every operand hops on to the next element.

    Parameters
    ----------
    spec : W4A8Spec
    cols : int
        Columns of the pair, 1 or 2.

    Members
    -------
    a, w, flags : In(8), In(pair_bits), In(flags_layout)
    a_out, w_out, flags_out : Out
        The operand registers, one cycle later (t); the product is visible at t + 1, the accumulator
        at t + 2.
    captured : Out(1)
        High at t + 2 of a tile's last wave: the shadow register follows at t + 3.
    shift : In(1)
        The shadow register takes `above`, unless it captures.
    above, shadow : In, Out(array of cols, acc_bits)
        Shadow registers of the row above and of this row.
    """

    a: Signal
    w: Signal
    flags: Any
    a_out: Signal
    w_out: Signal
    flags_out: Any
    captured: Signal
    shift: Signal
    above: Any
    shadow: Any

    def __init__(self, spec: W4A8Spec, cols: int) -> None:
        self._spec, self._cols = spec, cols
        results = data.ArrayLayout(spec.acc_bits, cols)
        super().__init__(
            {
                "a": In(8),
                "w": In(pair_bits(spec, cols)),
                "flags": In(flags_layout(spec)),
                "a_out": Out(8),
                "w_out": Out(pair_bits(spec, cols)),
                "flags_out": Out(flags_layout(spec)),
                "captured": Out(1),
                "shift": In(1),
                "above": In(results),
                "shadow": Out(results),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, first, last = Signal(), Signal(), Signal()
        m.d.sync += [
            self.a_out.eq(self.a),
            self.w_out.eq(self.w),
            self.flags_out.eq(self.flags),
            valid.eq(self.flags_out.valid),
            first.eq(self.flags_out.first),
            last.eq(self.flags_out.last),
            self.captured.eq(last),
        ]
        for col, product in enumerate(products(m, self._spec, self._cols, self.a_out, self.w_out)):
            acc = Signal(self._spec.acc_bits, name=f"acc_{col}", reset_less=True)
            with m.If(valid):
                old = Mux(first, 0, acc)
                m.d.sync += acc.eq(add_product(old, product))
            with m.If(self.captured):
                m.d.sync += self.shadow[col].eq(acc)
            with m.Elif(self.shift):
                m.d.sync += self.shadow[col].eq(self.above[col])
        return m


class WsElement(wiring.Component):
    """Element of the weight-stationary array: activations hop right, sums and weights down.

    Parameters
    ----------
    spec : W4A8Spec
    cols : int
        Columns of the pair, 1 or 2.

    Members
    -------
    a, flags : In(8), In(flags_layout)
    a_out, flags_out : Out
        Operand registers, one cycle later (t).
    w, chain : In, Out(pair_bits)
        Load chain of the row above, and this row's: takes `w` in a cycle with `flags.load`. In a
        cycle with `flags.first` its old value becomes the active weight, visible at t.
    psum, psum_out : In, Out(array of cols, psum_bits)
        Sum from the row above, needed at t + 1; sum of this row, visible at t + 2.
    """

    a: Signal
    flags: Any
    a_out: Signal
    flags_out: Any
    w: Signal
    chain: Signal
    psum: Any
    psum_out: Any

    def __init__(self, spec: W4A8Spec, cols: int) -> None:
        self._spec, self._cols = spec, cols
        sums = data.ArrayLayout(psum_bits(spec), cols)
        super().__init__(
            {
                "a": In(8),
                "flags": In(flags_layout(spec)),
                "a_out": Out(8),
                "flags_out": Out(flags_layout(spec)),
                "w": In(pair_bits(spec, cols)),
                "chain": Out(pair_bits(spec, cols)),
                "psum": In(sums),
                "psum_out": Out(sums),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        active = Signal(len(self.w), reset_less=True)
        m.d.sync += [self.a_out.eq(self.a), self.flags_out.eq(self.flags)]
        with m.If(self.flags.load):
            m.d.sync += self.chain.eq(self.w)
        with m.If(self.flags.first):
            m.d.sync += active.eq(self.chain)
        for col, product in enumerate(products(m, self._spec, self._cols, self.a_out, active)):
            m.d.sync += self.psum_out[col].eq(add_product(self.psum[col], product))
        return m
