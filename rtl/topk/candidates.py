# SPDX-License-Identifier: Apache-2.0
"""Candidates of a radix pass: where they come from, which match, where those go (section 4.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.lib.banked import BankedRows
from rtl.lib.concentrate import ZeroEliminator
from rtl.topk.layout import digits_of, keys_layout, order_code, row_bits


class Candidates(wiring.Component):
    """Matches the first digits of a row's keys; those equal shed it and are candidates.

    A survivor is stored as the digits behind the one that matched, each in the field of the digit
    before: fields never grow towards the end, so it fits, and whatever the pass, the digit to match
    is in the first field and the one to count in the second.

    Parameters
    ----------
    spec : TopkSpec
        With at least two digits.

    Members
    -------
    restart : In(1)
        A pass begins; the row of this cycle is its first that is read.
    row : In
        Row of the survivor memory to read.
    i, from_bank : In(keys_layout), In(1)
        The row read in the cycle before, if it is one of the bank and not a survivor row.
    lanes : In(P)
        Lanes of that row that hold a key.
    digit : In
        Digit to match.
    keep : In(1)
        The matching keys are written to the survivor memory.
    match, digits : Out(P), Out(array of P)
        Registers: the lanes of a row that match, and their next digits, 0 elsewhere.
    written : Out(range(P + 1))
        Keys that go to the survivor memory, a cycle after `match`.
    """

    restart: Signal
    row: Signal
    i: Any
    from_bank: Signal
    lanes: Signal
    digit: Signal
    keep: Signal
    match: Signal
    digits: Any
    written: Signal

    def __init__(self, spec: TopkSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "restart": In(1),
                "row": In(row_bits(spec)),
                "i": In(keys_layout(spec)),
                "from_bank": In(1),
                "lanes": In(spec.lanes),
                "digit": In(spec.digit_widths[0]),
                "keep": In(1),
                "match": Out(spec.lanes),
                "digits": Out(data.ArrayLayout(spec.digit_widths[1], spec.lanes)),
                "written": Out(range(spec.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, P = self._spec, self._spec.lanes
        rows = [digits_of(spec, order_code(spec, self.i[lane])) for lane in range(P)]
        # With two digits there is one pass, and nothing to store.
        survivors: Any = Signal(data.ArrayLayout(sum(spec.digit_widths[1:]), P))
        if spec.digits > 2:
            stored = self._survivors(m, survivors)
            rows = [
                [Mux(self.from_bank, ours, theirs) for ours, theirs in zip(*pair, strict=True)]
                for pair in zip(rows, stored, strict=True)
            ]
        for lane, fields in enumerate(rows):
            matches = self.lanes[lane] & (fields[0] == self.digit)
            m.d.sync += [
                self.match[lane].eq(matches),
                self.digits[lane].eq(fields[1] & matches.replicate(len(self.digits[lane]))),
            ]
            rest = [
                field[:width]
                for field, width in zip(fields[1:], spec.digit_widths[1:], strict=True)
            ]
            m.d.sync += survivors[lane].eq(Cat(reversed(rest)))
        return m

    def _survivors(self, m: Module, survivors: Any) -> list[list[Value]]:
        """Store the matching keys of the row before; return the fields of the row that was read."""
        spec, P = self._spec, self._spec.lanes
        widths = spec.digit_widths[1:]
        m.submodules.eliminator = eliminator = ZeroEliminator(P, sum(widths), registered=True)
        m.submodules.memory = memory = BankedRows(P, sum(widths), spec.memory_depth)
        m.d.comb += [
            eliminator.en.eq(1),
            eliminator.restart.eq(self.restart),
            eliminator.keep.eq(self.match & self.keep.replicate(P)),
            eliminator.i.eq(survivors),
            self.written.eq(eliminator.count),
            memory.restart.eq(self.restart),
            memory.filled.eq(eliminator.filled),
            memory.wraps.eq(eliminator.wraps),
            memory.full.eq(eliminator.full),
            memory.i.eq(eliminator.o),
            memory.row.eq(self.row),
        ]
        # The last field is 0: behind the last digit there is none.
        ends = [sum(widths[number:]) for number in range(len(widths))]
        return [
            [
                *(memory.o[lane][end - width : end]
                  for end, width in zip(ends, widths, strict=True)),
                Const(0, widths[-1]),
            ]
            for lane in range(P)
        ]  # fmt: skip
