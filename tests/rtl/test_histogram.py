# SPDX-License-Identifier: Apache-2.0
"""The cumulative histogram against a sorted list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.lib.histogram import CumulativeHistogram, Thermometer

LANES = 4


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_thermometer(bits: int) -> None:
    """Bit b - 1 is 1 exactly for digits of at least b."""
    dut = Thermometer(bits)

    async def testbench(ctx: Any) -> None:
        for digit in range(1 << bits):
            ctx.set(dut.i, digit)
            assert (1 << digit) - 1 == ctx.get(dut.o)

    sim = Simulator(dut)
    sim.add_testbench(testbench)
    sim.run()


@pytest.mark.parametrize("bits", [1, 3])
def test_digit_of_the_need_th_best_key(bits: int) -> None:
    """For every need the digit is that of a sorted list, with the counts on both sides of it."""
    rng = np.random.default_rng(bits)
    dut = CumulativeHistogram(LANES, bits, 6)

    async def testbench(ctx: Any) -> None:
        for rows in (1, 2, 7):
            # Few values, so that bins are empty and others full.
            values = rng.integers(0, 1 << bits, size=2)
            digits = rng.choice(values, size=rows * LANES)
            idle = digits == 0  # lanes without a key look like digit 0 and are not counted
            keys = sorted(digits[~idle].tolist(), reverse=True) + [0] * 3
            for need in range(1, len(keys) + 1):
                ctx.set(dut.start, 1)
                ctx.set(dut.short, -need)
                ctx.set(dut.spare, len(keys) - need)
                for row in digits.reshape(rows, LANES):
                    ctx.set(dut.digits, row.tolist())
                    await ctx.tick()
                    ctx.set(dut.start, 0)
                ctx.set(dut.digits, [0] * LANES)
                await ctx.tick()
                expected = keys[need - 1]
                assert expected == ctx.get(dut.digit)
                assert sum(key > expected for key in keys) - need == ctx.get(dut.short_next)
                assert sum(key >= expected for key in keys) - need == ctx.get(dut.spare_next)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
