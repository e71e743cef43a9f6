# SPDX-License-Identifier: Apache-2.0
"""Fetchers: the addresses of every operand in the order in which the array uses it (section 5.1).

Each has its own loop counters and asks as long as credit is left. Addresses come from saved row
pointers and additions, never from a product.
"""

from __future__ import annotations

from typing import Literal

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import tally
from rtl.w4a8.layout import PARAMETER_BEATS, WS_A_BEATS
from rtl.w4a8.loops import TileLoop, k_bits, tile_sizes


def _words(*names: str) -> data.StructLayout:
    return data.StructLayout(dict.fromkeys(names, 32))


class RowFetcher(wiring.Component):
    """Requests the beats of a or w: tile, chunk (ws: k-tile), row of the tile.

    Parameters
    ----------
    spec : W4A8Spec
    operand : {"a", "w"}

    Members
    -------
    start : In(1)
        A job begins; `new` is sampled, the first request shows in the next cycle.
    new : In(m, n, k, base)
        Fields of the job that begins.
    job : In(n, k, base, stride)
        Fields of the running job.
    release : In(1)
        One unit of credit (a chunk; ws a: a beat) comes back.
    open : Out(1)
        A unit is reserved in this cycle.
    open_rows : Out
        Beats of that unit if it is a chunk.
    o : Out(stream(32))
        Word addresses.
    """

    start: Signal
    new: data.View
    job: data.View
    release: Signal
    open: Signal
    open_rows: Signal
    o: stream.Interface

    def __init__(self, spec: W4A8Spec, operand: Literal["a", "w"]) -> None:
        self._spec = spec
        self._by_m = operand == "a"
        m_tile, n_tile = tile_sizes(spec)
        self._lines = m_tile if operand == "a" else n_tile
        self._whole = not (operand == "a" and spec.dataflow == "ws")
        self._depth = spec.prefetch_chunks if self._whole else WS_A_BEATS
        chunk_bits = spec.chunk * (8 if operand == "a" else 4)
        self._chunk_words = max(1, chunk_bits // 32)
        self._chunks_per_word = max(1, 32 // chunk_bits)
        super().__init__(
            {
                "start": In(1),
                "new": In(_words("m", "n", "k", "base")),
                "job": In(_words("n", "k", "base", "stride")),
                "release": In(1),
                "open": Out(1),
                "open_rows": Out(range(self._lines + 1)),
                "o": Out(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new, job = self.new, self.job
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(self._spec))
        rows = tiles.rows if self._by_m else tiles.cols
        chunks = Blocks(self._spec.chunk, k_bits(self._spec), "k")

        active = Signal()
        row = Signal(range(self._lines))
        first_row = Signal()
        go, last_row, last_beat = Signal(), Signal(), Signal()
        reserved = tally(m, "reserved", self._depth, self.open, self.release)
        needs_credit = first_row if self._whole else Const(1)
        m.d.comb += [
            go.eq(self.o.valid & self.o.ready),
            last_row.eq(row + 1 == rows),
            last_beat.eq(last_row & ~chunks.more),
            self.o.valid.eq(active & ~(needs_credit & (reserved == self._depth))),
            self.open.eq(go & needs_credit),
            self.open_rows.eq(rows),
            tiles.start.eq(self.start),
            tiles.m.eq(new.m),
            tiles.n.eq(new.n),
            tiles.n_again.eq(job.n),
            tiles.next.eq(go & last_beat),
        ]
        with m.If(self.start):
            m.d.sync += [*chunks.load(new.k), active.eq(1), row.eq(0), first_row.eq(1)]
        with m.Elif(go):
            m.d.sync += [row.eq(Mux(last_row, 0, row + 1)), first_row.eq(last_row)]
            with m.If(last_beat):
                m.d.sync += [*chunks.load(job.k), active.eq(tiles.m_more | tiles.n_more)]
            with m.Elif(last_row):
                m.d.sync += chunks.step()
        self._addresses(m, go, last_row, chunks.more, tiles)
        return m

    def _addresses(
        self, m: Module, go: Value, last_row: Value, more: Value, tiles: TileLoop
    ) -> None:
        """Row by row along `stride`, then the next chunk of the tile, then the next tile."""
        addr, chunk_addr, tile_addr, saved = Signal(32), Signal(32), Signal(32), Signal(32)
        below, next_block, next_tile = Signal(32), Signal(32), Signal(32)
        first_chunk = Signal()
        m.d.comb += [
            self.o.payload.eq(addr),
            below.eq(addr + self.job.stride),
            # The row below a tile's first chunk is where the next block of rows begins.
            next_block.eq(Mux(first_chunk, below, saved)),
        ]
        if self._by_m:
            m.d.comb += next_tile.eq(Mux(tiles.n_more, tile_addr, next_block))
        else:
            m.d.comb += next_tile.eq(Mux(tiles.n_more, next_block, self.job.base))

        next_chunk = Signal(32)
        if self._chunks_per_word == 1:
            m.d.comb += next_chunk.eq(chunk_addr + self._chunk_words)
        else:
            part = Signal(range(self._chunks_per_word))
            wrap = part == self._chunks_per_word - 1
            m.d.comb += next_chunk.eq(chunk_addr + wrap)
            with m.If(self.start | (go & last_row & ~more)):
                m.d.sync += part.eq(0)
            with m.Elif(go & last_row):
                m.d.sync += part.eq(part + 1)

        with m.If(self.start):
            base = self.new.base
            m.d.sync += [addr.eq(base), chunk_addr.eq(base), tile_addr.eq(base), first_chunk.eq(1)]
        with m.Elif(go):
            m.d.sync += addr.eq(below)
            with m.If(last_row):
                with m.If(first_chunk):
                    m.d.sync += saved.eq(below)
                with m.If(more):
                    m.d.sync += [addr.eq(next_chunk), chunk_addr.eq(next_chunk), first_chunk.eq(0)]
                with m.Else():
                    m.d.sync += [addr.eq(next_tile), chunk_addr.eq(next_tile), first_chunk.eq(1)]
                    m.d.sync += tile_addr.eq(next_tile)


class ColumnFetcher(wiring.Component):
    """Requests the column parameters e: one beat per tile.

    Members
    -------
    start, new (m, n, base), job (n, base), release, o
        As `RowFetcher`, with element addresses.
    """

    start: Signal
    new: data.View
    job: data.View
    release: Signal
    o: stream.Interface

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "new": In(_words("m", "n", "base")),
                "job": In(_words("n", "base")),
                "release": In(1),
                "o": Out(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(self._spec))
        go = _credit(m, self.o, self.start, self.release, tiles, Const(1))
        m.d.comb += [
            tiles.m.eq(self.new.m),
            tiles.n.eq(self.new.n),
            tiles.n_again.eq(self.job.n),
        ]
        addr = Signal(32)
        m.d.comb += self.o.payload.eq(addr)
        with m.If(self.start):
            m.d.sync += addr.eq(self.new.base)
        with m.Elif(go):
            m.d.sync += addr.eq(Mux(tiles.n_more, addr + self._spec.array_cols, self.job.base))
        return m


class RowScaleFetcher(wiring.Component):
    """Requests the row scales r: one beat per tile (os), one per R rows of a tile (ws).

    Members
    -------
    start, new (m, n, base), job (n), release, o
        As `RowFetcher`, with element addresses.
    """

    start: Signal
    new: data.View
    job: data.View
    release: Signal
    o: stream.Interface

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "new": In(_words("m", "n", "base")),
                "job": In(_words("n")),
                "release": In(1),
                "o": Out(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R = self._spec.array_rows
        m_tile, n_tile = tile_sizes(self._spec)
        m.submodules.tiles = tiles = TileLoop(m_tile, n_tile)
        done = Signal()  # rows of this tile that earlier beats carried
        rows_done = Signal(range(m_tile + R))
        last = rows_done + R >= tiles.rows if m_tile > R else Const(1)
        m.d.comb += done.eq(last)
        go = _credit(m, self.o, self.start, self.release, tiles, done)
        m.d.comb += [
            tiles.m.eq(self.new.m),
            tiles.n.eq(self.new.n),
            tiles.n_again.eq(self.job.n),
        ]
        addr, tile_addr = Signal(32), Signal(32)
        next_tile = Signal(32)
        m.d.comb += [
            self.o.payload.eq(addr),
            next_tile.eq(Mux(tiles.n_more, tile_addr, tile_addr + m_tile)),
        ]
        with m.If(self.start):
            m.d.sync += [addr.eq(self.new.base), tile_addr.eq(self.new.base), rows_done.eq(0)]
        with m.Elif(go & last):
            m.d.sync += [addr.eq(next_tile), tile_addr.eq(next_tile), rows_done.eq(0)]
        with m.Elif(go):
            m.d.sync += [addr.eq(addr + R), rows_done.eq(rows_done + R)]
        return m


class ScaleFetcher(wiring.Component):
    """Requests the group scales s.

    os: one beat per group of each tile. ws: one per group of each pass, the group that a k-tile
    begins in included, so a beat may be asked for again by the next pass.

    Members
    -------
    start, new (m, n, k, group, base), job (n, k, group, base, stride), release, o
        As `RowFetcher`, with element addresses; group is at most k.
    """

    start: Signal
    new: data.View
    job: data.View
    release: Signal
    o: stream.Interface

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "new": In(_words("m", "n", "k", "group", "base")),
                "job": In(_words("n", "k", "group", "base", "stride")),
                "release": In(1),
                "o": Out(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new, job = self.new, self.job
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(self._spec))
        width = k_bits(self._spec)
        k_left, group_left = Signal(width), Signal(width)
        last, group_ends = Signal(), Signal()
        R = self._spec.array_rows
        tile_left = Signal(range(R + 1))  # ws: codes of the k-tile not passed yet
        if self._spec.dataflow == "os":
            m.d.comb += [last.eq(k_left <= group_left), group_ends.eq(1)]
            ahead: Value = group_left
        else:
            ahead = Signal(width)
            m.d.comb += [
                group_ends.eq(group_left <= tile_left),
                ahead.eq(Mux(group_ends, group_left, tile_left)),
                last.eq((k_left <= group_left) & (k_left <= tile_left)),
            ]
        go = _credit(m, self.o, self.start, self.release, tiles, last)
        m.d.comb += [
            tiles.m.eq(new.m),
            tiles.n.eq(new.n),
            tiles.n_again.eq(job.n),
        ]
        addr, tile_addr, next_tile = Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            self.o.payload.eq(addr),
            next_tile.eq(Mux(tiles.n_more, tile_addr + self._spec.array_cols, job.base)),
        ]
        with m.If(self.start):
            m.d.sync += [addr.eq(new.base), tile_addr.eq(new.base)]
            m.d.sync += [k_left.eq(new.k), group_left.eq(new.group)]
        with m.Elif(go & last):
            m.d.sync += [addr.eq(next_tile), tile_addr.eq(next_tile)]
            m.d.sync += [k_left.eq(job.k), group_left.eq(job.group)]
        with m.Elif(go):
            m.d.sync += k_left.eq(k_left - ahead)
            with m.If(group_ends):
                m.d.sync += [addr.eq(addr + job.stride), group_left.eq(job.group)]
            with m.Else():
                m.d.sync += group_left.eq(group_left - ahead)
        if self._spec.dataflow == "ws":
            with m.If(self.start | (go & (last | (tile_left <= group_left)))):
                m.d.sync += tile_left.eq(R)
            with m.Elif(go):
                m.d.sync += tile_left.eq(tile_left - ahead)
        return m


def _credit(
    m: Module, o: stream.Interface, start: Value, release: Value, tiles: TileLoop, last: Value
) -> Signal:
    """Drive `o.valid` while beats and credit are left; return the strobe of a transfer."""
    active, go = Signal(), Signal()
    reserved = tally(m, "reserved", PARAMETER_BEATS, go, release)
    m.d.comb += [
        go.eq(o.valid & o.ready),
        o.valid.eq(active & (reserved != PARAMETER_BEATS)),
        tiles.start.eq(start),
        tiles.next.eq(go & last),
    ]
    with m.If(start):
        m.d.sync += active.eq(1)
    with m.Elif(go & last):
        m.d.sync += active.eq(tiles.m_more | tiles.n_more)
    return go
