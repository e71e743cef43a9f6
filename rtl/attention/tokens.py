# SPDX-License-Identifier: Apache-2.0
"""The list of kept tokens: which token is at which position."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import AttentionSpec
from rtl.attention.layout import ids_layout, lane_bits, row_bits


class TokenList(wiring.Component):
    """Ids by position, read by fetch and weigh a row at a time and by values one by one.

    Every reader has a copy in rows of G ids. After a reset position and id are the same, and the
    memories are not looked at: so a reset takes one cycle.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    reset : In(1)
        The list is 0, 1, 2, ... from the next cycle.
    write, write_row, write_ids : In
        A row of kept ids; the list is what is written from now on.
    fetch_en, fetch_row : In
        Where `fetch_en` is 1 the row is read; otherwise `fetch_ids` holds.
    fetch_ids : Out(ids_layout)
        A cycle later.
    weigh_row, weigh_ids : In, Out(ids_layout)
        Likewise, in every cycle.
    item_index, item_ids : In(ids_layout), Out(ids_layout)
        Positions of their own in every lane, and a cycle later their ids.
    """

    reset: Signal
    write: Signal
    write_row: Signal
    write_ids: Any
    fetch_en: Signal
    fetch_row: Signal
    fetch_ids: Any
    weigh_row: Signal
    weigh_ids: Any
    item_index: Any
    item_ids: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        row, ids = row_bits(spec), ids_layout(spec)
        super().__init__(
            {
                "reset": In(1),
                "write": In(1),
                "write_row": In(row),
                "write_ids": In(ids),
                "fetch_en": In(1),
                "fetch_row": In(row),
                "fetch_ids": Out(ids),
                "weigh_row": In(row),
                "weigh_ids": Out(ids),
                "item_index": In(ids),
                "item_ids": Out(ids),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, below = self._spec.lanes, lane_bits(self._spec)
        identity = Signal(init=1)
        with m.If(self.reset):
            m.d.sync += identity.eq(1)
        with m.Elif(self.write):
            m.d.sync += identity.eq(0)

        fetched, fetch_row = self._copy(m, "fetch", self.fetch_row, self.fetch_en)
        weighed, weigh_row = self._copy(m, "weigh", self.weigh_row)
        for ids, stored, row in (
            (self.fetch_ids, fetched, fetch_row),
            (self.weigh_ids, weighed, weigh_row),
        ):
            for lane in range(lanes):
                with m.If(identity):
                    m.d.comb += ids[lane].eq(row << below | lane)
                with m.Else():
                    m.d.comb += ids[lane].eq(stored[lane])
        for lane in range(lanes):
            index = self.item_index[lane]
            stored, row = self._copy(m, f"item_{lane}", index[below:])
            place = Signal(below, name=f"place_{lane}")
            m.d.sync += place.eq(index[:below])
            with m.If(identity):
                m.d.comb += self.item_ids[lane].eq(Cat(place, row))
            with m.Else():
                choices = Array(stored[other] for other in range(lanes))
                m.d.comb += self.item_ids[lane].eq(choices[place])
        return m

    def _copy(self, m: Module, name: str, row: Value, en: Value | int = 1) -> tuple[Any, Signal]:
        """Return the row that was read a cycle ago, from a copy of the list, and its number."""
        spec = self._spec
        memory = Memory(shape=ids_layout(spec), depth=spec.rows, init=[])
        m.submodules[f"list_{name}"] = memory
        write, read = memory.write_port(), memory.read_port()
        number = Signal(row_bits(spec), name=f"row_{name}")
        with m.If(en):
            m.d.sync += number.eq(row)
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_row),
            write.data.eq(self.write_ids),
            read.addr.eq(row),
            read.en.eq(en),
        ]
        return data.View(ids_layout(spec), Value.cast(read.data)), number
