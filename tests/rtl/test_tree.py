# SPDX-License-Identifier: Apache-2.0
"""Trees, registered and not, against Python's sum and max."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from rtl.lib.tree import add, add_in_gates, larger, registered_tree, tree

BITS = 6


class Trees(wiring.Component):
    """Sum and maximum of a row, with its shape as the tree makes it."""

    i: Any
    total: Signal
    most: Signal

    def __init__(self, width: int) -> None:
        self._width = width
        super().__init__(
            {
                "i": In(data.ArrayLayout(signed(BITS), width)),
                "total": Out(signed(BITS + (width - 1).bit_length())),
                "most": Out(signed(BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect both trees."""
        m = Module()
        values = [self.i[index] for index in range(self._width)]
        total = registered_tree(m, values, add, name="total")
        most = registered_tree(m, values, larger, name="most")
        assert len(total) == len(self.total)  # exact, and no wider than need be
        assert len(most) == BITS
        m.d.comb += [self.total.eq(total), self.most.eq(most)]
        return m


@pytest.mark.parametrize(("width", "registers"), [(1, 1), (2, 1), (3, 1), (4, 1), (7, 2), (32, 3)])
def test_trees_are_exact_and_of_the_stated_depth(width: int, registers: int) -> None:
    """A new row enters every cycle; result i leaves max(1, ceil(log2(width) / 2)) cycles later."""
    rows = np.random.default_rng(width).integers(-(1 << BITS - 1), 1 << BITS - 1, (40, width))
    rows[:2] = [[-(1 << BITS - 1)] * width, [(1 << BITS - 1) - 1] * width]
    dut = Trees(width)
    shown: list[tuple[int, int]] = []

    async def testbench(ctx: Any) -> None:
        for row in rows.tolist():
            ctx.set(dut.i, row)
            shown.append((ctx.get(dut.total), ctx.get(dut.most)))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    expected = [(sum(row), max(row)) for row in rows.tolist()]
    assert expected[:-registers] == shown[registers:]


class Combinational(wiring.Component):
    """Sum of a row of any width."""

    i: Any
    total: Signal

    def __init__(self, width: int) -> None:
        self._width = width
        shape = {"i": In(data.ArrayLayout(signed(BITS), width)), "total": Out(signed(16))}
        super().__init__(shape)

    def elaborate(self, platform: object) -> Module:
        """Connect the tree."""
        m = Module()
        m.d.comb += self.total.eq(tree([self.i[index] for index in range(self._width)], add))
        return m


@pytest.mark.parametrize("width", [1, 2, 3, 7, 70])
def test_combinational_tree_takes_any_number(width: int) -> None:
    """The sum shows in the same cycle, for widths that are no power of two as well."""
    rows = np.random.default_rng(width).integers(-(1 << BITS - 1), 1 << BITS - 1, (20, width))
    dut = Combinational(width)

    async def testbench(ctx: Any) -> None:
        for row in rows.tolist():
            ctx.set(dut.i, row)
            assert sum(row) == ctx.get(dut.total)

    sim = Simulator(dut)
    sim.add_testbench(testbench)
    sim.run()


def test_sum_in_gates_is_a_sum() -> None:
    """All pairs of numbers of up to three bits, of two widths and of one."""
    a, b = Signal(3), Signal(3)
    m = Module()
    widths = [(i, j) for i in range(1, 4) for j in range(1, 4)]
    sums = [Signal(4, name=f"sum_{i}_{j}") for i, j in widths]
    for (i, j), total in zip(widths, sums, strict=True):
        found = add_in_gates(a[:i], b[:j])
        assert len(found) == max(i, j) + 1
        m.d.comb += total.eq(found)

    async def testbench(ctx: Any) -> None:
        for value in range(64):
            ctx.set(a, value % 8)
            ctx.set(b, value // 8)
            for (i, j), total in zip(widths, sums, strict=True):
                assert value % 8 % (1 << i) + value // 8 % (1 << j) == ctx.get(total)

    sim = Simulator(m)
    sim.add_testbench(testbench)
    sim.run()
