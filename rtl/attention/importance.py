# SPDX-License-Identifier: Apache-2.0
"""Accumulated importance of tokens and of heads (section 5.4, and H of section 1)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import IMPORTANCE_BITS, AttentionSpec
from rtl.attention.layout import (
    head_rows,
    ids_layout,
    importance_layout,
    lane_bits,
    output_beat_layout,
    probabilities_layout,
    row_bits,
)
from rtl.lib.pipeline import register
from rtl.lib.tree import add, registered_tree
from rtl.lib.widths import index_bits


class TokenImportance(wiring.Component):
    """Adds probabilities to a copy of all tokens' importance in every lane.

    A copy lies in rows of G words, so that a row of all copies can be read and summed. A lane's
    beats are at least G tokens apart, so a word is written before its row is read again.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    add : In(lanes)
        Lanes that add in this cycle (c): their words are read.
    ids : In(ids_layout)
        Tokens of the lanes, at c.
    probability : In(array of lanes, 22)
        At c + 1; the sums are written in c + 3.
    clear, clear_row : In
        A row of all copies becomes 0; nothing adds.
    scan_row : In
        Row that is read where no lane adds.
    scan : Out(importance_layout)
        Sum of the copies of that row, 1 + lane_tree cycles later.
    """

    add: Signal
    ids: Any
    probability: Any
    clear: Signal
    clear_row: Signal
    scan_row: Signal
    scan: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "add": In(spec.lanes),
                "ids": In(ids_layout(spec)),
                "probability": In(probabilities_layout(spec)),
                "clear": In(1),
                "clear_row": In(row_bits(spec)),
                "scan_row": In(row_bits(spec)),
                "scan": Out(importance_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        rows = [self._copy(m, lane) for lane in range(lanes)]
        for word in range(lanes):
            total = registered_tree(m, [row[word] for row in rows], add, name=f"scan_{word}")
            m.d.comb += self.scan[word].eq(total)
        assert spec.lane_tree == max(1, -(-lane_bits(spec) // 2))
        return m

    def _copy(self, m: Module, lane: int) -> Any:
        """Return the row of a lane's copy that was read a cycle ago."""
        spec, below = self._spec, lane_bits(self._spec)
        layout = importance_layout(spec)
        memory = Memory(shape=layout, depth=spec.rows, init=[])
        m.submodules[f"copy_{lane}"] = memory
        write, read = memory.write_port(granularity=1), memory.read_port()
        row = data.View(layout, Value.cast(read.data))
        token = self.ids[lane]
        place = register(m, 1, token[:below], name=f"place_{lane}")
        ids = register(m, 1, token, name=f"id_{lane}", stages=3)
        adds = register(m, 1, self.add[lane], name=f"adds_{lane}", stages=3, reset=True)
        word = Array(row[i] for i in range(spec.lanes))[place]
        word = register(m, 1, word, name=f"word_{lane}")
        probability = register(m, 1, self.probability[lane], name=f"probability_{lane}")
        total = Signal(IMPORTANCE_BITS, name=f"total_{lane}", reset_less=True)
        m.d.sync += total.eq(word + probability)
        here = Cat(ids[:below] == i for i in range(spec.lanes))
        m.d.comb += [
            read.addr.eq(Mux(self.add[lane], token[below:], self.scan_row)),
            write.addr.eq(Mux(self.clear, self.clear_row, ids[below:])),
            write.en.eq(Mux(self.clear, ~0, here & adds.replicate(spec.lanes))),
            Value.cast(write.data).eq(Mux(self.clear, 0, total.replicate(spec.lanes))),
        ]
        return row


class HeadImportance(wiring.Component):
    """Adds the magnitudes of outputs to their head's importance.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    clear : In(1)
        All heads start from 0, beats that left before included; no row is in the output stage.
    busy, head : In(1), In
        A row is in the output stage; three cycles later its first beat may leave.
    transfer, beat : In(1), In(output_beat_layout)
        A beat of outputs leaves in this cycle (c); it counts for reads from c + 3 on.
    scan_row : In
        Row of G heads to read, while `busy` is 0.
    scan : Out(importance_layout)
        A cycle later.
    """

    clear: Signal
    busy: Signal
    head: Signal
    transfer: Signal
    beat: Any
    scan_row: Signal
    scan: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "clear": In(1),
                "busy": In(1),
                "head": In(index_bits(spec.max_heads)),
                "transfer": In(1),
                "beat": In(output_beat_layout(spec)),
                "scan_row": In(index_bits(head_rows(spec))),
                "scan": Out(importance_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, below, depth = self._spec, lane_bits(self._spec), head_rows(self._spec)
        layout = importance_layout(spec)
        m.submodules.heads = memory = Memory(shape=layout, depth=depth, init=[])
        write, read = memory.write_port(granularity=1), memory.read_port()
        stored = data.View(layout, Value.cast(read.data))

        # c + 1: magnitudes; c + 2: their sum; in that cycle the head's new importance is written.
        magnitudes: list[Value] = []
        for lane in range(spec.out_lanes):
            y = self.beat.data[lane].as_signed()
            magnitude = Signal(len(y), name=f"magnitude_{lane}")
            m.d.comb += magnitude.eq(Mux(y < 0, -y, y))
            magnitudes.append(register(m, 1, magnitude, name=f"magnitude_reg_{lane}"))
        while len(magnitudes) > 1:
            magnitudes = [a + b for a, b in zip(magnitudes[::2], magnitudes[1::2], strict=True)]
        beat_sum = register(m, 1, magnitudes[0], name="beat_sum")
        # The row may end with this beat, and `head` change.
        head = register(m, 1, self.head, name="head_reg", stages=2)
        # A reset may follow right behind the last beat, and clears what is on its way.
        arrives = register(m, 1, self.transfer, name="arrives", reset=True)
        arrived = register(m, 1, arrives & ~self.clear, name="arrived", reset=True)
        ended = register(m, 1, self.beat.last, name="ended", stages=2)

        # A flag for every head in place of clearing the memory.
        known = Signal(depth * spec.lanes)
        row = Signal.like(self.scan_row)
        known_row = register(m, 1, known.word_select(row, spec.lanes), name="known_row")
        with m.If(self.clear):
            m.d.sync += known.eq(0)
        with m.Elif(arrived):
            m.d.sync += known.bit_select(head, 1).eq(1)

        # Until a row's first beat is there the head's importance so far is read again and again.
        words = [Mux(known_row[i], stored[i], 0) for i in range(spec.lanes)]
        started = Signal()
        current, total = Signal(IMPORTANCE_BITS), Signal(IMPORTANCE_BITS)
        with m.If(arrived):
            m.d.sync += [current.eq(total), started.eq(~ended)]
        with m.Elif(~started):
            m.d.sync += current.eq(Array(words)[self.head[:below]])
        with m.If(self.clear):
            m.d.sync += started.eq(0)
        here = Cat(head[:below] == i for i in range(spec.lanes))
        m.d.comb += [
            total.eq(current + beat_sum),
            row.eq(Mux(self.busy, self.head[below:], self.scan_row)),
            read.addr.eq(row),
            write.addr.eq(head[below:]),
            write.en.eq(here & arrived.replicate(spec.lanes)),
            Value.cast(write.data).eq(total.replicate(spec.lanes)),
            *(self.scan[i].eq(words[i]) for i in range(spec.lanes)),
        ]
        return m
