# SPDX-License-Identifier: Apache-2.0
"""Powers of two of fixed-point exponents, from one table (section 1: exponential, probability)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import (
    EXP_BITS,
    FRACTION_BITS,
    LOG_BITS,
    PROBABILITY_BITS,
    AttentionSpec,
    pow_table,
)
from rtl.attention.layout import distances_layout, probabilities_layout
from rtl.lib.pipeline import register


def powers(m: Module, fractions: list[Value]) -> list[Value]:
    """Return POW of every fraction, a cycle later: one ROM, a read port for each."""
    table = pow_table()
    memory = Memory(shape=EXP_BITS + 1, depth=len(table), init=table)
    m.submodules.pow = memory
    found: list[Value] = []
    for fraction in fractions:
        read = memory.read_port()
        m.d.comb += read.addr.eq(fraction)
        found.append(Value.cast(read.data))
    return found


class Probability(wiring.Component):
    """Turns distances into probabilities: p = round(2^-(t + L)), saturated, Q0.22.

    A distance of 8191 needs no case of its own: its exponent is 31 or more, and from 26 on nothing
    is left.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    distance, log : In(distances_layout), In(12)
        Distances t and the logarithm L of their row's sum.
    keep : In(lanes)
        Lanes that hold a key; the others give 0.
    probability : Out(array of lanes, 22)
        Three cycles later; registers.
    """

    distance: Any
    log: Signal
    keep: Signal
    probability: Any

    STAGES = 3

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "distance": In(distances_layout(spec)),
                "log": In(LOG_BITS),
                "keep": In(spec.lanes),
                "probability": Out(probabilities_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = range(self._spec.lanes)
        exponents = [
            register(m, 1, self.distance[lane] + self.log, name=f"exponent_{lane}")
            for lane in lanes
        ]
        found = powers(m, [exponent[:FRACTION_BITS] for exponent in exponents])
        keep = register(m, 1, self.keep, name="keep_reg", stages=2)
        for lane in lanes:
            whole = register(m, 1, exponents[lane][FRACTION_BITS:], name=f"whole_{lane}")
            # Shifted by one less than the whole shift of 2 + whole, the lowest bit is the half.
            halves = found[lane][1:] >> whole
            rounded = Signal(PROBABILITY_BITS + 1, name=f"rounded_{lane}")
            result = Signal(PROBABILITY_BITS, name=f"result_{lane}")
            m.d.comb += [
                rounded.eq(halves[1:] + halves[0]),
                result.eq(Mux(rounded[-1], ~0, rounded)),
            ]
            result = register(m, 1, Mux(keep[lane], result, 0), name=f"probability_{lane}")
            m.d.comb += self.probability[lane].eq(result)
        assert EXP_BITS - PROBABILITY_BITS == 2
        return m
