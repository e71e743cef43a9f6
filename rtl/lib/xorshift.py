# SPDX-License-Identifier: Apache-2.0
"""The xorshift generator of `cosil.packed.generators` in hardware: one draw a cycle, a register."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

STATE_BITS = 32


class Xorshift(wiring.Component):
    """Draws of a xorshift generator whose state is loaded.

    Members
    -------
    load, i : In(1), In(32)
        `i`, 1..2**32 - 1, becomes the state. Not together with `draw`.
    draw : In(1)
        `value` is used in this cycle.
    value : Out(32)
        The next draw, a register: the state after one step more than have been drawn.
    """

    load: Signal
    i: Signal
    draw: Signal
    value: Signal

    def __init__(self) -> None:
        super().__init__(
            {"load": In(1), "i": In(STATE_BITS), "draw": In(1), "value": Out(STATE_BITS)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(STATE_BITS)
        m.d.comb += self.value.eq(state)
        # The register is a step ahead, so that a draw addresses a memory without logic before it.
        with m.If(self.load):
            m.d.sync += state.eq(_step(self.i))
        with m.Elif(self.draw):
            m.d.sync += state.eq(_step(state))
        return m


def _step(state: Value) -> Value:
    state = state ^ (state << 13)[:STATE_BITS]
    state = state ^ (state >> 17)
    return state ^ (state << 5)[:STATE_BITS]
