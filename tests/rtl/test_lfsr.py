# SPDX-License-Identifier: Apache-2.0
"""The generator in hardware against single steps of its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.sim import Simulator

from rtl.lib.lfsr import LeapForward, Lfsr

MASK = 0x80200003
"""docs/engines/topk.md, section 4.3."""


def steps(state: int, count: int) -> int:
    for _ in range(count):
        state = state >> 1 ^ (MASK if state & 1 else 0)
    return state


def test_leap_is_32_steps() -> None:
    """Exclusive ors that are right for every unit vector and for 0 are right for every state.

    Both sides are linear, so the states here are a proof; the sums among them say that they are.
    """
    dut = LeapForward()
    rng = np.random.default_rng(0)
    states = [0, *(1 << bit for bit in range(32)), *rng.integers(1, 1 << 32, 50).tolist()]

    async def testbench(ctx: Any) -> None:
        for state in states:
            ctx.set(dut.i, state)
            assert steps(state, 32) == ctx.get(dut.o)

    sim = Simulator(dut)
    sim.add_testbench(testbench)
    sim.run()


def test_draws_follow_the_strobe() -> None:
    """The next draw shows until it is used; the first one is 32 steps from the seed."""
    seed = 0xDEADBEEF
    dut = Lfsr(seed)

    async def testbench(ctx: Any) -> None:
        state = steps(seed, 32)
        for draw in (0, 1, 1, 0, 1, 0, 0, 1):
            assert state == ctx.get(dut.value)
            ctx.set(dut.draw, draw)
            await ctx.tick()
            state = steps(state, 32 * draw)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
