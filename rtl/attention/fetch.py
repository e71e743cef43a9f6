# SPDX-License-Identifier: Apache-2.0
"""Fetch: the requests for a row's keys, MSBs first and, for a redo, LSBs (section 5.1)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import SCORE_BANKS, AttentionSpec
from rtl.attention.layout import (
    count_bits,
    ids_layout,
    key_request_layout,
    key_tag_layout,
    row_bits,
)
from rtl.lib.counters import tally
from rtl.lib.lanes import lanes_below
from rtl.lib.widths import index_bits


def fetch_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what fetch needs to know of a row."""
    return data.StructLayout(
        {
            "n": count_bits(spec),
            "base": 32,
            "plane": 1,
            "msb_bits": 4,
            "bank": index_bits(SCORE_BANKS),
        }
    )


class Fetch(wiring.Component):
    """Turns list positions 0..n-1 into key requests, as long as a reservation is left.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    start, row : In(1), In(fetch_layout)
        A row begins in this cycle (s); only where `idle` is 1. The first request shows in s + 3.
    idle : Out(1)
    launch : In(1)
        A beat that was asked for is launched: its place is free.
    waiting : Out(1)
        Beats were asked for and are not launched.
    list_en, list_row, list_ids : Out, Out, In
        Read port of the token list.
    o : Out(stream(key_request_layout))
    tag : Out(key_tag_layout)
        What the beat of this request is; holds while the request does.
    """

    start: Signal
    row: Any
    idle: Signal
    launch: Signal
    waiting: Signal
    list_en: Signal
    list_row: Signal
    list_ids: Any
    o: stream.Interface
    tag: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "row": In(fetch_layout(spec)),
                "idle": Out(1),
                "launch": In(1),
                "waiting": Out(1),
                "list_en": Out(1),
                "list_row": Out(row_bits(spec)),
                "list_ids": In(ids_layout(spec)),
                "o": Out(stream.Signature(key_request_layout(spec))),
                "tag": Out(key_tag_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        row: Any = Signal(fetch_layout(spec))
        go, advance, last = Signal(), Signal(), Signal()
        reserved = tally(m, "reserved", spec.fetch_beats, go, self.launch)
        shown = Signal()  # the address register holds a request
        m.d.comb += [
            self.o.valid.eq(shown & ~reserved[-1]),  # fetch_beats is a power of two
            go.eq(self.o.valid & self.o.ready),
            self.waiting.eq(reserved.any()),
            advance.eq(~shown | go),
            last.eq(go & self.tag.last),
        ]

        # Three steps, of which all move or none: list row read, ids there, addresses shown.
        left, left_there = Signal(count_bits(spec)), Signal(count_bits(spec))
        number = Signal(row_bits(spec))
        reads, there, first_there = Signal(), Signal(), Signal()
        first = Signal()
        more = left > lanes
        m.d.comb += [self.list_row.eq(number), self.list_en.eq(advance)]
        with m.If(self.start):
            m.d.sync += [row.eq(self.row), left.eq(self.row.n), number.eq(0)]
            m.d.sync += [reads.eq(1), first.eq(1)]
        with m.Elif(advance & reads):
            m.d.sync += [left.eq(left - lanes), number.eq(number + 1), reads.eq(more), first.eq(0)]
        busy = Signal()
        m.d.comb += self.idle.eq(~busy)
        with m.If(self.start):
            m.d.sync += busy.eq(1)
        with m.Elif(last):
            m.d.sync += busy.eq(0)

        keep = lanes_below(left_there, lanes)
        with m.If(advance):
            m.d.sync += [there.eq(reads), left_there.eq(left), first_there.eq(first)]
            m.d.sync += [
                shown.eq(there),
                self.o.payload.keep.eq(keep),
                self.o.payload.plane.eq(row.plane),
                *(
                    self.o.payload.addr[lane].eq(Mux(keep[lane], row.base + self.list_ids[lane], 0))
                    for lane in range(lanes)
                ),
                self.tag.first.eq(first_there),
                self.tag.last.eq(left_there <= lanes),
            ]
        m.d.comb += [
            self.tag.keep.eq(self.o.payload.keep),
            self.tag.plane.eq(self.o.payload.plane),
            self.tag.bank.eq(row.bank),
            self.tag.msb_bits.eq(row.msb_bits),
        ]
        return m
