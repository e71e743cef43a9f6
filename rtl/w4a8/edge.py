# SPDX-License-Identifier: Apache-2.0
"""Edges of the array: operand memories, one per row and column pair, read where the wave passes.

A wave's control hops from row to row and from pair to pair, one register each, and every memory is
read when the control arrives. So skew costs a few control bits in place of a triangle of data
registers. A word whose credit came back at the launch is still there when a late row reads it: the
beat that replaces it is asked for one cycle later at the earliest, arrives after that (a memory
answers at least one cycle after the request), and in row order.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.widths import index_bits
from rtl.w4a8.layout import (
    a_choices,
    a_slots,
    column_layout,
    flags_layout,
    pair_bits,
    pair_cols,
    row_layout,
    scale_slots,
    w_codes,
)
from rtl.w4a8.requant import Requant


def async_memory(
    m: Module, name: str, depth: int, write: tuple[Value, Value, Value], read: Any
) -> Value:
    """Return the word at address `read` in the same cycle; `write` is (enable, address, word)."""
    en, addr, word = write
    memory = Memory(shape=len(word), depth=depth, init=[])
    m.submodules[name] = memory
    write_port = memory.write_port()
    read_port = memory.read_port(domain="comb")
    m.d.comb += [
        write_port.en.eq(en),
        write_port.addr.eq(addr),
        write_port.data.eq(word),
        read_port.addr.eq(read),
    ]
    return Value.cast(read_port.data)


def _select(word: Value, index: Any, width: int) -> Value:
    return word.word_select(index, width) if len(word) > width else word


class RowEdge(wiring.Component):
    """Activations of one array row.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    write : In(1)
        Stores `word` at `write_slot`; it can be read from the next cycle.
    word : In
        A beat (os), or this row's byte of it (ws; R < 4: of every k-tile in the beat).
    wave : In(row_layout)
        Control of the wave that enters the row in this cycle.
    wave_out : Out(row_layout)
        `wave` one cycle later, for the row below.
    load : In(1), ws only
        The row's load chain shifts; shows in `flags` one cycle later.
    a, flags : Out(8), Out(flags_layout)
        Activation and flags, one cycle after `wave`.
    """

    write: Signal
    write_slot: Signal
    word: Signal
    wave: Any
    wave_out: Any
    load: Signal
    a: Signal
    flags: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        ports = {
            "write": In(1),
            "write_slot": In(index_bits(a_slots(spec))),
            "word": In(8 * a_choices(spec)),
            "wave": In(row_layout(spec)),
            "wave_out": Out(row_layout(spec)),
            "a": Out(8),
            "flags": Out(flags_layout(spec)),
        }
        if spec.dataflow == "ws":
            ports["load"] = In(1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wave, flags = self.wave, self.flags
        stored = (self.write, self.write_slot, self.word)
        word = async_memory(m, "mem", a_slots(self._spec), stored, wave.slot)
        m.d.sync += [
            self.a.eq(_select(word, wave.index, 8)),
            self.wave_out.eq(wave),
            flags.first.eq(wave.first),
        ]
        if self._spec.dataflow == "os":
            m.d.sync += [flags.valid.eq(wave.valid), flags.last.eq(wave.last)]
        else:
            m.d.sync += flags.load.eq(self.load)
        return m


class ColumnEdge(wiring.Component):
    """Weights of one column pair, unpacked from the words as stored (group: requantised).

    Parameters
    ----------
    spec : W4A8Spec
    cols : int
        Columns of the pair, 1 or 2.

    Members
    -------
    write : In(cols)
        Stores `beat` in these columns' memories at `write_slot`.
    beat : In
        A beat of weights: nibbles, low first.
    scale_write, scale_write_slot, scale : In, group only
        Stores the pair's scales.
    wave : In(column_layout)
        Where the weights of the wave (os) or load step (ws) lie.
    wave_out : Out(column_layout)
        `wave` one cycle later, for the pair to the right.
    w : Out(pair_bits)
        Weights, 1 + Q cycles after `wave`.
    """

    write: Signal
    write_slot: Signal
    beat: Signal
    scale_write: Signal
    scale_write_slot: Signal
    scale: Signal
    wave: Any
    wave_out: Any
    w: Signal

    def __init__(self, spec: W4A8Spec, cols: int) -> None:
        self._spec, self._cols = spec, cols
        self._group = spec.scales == "group"
        ports = {
            "write": In(cols),
            "write_slot": In(index_bits(spec.prefetch_chunks)),
            "beat": In(4 * w_codes(spec)),
            "wave": In(column_layout(spec)),
            "wave_out": Out(column_layout(spec)),
            "w": Out(pair_bits(spec, cols)),
        }
        if self._group:
            ports |= {
                "scale_write": In(1),
                "scale_write_slot": In(index_bits(scale_slots(spec))),
                "scale": In(16 * cols),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, wave = self._spec, self.wave
        offset_binary = spec.weight_encoding == "offset"
        m.d.sync += self.wave_out.eq(wave)
        codes: list[Signal] = []
        for col in range(self._cols):
            stored = (self.write[col], self.write_slot, self.beat)
            word = async_memory(m, f"mem_{col}", spec.prefetch_chunks, stored, wave.slot)
            code = Signal(4, name=f"code_{col}", reset_less=True)
            chosen = _select(word, wave.index, 4)
            if spec.dataflow == "ws":
                chosen = Mux(wave.zero, 8 if offset_binary else 0, chosen)
            m.d.sync += code.eq(chosen)
            codes.append(code)
        if self._group:
            self._requantise(m, codes)
        else:
            self._pack(m, [code ^ (8 if offset_binary else 0) for code in codes])
        return m

    def _requantise(self, m: Module, codes: list[Signal]) -> None:
        stored = (self.scale_write, self.scale_write_slot, self.scale)
        word = async_memory(m, "scales", scale_slots(self._spec), stored, self.wave.scale_slot)
        scale = Signal(16 * self._cols, reset_less=True)
        with m.If(self.wave.pop):
            m.d.sync += scale.eq(word)
        for col, code in enumerate(codes):
            requant = Requant(self._spec)
            m.submodules[f"requant_{col}"] = requant
            m.d.comb += [
                requant.code.eq(code),
                requant.scale.eq(scale.word_select(col, 16)),
                self.w.word_select(col, 8).eq(requant.out),
            ]

    def _pack(self, m: Module, weights: list[Value]) -> None:
        """w1 * 2^12 + w2 = (w1 - [w2 < 0]) * 2^12 + (w2 mod 2^12)."""
        low = weights[0]
        if self._cols == 1:
            m.d.comb += self.w.eq(low)
            return
        high = Signal(5)
        m.d.comb += [
            high.eq(weights[1].as_signed() - low[-1]),
            self.w.eq(Cat(low, high)),
        ]


def a_bytes(spec: W4A8Spec, beat: Value, row: int) -> Value:
    """Return what a row of a weight-stationary array keeps of a beat: code R-1-r of each k-tile."""
    R = spec.array_rows
    return Cat(beat.word_select(part * R + R - 1 - row, 8) for part in range(a_choices(spec)))


def chain_columns(
    m: Module, spec: W4A8Spec, wave: Any, w_write: Any, s_write: Any | None
) -> list[ColumnEdge]:
    """Return the column edges, submodules of `m`, with `wave` hopping from each to the next."""
    edges: list[ColumnEdge] = []
    for pair in range(spec.pairs):
        cols = pair_cols(spec, pair)
        edge = ColumnEdge(spec, cols)
        m.submodules[f"column_{pair}"] = edge
        m.d.comb += [
            edge.write.eq(
                Cat(w_write.en & (w_write.line == 2 * pair + col) for col in range(cols))
            ),
            edge.write_slot.eq(w_write.slot),
            edge.beat.eq(w_write.beat),
            edge.wave.eq(edges[-1].wave_out if edges else wave),
        ]
        if s_write is not None:
            m.d.comb += [
                edge.scale_write.eq(s_write.en),
                edge.scale_write_slot.eq(s_write.slot),
                edge.scale.eq(s_write.beat[32 * pair : 32 * pair + 16 * cols]),
            ]
        edges.append(edge)
    return edges
