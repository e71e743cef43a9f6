# SPDX-License-Identifier: Apache-2.0
"""The generator of `cosil.packed.generators` in hardware: one draw per cycle, from a register."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.packed.generators import LFSR32_BITS, lfsr32_leap, lfsr32_rows


class LeapForward(wiring.Component):
    """The exclusive ors that take a state 32 steps on; combinational.

    Members
    -------
    i, o : In(32), Out(32)
        State, and the state after the steps.
    """

    i: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"i": In(LFSR32_BITS), "o": Out(LFSR32_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for bit, mask in enumerate(lfsr32_rows()):
            taps = Cat(self.i[tap] for tap in range(LFSR32_BITS) if mask >> tap & 1)
            m.d.comb += self.o[bit].eq(taps.xor())
        return m


class Lfsr(wiring.Component):
    """Draws of the 32-bit Galois LFSR.

    Parameters
    ----------
    seed : int
        State after reset, 1..2**32 - 1.

    Members
    -------
    draw : In(1)
        `value` is used in this cycle.
    value : Out(32)
        The next draw, a register: the state that 32 steps make of the one before.
    """

    draw: Signal
    value: Signal

    def __init__(self, seed: int) -> None:
        self._seed = seed
        super().__init__({"draw": In(1), "value": Out(LFSR32_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.leap = leap = LeapForward()
        state = Signal(LFSR32_BITS, init=lfsr32_leap(self._seed))
        m.d.comb += [leap.i.eq(state), self.value.eq(state)]
        with m.If(self.draw):
            m.d.sync += state.eq(leap.o)
        return m
