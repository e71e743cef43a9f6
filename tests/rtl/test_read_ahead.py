# SPDX-License-Identifier: Apache-2.0
"""The read-ahead queue against a deque that knows when an element may show."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.lib.read_ahead import ReadAheadQueue


@pytest.mark.parametrize(("depth", "pushes", "pops"), [(2, 0.9, 0.9), (4, 0.4, 0.8), (8, 1.0, 1.0)])
def test_elements_show_two_cycles_later_and_in_order(
    depth: int, pushes: float, pops: float
) -> None:
    """An element pushed in cycle t is the head from t + 2, or from when those before have left."""
    dut = ReadAheadQueue(16, depth)
    rng = np.random.default_rng(depth)
    popped = 0

    async def testbench(ctx: Any) -> None:
        nonlocal popped
        held: deque[tuple[int, int]] = deque()  # (first cycle as head, element)
        for cycle in range(600):
            usable = bool(held) and held[0][0] <= cycle
            assert usable == ctx.get(dut.usable)
            pop = usable and rng.random() < pops
            if usable:
                assert held[0][1] == ctx.get(dut.o)
            # Room counts from the state at the cycle's start, as the engine's reservations do.
            push = len(held) < depth and rng.random() < pushes
            element = int(rng.integers(0, 1 << 16))
            if pop:
                held.popleft()
                popped += 1
            if push:
                held.append((cycle + 2, element))
            ctx.set(dut.push, push)
            ctx.set(dut.i, element)
            ctx.set(dut.pop, pop)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    assert popped > 150
