# SPDX-License-Identifier: Apache-2.0
"""Shift-add: codes become weighted terms, terms the outputs' sums (sections 1 and 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.pim.layout import (
    add_layout,
    code_shape,
    passes,
    sums_layout,
    unit_adcs,
    unit_outputs,
)


class Unit(wiring.Component):
    """ADCs and outputs that share columns: P / M ADCs and one output, or one and M / P.

    Slices are added by Horner's rule: what an accumulator holds moves to the weight of the next
    slice with that slice's first term, so that nothing is shifted by an amount that varies. The
    outputs of an ADC are a ring, with the one whose planes are converted at its head: no
    multiplexer is in front of the adder. After M conversions it is back where it was.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    codes : In(array of code_shape)
        Of the unit's ADCs, lower planes first (q + 2).
    number : In
        Which conversion of its output it is (q + 2).
    add : In(add_layout)
        At q + 3, when the term is there.
    sums : Out(array of signed(acc_bits))
        At q + 4: the unit's outputs, in their order wherever `add.write` was 1.
    """

    codes: Any
    number: Signal
    add: Any
    sums: Any

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        sums = data.ArrayLayout(signed(spec.acc_bits), unit_outputs(spec))
        super().__init__(
            {
                "codes": In(data.ArrayLayout(code_shape(spec), unit_adcs(spec))),
                "number": In(index_bits(passes(spec))),
                "add": In(add_layout(spec)),
                "sums": Out(sums),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, add, sums = self._spec, self.add, self.sums
        limit = spec.code_max * sum(map(abs, spec.plane_weights))
        term = Signal(signed(limit.bit_length() + 1))
        m.d.comb += term.eq(self._weigh())
        term = register(m, 1, term, name="term_reg")
        head, total = sums[0], Signal(signed(spec.acc_bits))
        base = Mux(add.clear, 0, Mux(add.shift, head << spec.slice_bits, head))
        m.d.comb += total.eq(base + term)
        last = unit_outputs(spec) - 1
        with m.If(add.valid & (add.rotate if last else 1)):
            m.d.sync += sums[last].eq(total)
            m.d.sync += [sums[place].eq(sums[place + 1]) for place in range(last)]
        if last:
            with m.Elif(add.valid):
                m.d.sync += head.eq(total)
        return m

    def _weigh(self) -> Value:
        """Return the codes times the weights of their planes, planes of one output added.

        Weights of an ADC's planes are those of its first one, shifted by the number of the
        conversion (bit-serial) and negated for some of them.
        """
        spec, count = self._spec, passes(self._spec)
        weights = [
            spec.plane_weights[first : first + count] for first in range(0, spec.planes, count)
        ]
        weights = weights[: unit_adcs(spec)]
        terms: list[Value] = []
        for code, own in zip(self.codes, weights, strict=True):
            scaled = code << (abs(own[0]).bit_length() - 1)
            negative = [number for number, weight in enumerate(own) if weight < 0]
            if len(negative) == count:
                scaled = -scaled
            elif negative:
                scaled = Mux(self.number.matches(*negative), -scaled, scaled)
            terms.append(scaled)
        total = sum(terms[1:], start=terms[0])
        if spec.decomposition != "bit_serial" or count == 1:
            return total
        return Array([total << number for number in range(count)])[self.number]


class ShiftAdd(wiring.Component):
    """The units of all outputs.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    codes : In(array of A, code_shape)
        At q + 2.
    number, add : In
        As `Unit`.
    sums : Out(sums_layout)
        At q + 4.
    write : Out(1)
        At q + 4 of a vector's last conversion (f): `sums` are its results.
    """

    codes: Any
    number: Signal
    add: Any
    sums: Any
    write: Signal

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "codes": In(data.ArrayLayout(code_shape(spec), spec.adcs)),
                "number": In(index_bits(passes(spec))),
                "add": In(add_layout(spec)),
                "sums": Out(sums_layout(spec)),
                "write": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, adcs, outputs = self._spec, unit_adcs(self._spec), unit_outputs(self._spec)
        for number in range(spec.outputs // outputs):
            m.submodules[f"unit_{number}"] = unit = Unit(spec)
            m.d.comb += [
                *(unit.codes[i].eq(self.codes[number * adcs + i]) for i in range(adcs)),
                unit.number.eq(self.number),
                unit.add.eq(self.add),
                *(self.sums[number * outputs + i].eq(unit.sums[i]) for i in range(outputs)),
            ]
        m.d.sync += self.write.eq(self.add.valid & self.add.write)
        return m
