# SPDX-License-Identifier: Apache-2.0
"""Processing element: counts the mismatches of an output, and makes its sum (section 1)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.lib.pipeline import register
from rtl.lib.tree import add_in_gates, registered_levels, tree
from rtl.xnor.layout import base_bits


class Element(wiring.Component):
    """One output of a fold.

    The tree has D registers. Before the first one there is the comparison alone, which follows
    memories, whose access time and wires fill most of a cycle. Behind it are four levels, of which
    two are of gates, then three each; the two that may be left are part of the accumulator.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    en : In(1)
        Clock enable of tree and sum.
    bits, signs, nonzero : In(simd)
        Activations and weights (u + 1); `nonzero` with ternary weights only.
    add, clear : In(1)
        The count is added, to 0 with `clear` (u + 1 + D); `add` only where `en` is 1.
    base : In(base_bits)
        At u + 2 + D of a fold's last step.
    sum : Out(signed(sum_bits))
        At u + 3 + D of that step.
    """

    en: Signal
    bits: Signal
    signs: Signal
    nonzero: Signal
    add: Signal
    clear: Signal
    base: Signal
    sum: Signal

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "en": In(1),
                "bits": In(spec.simd),
                "signs": In(spec.simd),
                **({"nonzero": In(spec.simd)} if spec.weights == "ternary" else {}),
                "add": In(1),
                "clear": In(1),
                "base": In(base_bits(spec)),
                "sum": Out(signed(spec.sum_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        mismatches = self.bits ^ self.signs
        if spec.weights == "ternary":
            mismatches &= self.nonzero
        values: list[Value] = [mismatches[lane] for lane in range(spec.simd)]
        level = 0
        for stage in range(spec.tree_stages):
            values, level = registered_levels(
                m,
                self.en,
                values,
                add_in_gates,
                levels=(0, 4, 3)[min(stage, 2)],
                name="count",
                level=level,
            )
        count = Signal(spec.mismatch_bits)
        with m.If(self.add):
            m.d.sync += count.eq(Mux(self.clear, 0, count) + tree(values, add_in_gates))
        total = Signal(signed(spec.sum_bits))
        m.d.comb += [
            total.eq(self.base - (count << 1)),
            self.sum.eq(register(m, self.en, total, name="sum_reg")),
        ]
        return m
