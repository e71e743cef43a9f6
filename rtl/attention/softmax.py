# SPDX-License-Identifier: Apache-2.0
"""Sum: distances from the row's maximum, the sum of their exponentials, its logarithm (5.3)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import (
    DISTANCE_BITS,
    EXP_BITS,
    FRACTION_BITS,
    LOG_BITS,
    LOG_INDEX_BITS,
    MULT_BITS,
    NO_WEIGHT,
    SHIFT_MAX,
    AttentionSpec,
    log_table,
)
from rtl.attention.layout import count_bits, distances_layout, row_bits
from rtl.attention.probability import powers
from rtl.lib.lanes import count_below, lanes_below
from rtl.lib.pipeline import register
from rtl.lib.tree import add, registered_tree

_SPLIT = 17
"""Low bits of a difference in one multiplier: an 18-bit signed operand holds them."""

_DISTANCE_STAGE = 6
"""Cycles from the issue of a row to its distances."""


def sum_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what sum needs to know of a row."""
    return data.StructLayout(
        {"n": count_bits(spec), "mult": MULT_BITS, "shift": 6, "lsb_low": LOG_BITS,
         "lsb_high": LOG_BITS}
    )  # fmt: skip


class Sum(wiring.Component):
    """Turns a row of scores into distances and the logarithm of the sum of their exponentials.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    start, row : In(1), In(sum_layout)
        A row begins in this cycle (a), only where `busy` is 0; `row` stays until it is done.
    retried : In(1)
        The row has its LSBs already; stays as `row` does.
    maximum : In(signed(score_bits))
        From a + 1 on.
    read, read_row : Out
        Scores that are read.
    keys : Out(range(lanes + 1))
        Keys among them.
    scores : In(array of G, score_bits)
        A cycle later.
    write, write_row, distances : Out
        A row of distances, six cycles after it was read.
    busy : Out(1)
        From a + 1 until the row is done.
    log : Out(12)
        The logarithm L; valid with `ready` and `redo`.
    ready : Out(1)
        The row waits to be handed over, from cycle d on.
    redo : Out(1)
        Strobe in d: the row is flat and starts again when its LSBs are there.
    done : In(1)
        The row is handed over in this cycle; only where `ready` is 1.
    """

    start: Signal
    row: Any
    retried: Signal
    maximum: Signal
    read: Signal
    read_row: Signal
    keys: Signal
    scores: Any
    write: Signal
    write_row: Signal
    distances: Any
    busy: Signal
    log: Signal
    ready: Signal
    redo: Signal
    done: Signal

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        score = signed(spec.score_bits)
        super().__init__(
            {
                "start": In(1),
                "row": In(sum_layout(spec)),
                "retried": In(1),
                "maximum": In(score),
                "read": Out(1),
                "read_row": Out(row_bits(spec)),
                "keys": Out(range(spec.lanes + 1)),
                "scores": In(data.ArrayLayout(score, spec.lanes)),
                "write": Out(1),
                "write_row": Out(row_bits(spec)),
                "distances": Out(distances_layout(spec)),
                "busy": Out(1),
                "log": Out(LOG_BITS),
                "ready": Out(1),
                "redo": Out(1),
                "done": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        row = self.row

        # The first row is read in the cycle in which the stage starts.
        left, number, reads = Signal(count_bits(spec)), Signal(row_bits(spec)), Signal()
        remaining = Signal(count_bits(spec))
        more = remaining > lanes
        m.d.comb += [
            remaining.eq(Mux(self.start, row.n, left)),
            self.read.eq(self.start | reads),
            self.read_row.eq(number),
            self.keys.eq(Mux(self.read, count_below(remaining, lanes), 0)),
        ]
        with m.If(self.read):
            m.d.sync += [
                left.eq(remaining - lanes),
                reads.eq(more),
                number.eq(Mux(more, number + 1, 0)),
            ]
        with m.If(self.start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(self.redo | self.done):
            m.d.sync += self.busy.eq(0)

        # Stage i: i cycles after the read.
        last_stage = _DISTANCE_STAGE + 2 + spec.lane_tree
        there, first, last, keep, rows = [self.read], [self.start], [~more], [], [number]
        keep.append(lanes_below(remaining, lanes))
        for stage in range(1, last_stage + 1):
            valid = Signal(name=f"there_{stage}")
            m.d.sync += valid.eq(there[-1])
            there.append(valid)
            first.append(register(m, 1, Value.cast(first[-1]), name=f"first_{stage}"))
            last.append(register(m, 1, last[-1], name=f"last_{stage}"))
            if stage <= _DISTANCE_STAGE:
                rows.append(register(m, 1, rows[-1], name=f"row_{stage}"))
            if stage < _DISTANCE_STAGE + 2:
                keep.append(register(m, 1, Value.cast(keep[-1]), name=f"keep_{stage}"))

        # Constant while a row is in the stage: which bits of a product lie above the distance's.
        above = Signal(spec.distance_product_bits)
        m.d.sync += above.eq(Cat(bit >= row.shift + DISTANCE_BITS for bit in range(len(above))))
        distances = [self._distance(m, lane, above) for lane in range(lanes)]
        m.d.comb += [
            self.write.eq(there[_DISTANCE_STAGE]),
            self.write_row.eq(rows[_DISTANCE_STAGE]),
            *(self.distances[lane].eq(distances[lane]) for lane in range(lanes)),
        ]

        found = powers(m, [distance[:FRACTION_BITS] for distance in distances])
        exponentials: list[Value] = []
        for lane, distance in enumerate(distances):
            whole = register(m, 1, distance[FRACTION_BITS:], name=f"whole_{lane}")
            shifted = Mux(keep[_DISTANCE_STAGE + 1][lane], found[lane] >> whole, 0)
            exponentials.append(register(m, 1, shifted, name=f"exponential_{lane}"))
        row_sum = registered_tree(m, exponentials, add, name="row_sum")
        total = Signal(spec.sum_bits)
        with m.If(there[-1]):
            m.d.sync += total.eq(Mux(first[-1], row_sum, total + row_sum))
        summed = Signal()
        m.d.sync += summed.eq(there[-1] & last[-1])
        self._decide(m, total, summed)
        return m

    def _distance(self, m: Module, lane: int, above: Value) -> Signal:
        """Return min(((maximum - score) * mult + half) >> shift, 8191), six cycles after a read."""
        spec, row = self._spec, self.row
        difference = Signal(spec.difference_bits, name=f"difference_{lane}")
        m.d.comb += difference.eq(self.maximum - self.scores[lane])
        difference = register(m, 1, difference, name=f"difference_reg_{lane}")
        low = register(m, 1, difference[:_SPLIT] * row.mult, name=f"low_{lane}")
        high = register(m, 1, difference[_SPLIT:] * row.mult, name=f"high_{lane}")
        product = Signal(spec.distance_product_bits, name=f"product_{lane}")
        m.d.comb += product.eq((high << _SPLIT) + low)
        product = register(m, 1, product, name=f"product_reg_{lane}")
        # One bit below the point is the half; without a shift there is none.
        halves = (Cat(Const(0, 1), product) >> row.shift)[: DISTANCE_BITS + 1]
        halves = register(m, 1, halves, name=f"halves_{lane}")
        over = register(m, 1, (product & above).any(), name=f"over_{lane}")
        rounded = Signal(DISTANCE_BITS + 1, name=f"rounded_{lane}")
        distance = Signal(DISTANCE_BITS, name=f"distance_{lane}")
        m.d.comb += [
            rounded.eq(halves[1:] + halves[0]),
            distance.eq(Mux(over | rounded[-1], NO_WEIGHT, rounded)),
        ]
        return register(m, 1, distance, name=f"distance_reg_{lane}")

    def _decide(self, m: Module, total: Value, summed: Value) -> None:
        """Take the logarithm of a sum that is complete, and hand the row over or ask for LSBs."""
        table = log_table()
        m.submodules.log = memory = Memory(shape=FRACTION_BITS + 1, depth=len(table), init=table)
        read = memory.read_port()
        # The largest exponential is 2^24, so the leading one is there or above.
        whole = Signal(range(len(total) - EXP_BITS))
        for bit in range(EXP_BITS, len(total)):
            with m.If(total[bit]):
                m.d.sync += whole.eq(bit - EXP_BITS)
        below = [total[bit - LOG_INDEX_BITS : bit] for bit in range(EXP_BITS, len(total))]
        index = register(m, 1, Array(below)[whole], name="index")
        whole = register(m, 1, whole, name="whole_reg", stages=2)
        log = Signal(LOG_BITS)
        flat = Signal()
        m.d.comb += [
            read.addr.eq(index),
            log.eq((whole << FRACTION_BITS) + read.data),
            flat.eq(~self.retried & (log >= self.row.lsb_low) & (log <= self.row.lsb_high)),
        ]
        steps = Signal(3)
        m.d.sync += [
            steps.eq(Cat(summed, steps)),
            self.log.eq(log),
            self.redo.eq(steps[-1] & flat),
        ]
        with m.If(steps[-1] & ~flat):
            m.d.sync += self.ready.eq(1)
        with m.Elif(self.done):
            m.d.sync += self.ready.eq(0)
        assert SHIFT_MAX < 1 << len(self.row.shift)
