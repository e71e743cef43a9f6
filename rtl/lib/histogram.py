# SPDX-License-Identifier: Apache-2.0
"""A cumulative histogram that finds the digit of the need-th best key."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.prefix import ones


class Thermometer(wiring.Component):
    """Says of every number from 1 on whether a digit reaches it; combinational.

    Parameters
    ----------
    bits : int
        Width of the digit.

    Members
    -------
    i : In(bits)
    o : Out(2**bits - 1)
        Bit b - 1 is 1 if the digit is at least b.
    """

    i: Signal
    o: Signal

    def __init__(self, bits: int) -> None:
        self._bits = bits
        super().__init__({"i": In(bits), "o": Out((1 << bits) - 1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The thermometer of the lower bits, below, at or above the number of the top bit.
        reached: Value = self.i[0]
        for bit in range(1, self._bits):
            top = self.i[bit]
            size = 1 << bit
            step = Signal(2 * size - 1, name=f"reached_{bit}")
            m.d.comb += step.eq(
                Cat(reached | top.replicate(size - 1), top, reached & top.replicate(size - 1))
            )
            reached = step
        m.d.comb += self.o.eq(reached)
        return m


class Bin(wiring.Component):
    """One counter of a histogram.

    Parameters
    ----------
    lanes, count_bits : int
        As of the histogram.

    Members
    -------
    flags : In(lanes)
        Keys of a row that count here.
    start, value : In(1), In(signed(count_bits + 1))
        The counter becomes `value`; rows before this cycle do not count.
    total : Out(signed(count_bits + 1))
        Shows a row two cycles later.
    """

    flags: Signal
    start: Signal
    value: Signal
    total: Signal

    def __init__(self, lanes: int, count_bits: int) -> None:
        self._lanes = lanes
        count = signed(count_bits + 1)
        super().__init__(
            {"flags": In(lanes), "start": In(1), "value": In(count), "total": Out(count)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        counted = Signal(range(self._lanes + 1))
        m.d.sync += counted.eq(ones(self.flags))
        with m.If(self.start):
            m.d.sync += self.total.eq(self.value)
        with m.Else():
            m.d.sync += self.total.eq(self.total + counted)
        return m


class CumulativeHistogram(wiring.Component):
    """Counts, for every digit b of at least 1, the keys whose digit is b or more.

    Counter b starts at minus `need`, so that its sign says whether the need-th best key's digit is
    below b. No scan over bins follows the counting: the signs are a thermometer of that digit, and
    the counters on both sides of its edge are the numbers of the next step.

    A row's counts are behind a register (visible a cycle later) and the counters one more.

    Parameters
    ----------
    lanes, digit_bits : int
        Keys of a row, bits of a digit.
    count_bits : int
        Bits of a number of keys.

    Members
    -------
    start : In(1)
        The counters begin anew, with `short` and `spare`; the row of this cycle is the first.
    short : In(signed(count_bits + 1))
        Minus the need.
    spare : In(signed(count_bits + 1))
        Keys that will be counted, minus the need.
    digits : In(array of lanes, digit_bits)
        A row; keys that do not count have digit 0.
    digit : Out(digit_bits)
        Digit of the need-th best key; combinational, as the two below.
    short_next : Out(signed(count_bits + 1))
        Keys with a larger digit, minus the need: `short` of the keys with this digit.
    spare_next : Out(signed(count_bits + 1))
        Keys with this digit or a larger one, minus the need: `spare` of the keys with this digit.
    """

    start: Signal
    short: Signal
    spare: Signal
    digits: Any
    digit: Signal
    short_next: Signal
    spare_next: Signal

    def __init__(self, lanes: int, digit_bits: int, count_bits: int) -> None:
        self._lanes, self._digit_bits, self._count_bits = lanes, digit_bits, count_bits
        count = signed(count_bits + 1)
        super().__init__(
            {
                "start": In(1),
                "short": In(count),
                "spare": In(count),
                "digits": In(data.ArrayLayout(digit_bits, lanes)),
                "digit": Out(digit_bits),
                "short_next": Out(count),
                "spare_next": Out(count),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bins = 1 << self._digit_bits
        shape = signed(self._count_bits + 1)
        first, end = Signal(shape), Signal(shape)
        with m.If(self.start):
            m.d.sync += [first.eq(self.spare), end.eq(self.short)]
        reached: list[Signal] = []
        for lane in range(self._lanes):
            thermometer = Thermometer(self._digit_bits)
            m.submodules[f"thermometer_{lane}"] = thermometer
            m.d.comb += thermometer.i.eq(self.digits[lane])
            reached.append(thermometer.o)
        totals: list[Signal] = [first]
        for number in range(1, bins):
            counter = Bin(self._lanes, self._count_bits)
            m.submodules[f"bin_{number}"] = counter
            m.d.comb += [
                counter.flags.eq(Cat(lane[number - 1] for lane in reached)),
                counter.start.eq(self.start),
                counter.value.eq(self.short),
            ]
            totals.append(counter.total)
        totals.append(end)
        # enough[b]: the need-th best key has digit b or more; so it is of digit 0, and not of 2^r.
        enough = [Const(1, 1), *(~total[-1] for total in totals[1:-1]), Const(0, 1)]
        chosen = Signal(bins)
        m.d.comb += [
            chosen.eq(Cat(enough[:-1]) & ~Cat(enough[1:])),
            self.digit.eq(
                Cat(
                    Cat(chosen[number] for number in range(bins) if number >> bit & 1).any()
                    for bit in range(self._digit_bits)
                )
            ),
            self.spare_next.eq(_select(chosen, totals[:-1])),
            self.short_next.eq(_select(chosen, totals[1:])),
        ]
        return m


def _select(chosen: Signal, values: list[Signal]) -> Value:
    """Return the value whose bit of `chosen` is set: an AND and a tree of ORs for every bit."""
    width = len(values[0])
    return Cat((Cat(value[bit] for value in values) & chosen).any() for bit in range(width))
