# SPDX-License-Identifier: Apache-2.0
"""The multipliers, one for every lane and column, for query x key and probability x value."""

from __future__ import annotations

from typing import Any, Literal

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import CODE_BITS, PROBABILITY_BITS, QUERY_BITS, AttentionSpec
from rtl.attention.layout import codes_layout, decode, probabilities_layout, query_layout
from rtl.lib.pipeline import register

_WIDTH = 4


class Pool(wiring.Component):
    """G x D multipliers with registers in front and behind.

    Operands are decoded and chosen in front of the first register. A key's code is multiplied as it
    is stored: that an MSB counts 16 is left to the score. So both products have one signed 8-bit
    factor.

    Parameters
    ----------
    spec : AttentionSpec
    serves : {"both", "keys", "values"}
        What the array is for. Ports of the other are left out.

    Members
    -------
    value_beat : In(1), both only
        The beat that is launched in this cycle (v) is of values.
    query, key, msb_bits, plane : In
        Key beat at v.
    probability, value, value_bits : In
        Value beat at v; lanes that are not kept have probability 0.
    products : Out(array of G of arrays of D, signed)
        At v + 2.
    """

    value_beat: Signal
    query: Any
    key: Any
    msb_bits: Signal
    plane: Signal
    probability: Any
    value: Any
    value_bits: Signal
    products: Any

    def __init__(self, spec: AttentionSpec, serves: Literal["both", "keys", "values"]) -> None:
        self._spec, self._serves = spec, serves
        ports: dict[str, Any] = {}
        if serves != "values":
            ports |= {"query": In(query_layout(spec)), "key": In(codes_layout(spec))}
            ports |= {"msb_bits": In(_WIDTH), "plane": In(1)}
        if serves != "keys":
            ports |= {
                "probability": In(probabilities_layout(spec)),
                "value": In(codes_layout(spec)),
            }
            ports |= {"value_bits": In(_WIDTH)}
        if serves == "both":
            ports |= {"value_beat": In(1)}
        self._factor_bits = QUERY_BITS if serves == "keys" else PROBABILITY_BITS + 1
        product = signed(self._factor_bits + CODE_BITS)
        columns = data.ArrayLayout(product, spec.head_dim)
        super().__init__(ports | {"products": Out(data.ArrayLayout(columns, spec.lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for lane in range(self._spec.lanes):
            for column in range(self._spec.head_dim):
                place = f"{lane}_{column}"
                factor = Signal(signed(self._factor_bits), name=f"factor_{place}")
                code = Signal(signed(CODE_BITS), name=f"code_{place}")
                m.d.comb += [
                    factor.eq(self._factor(lane, column)),
                    code.eq(self._code(lane, column)),
                ]
                factor = register(m, 1, factor, name=f"factor_reg_{place}")
                code = register(m, 1, code, name=f"code_reg_{place}")
                product = register(m, 1, factor * code, name=f"product_{place}")
                m.d.comb += self.products[lane][column].eq(product)
        return m

    def _factor(self, lane: int, column: int) -> Value:
        if self._serves == "values":
            return self.probability[lane]
        query = Value.cast(self.query[column]).as_signed()
        if self._serves == "keys":
            return query
        return Mux(self.value_beat, self.probability[lane], query)

    def _code(self, lane: int, column: int) -> Value:
        if self._serves == "values":
            return decode(self.value[lane][column], self.value_bits)
        key = decode(self.key[lane][column], self.msb_bits, lsb=self.plane)
        if self._serves == "keys":
            return key
        value = decode(self.value[lane][column], self.value_bits)
        return Mux(self.value_beat, value, key)
