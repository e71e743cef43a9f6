# SPDX-License-Identifier: Apache-2.0
"""Arriving beats: where each is stored, and how many are usable."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.lib.counters import pending
from rtl.lib.widths import index_bits


def chunk_write(beat_bits: int, slots: int, lines: int) -> data.StructLayout:
    """Return the layout of a beat on its way into word `slot` of memory `line`."""
    return data.StructLayout(
        {"en": 1, "slot": index_bits(slots), "line": index_bits(lines), "beat": beat_bits}
    )


def beat_write(beat_bits: int, slots: int) -> data.StructLayout:
    """Return the layout of a beat on its way into word `slot`."""
    return data.StructLayout({"en": 1, "slot": index_bits(slots), "beat": beat_bits})


class ChunkBuffer(wiring.Component):
    """Sorts the beats of chunks into one memory per line, and counts complete chunks.

    Parameters
    ----------
    beat_bits, chunks, lines : int
        Width of a beat, chunks that are held at once, most beats in a chunk.

    Members
    -------
    open, open_lines : In(1), In
        A chunk is asked for, and how many beats it has; chunks arrive in that order.
    release : In(1)
        The oldest chunk is not needed any more.
    i : In(stream)
        Beats; ready is 1, the fetcher reserved the place.
    write : Out(chunk_write)
        The beat that arrives in this cycle.
    usable : Out(1)
        The oldest chunk is complete; from the cycle after its last beat.
    """

    open: Signal
    open_lines: Signal
    release: Signal
    i: stream.Interface
    write: Any
    usable: Signal

    def __init__(self, beat_bits: int, chunks: int, lines: int) -> None:
        self._chunks, self._lines = chunks, lines
        super().__init__(
            {
                "open": In(1),
                "open_lines": In(range(lines + 1)),
                "release": In(1),
                "i": In(stream.Signature(beat_bits, always_ready=True)),
                "write": Out(chunk_write(beat_bits, chunks, lines)),
                "usable": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lines = lines = Memory(
            shape=range(self._lines + 1), depth=self._chunks, init=[]
        )
        opened, expected = lines.write_port(), lines.read_port(domain="comb")
        open_slot = Signal(range(self._chunks))
        slot = Signal(range(self._chunks))
        line = Signal(range(self._lines))
        last = Signal()
        m.d.comb += [
            opened.en.eq(self.open),
            opened.addr.eq(open_slot),
            opened.data.eq(self.open_lines),
            expected.addr.eq(slot),
            last.eq(self.i.valid & (line + 1 == expected.data)),
            self.usable.eq(pending(m, "whole", self._chunks, last, self.release)),
            self.write.en.eq(self.i.valid),
            self.write.slot.eq(slot),
            self.write.line.eq(line),
            self.write.beat.eq(self.i.payload),
        ]
        with m.If(self.open):
            m.d.sync += open_slot.eq(open_slot + 1)
        with m.If(last):
            m.d.sync += [line.eq(0), slot.eq(slot + 1)]
        with m.Elif(self.i.valid):
            m.d.sync += line.eq(line + 1)
        return m


class BeatBuffer(wiring.Component):
    """Numbers the beats that arrive, and counts those that are usable.

    Parameters
    ----------
    beat_bits, beats, slots : int
        Width of a beat, beats reserved at once, words of the memory (a power of two, at least
        `beats`).

    Members
    -------
    release : In(1)
        The oldest beat is not needed any more.
    i : In(stream)
        Beats; ready is 1, the fetcher reserved the place.
    write : Out(beat_write)
        The beat that arrives in this cycle.
    usable : Out(1)
        A beat is there; from the cycle after its arrival.
    """

    release: Signal
    i: stream.Interface
    write: Any
    usable: Signal

    def __init__(self, beat_bits: int, beats: int, slots: int) -> None:
        self._beats, self._slots = beats, slots
        super().__init__(
            {
                "release": In(1),
                "i": In(stream.Signature(beat_bits, always_ready=True)),
                "write": Out(beat_write(beat_bits, slots)),
                "usable": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot = Signal(range(self._slots))
        m.d.comb += [
            self.usable.eq(pending(m, "held", self._beats, self.i.valid, self.release)),
            self.write.en.eq(self.i.valid),
            self.write.slot.eq(slot),
            self.write.beat.eq(self.i.payload),
        ]
        with m.If(self.i.valid):
            m.d.sync += slot.eq(slot + 1)
        return m
