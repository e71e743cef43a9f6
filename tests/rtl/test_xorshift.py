# SPDX-License-Identifier: Apache-2.0
"""The xorshift generator in hardware against its definition on plain integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.sim import Simulator

from rtl.lib.xorshift import Xorshift

WORD = (1 << 32) - 1


def step(state: int) -> int:
    """docs/engines/pim.md, section 1: shifts by 13 to the left, 17 to the right, 5 to the left."""
    state ^= state << 13 & WORD
    state ^= state >> 17
    return state ^ state << 5 & WORD


def test_draws_follow_load_and_strobe() -> None:
    """A draw is the state after the step, and shows from load on until it is used.

    A step is linear: unit vectors and 0 prove it for all states.
    """
    dut = Xorshift()
    rng = np.random.default_rng(0)
    states = [0, *(1 << bit for bit in range(32)), *rng.integers(1, 1 << 32, 20).tolist()]

    async def testbench(ctx: Any) -> None:
        for state in states:
            ctx.set(dut.load, 1)
            ctx.set(dut.i, state)
            await ctx.tick()
            ctx.set(dut.load, 0)
            ctx.set(dut.i, 77)
            for draw in (0, 1, 1, 0, 1):
                assert step(state) == ctx.get(dut.value)
                ctx.set(dut.draw, draw)
                await ctx.tick()
                state = step(state) if draw else state
            ctx.set(dut.draw, 0)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
