# SPDX-License-Identifier: Apache-2.0
"""Weigh: distances to the value selector, probabilities to the importance (section 5.4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import DISTANCE_BANKS, LOG_BITS, AttentionSpec
from rtl.attention.layout import (
    count_bits,
    distances_layout,
    ids_layout,
    probabilities_layout,
    row_bits,
)
from rtl.attention.probability import Probability
from rtl.lib.lanes import count_below, lanes_below
from rtl.lib.pipeline import register

_IDLE_AFTER = 7
"""Cycles after a row's last issue until the stage is idle."""


class Weigh(wiring.Component):
    """Two distance banks, of which sum writes one while this stage reads the other.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    write, write_row, write_distances : In
        A row of distances into sum's bank.
    start, n, log, add : In
        Sum hands its row over in this cycle (h), only where `busy` is 0: the banks are exchanged;
        keys of the row, its logarithm, whether it adds importance.
    busy : Out(1)
        From h + 1 on.
    read : Out(range(lanes + 1))
        Keys whose distances are read in this cycle.
    adds : Out(1)
        They add importance.
    keys_valid, keys : Out(1), Out(distances_layout)
        A row of keys for the selector, a cycle after it was read.
    list_row, list_ids : Out, In(ids_layout)
        Read port of the token list.
    add_lanes, add_ids : Out
        Lanes that add importance in this cycle and their tokens.
    add_probability : Out(array of lanes, 22)
        A cycle later.
    """

    write: Signal
    write_row: Signal
    write_distances: Any
    start: Signal
    n: Signal
    log: Signal
    add: Signal
    busy: Signal
    read: Signal
    adds: Signal
    keys_valid: Signal
    keys: Any
    list_row: Signal
    list_ids: Any
    add_lanes: Signal
    add_ids: Any
    add_probability: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        row, distances, ids = row_bits(spec), distances_layout(spec), ids_layout(spec)
        super().__init__(
            {
                "write": In(1),
                "write_row": In(row),
                "write_distances": In(distances),
                "start": In(1),
                "n": In(count_bits(spec)),
                "log": In(LOG_BITS),
                "add": In(1),
                "busy": Out(1),
                "read": Out(range(spec.lanes + 1)),
                "adds": Out(1),
                "keys_valid": Out(1),
                "keys": Out(distances),
                "list_row": Out(row),
                "list_ids": In(ids),
                "add_lanes": Out(spec.lanes),
                "add_ids": Out(ids),
                "add_probability": Out(probabilities_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        left, number, reads = Signal(count_bits(spec)), Signal(row_bits(spec)), Signal()
        log, bank = Signal(LOG_BITS), Signal()  # bank: the one that this stage reads
        last = Signal()
        ending = Signal(_IDLE_AFTER)
        m.d.comb += [
            last.eq(reads & (left <= lanes)),
            self.read.eq(Mux(reads, count_below(left, lanes), 0)),
            self.list_row.eq(number),
        ]
        m.d.sync += ending.eq(Cat(last, ending))
        with m.If(self.start):
            m.d.sync += [left.eq(self.n), number.eq(0), reads.eq(1), bank.eq(~bank)]
            m.d.sync += [log.eq(self.log), self.adds.eq(self.add), self.busy.eq(1)]
        with m.Else():
            with m.If(reads):
                m.d.sync += [left.eq(left - lanes), number.eq(number + 1), reads.eq(~last)]
            with m.If(ending[-1]):
                m.d.sync += self.busy.eq(0)

        # A row read in c: distances c + 1, probabilities c + 4, ids with a read of theirs c + 3.
        distances = self._banks(m, number, bank)
        m.submodules.probability = probability = Probability(spec)
        keep = Mux(reads, lanes_below(left, lanes), 0)
        there = register(m, 1, reads, name="there", reset=True)
        keep_there = register(m, 1, keep, name="keep_there", reset=True)
        m.d.comb += [
            self.keys_valid.eq(there),
            self.keys.eq(distances),
            probability.distance.eq(distances),
            probability.log.eq(log),
            probability.keep.eq(keep_there),
            self.add_probability.eq(probability.probability),
        ]
        adding = keep_there & self.adds.replicate(lanes)
        m.d.comb += [
            self.add_lanes.eq(register(m, 1, adding, name="adding", stages=2, reset=True)),
            self.add_ids.eq(register(m, 1, self.list_ids, name="ids", stages=2)),
        ]
        return m

    def _banks(self, m: Module, number: Value, bank: Value) -> Any:
        """Return the row of this stage's bank that was read a cycle ago."""
        layout = distances_layout(self._spec)
        found: list[Value] = []
        for index in range(DISTANCE_BANKS):
            memory = Memory(shape=layout, depth=self._spec.rows, init=[])
            m.submodules[f"bank_{index}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write & (bank != index)),
                write.addr.eq(self.write_row),
                write.data.eq(self.write_distances),
                read.addr.eq(number),
            ]
            found.append(Value.cast(read.data))
        row: Any = Signal(layout)
        m.d.comb += row.eq(Mux(bank, found[1], found[0]))
        return row
