# SPDX-License-Identifier: Apache-2.0
"""Score: products summed over columns, stored by row, and each row's maximum (section 5.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import (
    CODE_BITS,
    LSB_BITS,
    QUERY_BITS,
    SCORE_BANKS,
    AttentionSpec,
)
from rtl.attention.layout import key_tag_layout, row_bits
from rtl.lib.pipeline import register
from rtl.lib.tree import add, larger, registered_tree
from rtl.lib.widths import index_bits


class Score(wiring.Component):
    """Forms G scores of a beat, keeps three rows of them, and their maxima.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    launch, tag : In(1), In(key_tag_layout)
        A key beat is launched in this cycle (v).
    products : In(array of G of arrays of D, signed(20 or more))
        At v + 2; low 20 bits.
    read, read_bank, read_row : In
        Sum reads a row of scores.
    scores, maximum : Out(array of G), Out
        The row a cycle later, and the maximum of the bank that is named now. Scores of lanes
        without a key are undefined.
    complete : Out(SCORE_BANKS)
        All scores of the bank's pass can be read.
    take : In(1)
        Sum begins with `read_bank`: it is not complete any more.
    wrote, read_stored : Out(1)
        A row of scores is written; the row before an LSB's addition is read.
    """

    launch: Signal
    tag: Any
    products: Any
    read: Signal
    read_bank: Signal
    read_row: Signal
    scores: Any
    maximum: Signal
    complete: Signal
    take: Signal
    wrote: Signal
    read_stored: Signal

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._score = signed(spec.score_bits)
        bank = index_bits(SCORE_BANKS)
        columns = data.ArrayLayout(signed(QUERY_BITS + CODE_BITS), spec.head_dim)
        super().__init__(
            {
                "launch": In(1),
                "tag": In(key_tag_layout(spec)),
                "products": In(data.ArrayLayout(columns, spec.lanes)),
                "read": In(1),
                "read_bank": In(bank),
                "read_row": In(row_bits(spec)),
                "scores": Out(data.ArrayLayout(self._score, spec.lanes)),
                "maximum": Out(self._score),
                "complete": Out(SCORE_BANKS),
                "take": In(1),
                "wrote": Out(1),
                "read_stored": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self._spec, range(self._spec.lanes)
        row = Signal(row_bits(spec))  # of the beat that is launched, once it is not the first
        here = Signal(row_bits(spec))
        m.d.comb += here.eq(Mux(self.tag.first, 0, row))
        with m.If(self.launch):
            m.d.sync += row.eq(here + 1)

        beat = data.StructLayout({"row": row_bits(spec), "tag": self.tag.shape()})
        now: Any = Signal(beat)
        m.d.comb += [now.row.eq(here), now.tag.eq(self.tag)]
        # Stage i shows the beat that was launched i cycles ago.
        read_stage = 1 + spec.score_tree
        stages: list[tuple[Any, Signal]] = [(now, self.launch)]
        for stage in range(1, read_stage + 3 + spec.lane_tree):
            there = Signal(name=f"there_{stage}")
            m.d.sync += there.eq(stages[-1][1])
            stages.append((register(m, 1, stages[-1][0], name=f"beat_{stage}"), there))
        (reading, reads), (adding, _), (writing, writes) = stages[read_stage : read_stage + 3]
        (ranked, ranks) = stages[-1]

        sums = [
            registered_tree(m, list(self.products[lane]), add, name=f"sum_{lane}") for lane in lanes
        ]
        new: Any = Signal(data.ArrayLayout(self._score, spec.lanes))
        stored = self._banks(m, reading, writing, writes, new)
        for lane in lanes:
            score = Signal(self._score, name=f"score_{lane}")
            m.d.comb += score.eq(
                Mux(adding.tag.plane, stored[lane] + sums[lane], sums[lane] << LSB_BITS)
            )
            m.d.comb += new[lane].eq(register(m, 1, score, name=f"new_{lane}"))

        lowest = Const(-(1 << (spec.score_bits - 1)), self._score)
        kept = [Mux(writing.tag.keep[lane], new[lane], lowest) for lane in lanes]
        highest = registered_tree(m, kept, larger, name="highest")
        maxima = [Signal(self._score, name=f"maximum_{bank}") for bank in range(SCORE_BANKS)]
        for bank, maximum in enumerate(maxima):
            at = ranks & (ranked.tag.bank == bank)
            with m.If(at & (ranked.tag.first | (highest > maximum))):
                m.d.sync += maximum.eq(highest)
            with m.If(at & ranked.tag.last):
                m.d.sync += self.complete[bank].eq(1)
            with m.Elif(self.take & (self.read_bank == bank)):
                m.d.sync += self.complete[bank].eq(0)
        m.d.comb += [
            self.maximum.eq(Array(maxima)[self.read_bank]),
            self.wrote.eq(writes),
            self.read_stored.eq(reads & reading.tag.plane),
        ]
        return m

    def _banks(self, m: Module, reading: Any, writing: Any, writes: Value, new: Any) -> Any:
        """Store `new`; return the row that was read for an LSB pass in the cycle before.

        A bank is at one stage at a time, so its one read port serves sum as well as LSB passes.
        """
        spec = self._spec
        layout = data.ArrayLayout(self._score, spec.lanes)
        found: list[Value] = []
        for bank in range(SCORE_BANKS):
            memory = Memory(shape=layout, depth=spec.rows, init=[])
            m.submodules[f"bank_{bank}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(writes & (writing.tag.bank == bank)),
                write.addr.eq(writing.row),
                write.data.eq(new),
                read.addr.eq(Mux(self.read & (self.read_bank == bank), self.read_row, reading.row)),
            ]
            found.append(Value.cast(read.data))
        summed = register(m, 1, self.read_bank, name="summed_bank")
        added = register(m, 1, reading.tag.bank, name="added_bank")
        m.d.comb += self.scores.eq(Array(found)[summed])
        stored: Any = Signal(layout)
        m.d.comb += stored.eq(Array(found)[added])
        return stored
