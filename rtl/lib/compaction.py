# SPDX-License-Identifier: Apache-2.0
"""The compaction buffer: concentrated rows in, full beats out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


def beat_layout(lanes: int, bits: int) -> data.StructLayout:
    """Return a beat: `lanes` items of `bits` bits, a keep bit each, and whether it is the last."""
    return data.StructLayout({"items": data.ArrayLayout(bits, lanes), "keep": lanes, "last": 1})


class CompactionBuffer(wiring.Component):
    """Gathers the kept lanes of many rows until a beat is full, in order.

    The rows come from a zero eliminator, whose lanes stand where the beat wants them: a lane is
    either the beat's that is being filled or the next one's, and both are one register per lane.

    Parameters
    ----------
    lanes, bits : int
        Lanes of a row and width of a lane.

    Members
    -------
    en : Out(1)
        The output register is free or becomes free: everything before it may advance.
    filled, wraps, full, i : In
        A concentrated row (`rtl.lib.concentrate.ZeroEliminator`), taken where `en` is 1.
    end : In(1)
        This row completes the items: what has been gathered leaves, as a beat of none if need be.
        The next cycle with `en` must bring no row if this one both completes a beat and leaves
        items; nothing is held afterwards.
    o : Out(stream(beat_layout))
        Beats; all but the one that is marked `last` are full, `keep` is a run from lane 0, and
        lanes that are not kept are 0.
    """

    en: Signal
    filled: Signal
    wraps: Signal
    full: Signal
    i: Any
    end: Signal
    o: stream.Interface

    def __init__(self, lanes: int, bits: int) -> None:
        self._lanes, self._bits = lanes, bits
        # The registers are named here so that proofs can speak of them.
        self._held: Any = Signal(data.ArrayLayout(bits, lanes))  # 0 where nothing is held
        self._holds = Signal(lanes)
        self._rest = Signal()  # the last items are held and leave next
        super().__init__(
            {
                "en": Out(1),
                "filled": In(lanes),
                "wraps": In(lanes),
                "full": In(1),
                "i": In(data.ArrayLayout(bits, lanes)),
                "end": In(1),
                "o": Out(stream.Signature(beat_layout(lanes, bits))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, beat = self._lanes, self.o.payload
        held, holds, rest = self._held, self._holds, self._rest
        present, later = Signal(lanes), Signal(lanes)
        emit, last = Signal(), Signal()
        m.d.comb += [
            self.en.eq(~self.o.valid | self.o.ready),
            present.eq(self.filled & ~self.wraps),
            later.eq(self.filled & self.wraps),
            emit.eq(self.full | self.end | rest),
            last.eq(rest | (self.end & ~later.any())),
        ]
        with m.If(self.en):
            m.d.sync += [
                self.o.valid.eq(emit),
                beat.last.eq(last),
                beat.keep.eq(holds | present),
                rest.eq(self.end & later.any()),
                holds.eq(Mux(emit, later, holds | present)),
            ]
            for lane in range(lanes):
                merged = held[lane] | _where(present[lane], self.i[lane])
                wrapped = _where(later[lane], self.i[lane])
                m.d.sync += [
                    beat.items[lane].eq(merged),
                    held[lane].eq(Mux(emit, wrapped, merged)),
                ]
        return m


def _where(condition: Value, value: Value) -> Value:
    """Return `value` where the condition holds, and 0 elsewhere."""
    return value & Cat(condition).replicate(len(value))
