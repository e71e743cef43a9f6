# SPDX-License-Identifier: Apache-2.0
"""Prefix sum of flags: how many flags are set before each lane."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.widths import index_bits


class PrefixSum(wiring.Component):
    """Rank of every lane among the lanes whose flag is set; combinational.

    Divide and conquer (Sklansky): after level b every lane holds the count within its aligned
    block of 2^(b+1) lanes, so a path has log2(lanes) additions, none wider than it must be.

    Parameters
    ----------
    lanes : int
        A power of two.

    Members
    -------
    i : In(lanes)
        Flags.
    ranks : Out(array of lanes, range(lanes))
        Set flags in the lanes below.
    total : Out(range(lanes + 1))
        All set flags.

    References
    ----------
    Sklansky, "Conditional-Sum Addition Logic", IRE Transactions on Electronic Computers, 1960.
    """

    i: Signal
    ranks: Any
    total: Signal

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__(
            {
                "i": In(lanes),
                "ranks": Out(data.ArrayLayout(index_bits(lanes), lanes)),
                "total": Out(range(lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._lanes
        below: list[Value] = [Const(0, 1)] * lanes
        through: list[Value] = [self.i[lane] for lane in range(lanes)]
        size = 1
        while size < lanes:
            level_below, level_through = list(below), list(through)
            for lane in range(lanes):
                if lane & size:
                    left = through[lane // size * size - 1]
                    level_through[lane] = _named(m, left + through[lane], f"through_{size}_{lane}",
                                                 2 * size)  # fmt: skip
                    level_below[lane] = _named(m, left + below[lane], f"below_{size}_{lane}",
                                               2 * size - 1)  # fmt: skip
            below, through = level_below, level_through
            size *= 2
        m.d.comb += self.total.eq(through[-1])
        m.d.comb += [self.ranks[lane].eq(below[lane]) for lane in range(lanes)]
        return m


def _named(m: Module, value: Value, name: str, most: int) -> Signal:
    """Return a signal that shows `value`, which is at most `most`."""
    signal = Signal(range(most + 1), name=name)
    m.d.comb += signal.eq(value)
    return signal


def ones(flags: Value) -> Value:
    """Return the number of flags that are set, as a balanced tree of additions."""
    if len(flags) == 1:
        return flags
    half = len(flags) // 2
    return ones(flags[:half]) + ones(flags[half:])
