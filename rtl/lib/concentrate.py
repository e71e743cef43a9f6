# SPDX-License-Identifier: Apache-2.0
"""Routing of kept lanes to consecutive lanes, in order, and the zero eliminator made of it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.pipeline import register
from rtl.lib.prefix import PrefixSum
from rtl.lib.widths import index_bits


class Concentrator(wiring.Component):
    """Moves kept lanes to destinations that are consecutive modulo the lanes; combinational.

    A butterfly: stage b exchanges lanes p and p XOR 2^b, so that a kept lane's place agrees with
    bit b of its destination from then on. After stage b two kept lanes could meet only if they came
    from one aligned block of 2^(b+1) lanes with destinations equal modulo 2^(b+1); but the
    destinations in such a block are consecutive and at most 2^(b+1) in number. So compaction and
    rotation together take log2(lanes) levels of two-way multiplexers, where a zero eliminator with
    a rotator behind it takes twice as many (SpAtten, section IV-C).

    Parameters
    ----------
    lanes : int
        A power of two.
    bits : int
        Width of a lane's data.

    Members
    -------
    keep : In(lanes)
        Lanes that are routed.
    to : In(array of lanes, range(lanes))
        Destinations: for the r-th kept lane (first + r) mod lanes, with any one `first`.
    i : In(array of lanes, bits)
    filled : Out(lanes)
        Lanes to which a kept lane was routed.
    o : Out(array of lanes, bits)
        Undefined in lanes that are not filled.
    """

    keep: Signal
    to: Any
    i: Any
    filled: Signal
    o: Any

    def __init__(self, lanes: int, bits: int) -> None:
        self._lanes, self._bits = lanes, bits
        super().__init__(
            {
                "keep": In(lanes),
                "to": In(data.ArrayLayout(index_bits(lanes), lanes)),
                "i": In(data.ArrayLayout(bits, lanes)),
                "filled": Out(lanes),
                "o": Out(data.ArrayLayout(bits, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._lanes
        # Of a destination only the bits that later stages read travel along.
        keep: list[Value] = [self.keep[lane] for lane in range(lanes)]
        to: list[Value] = [self.to[lane] for lane in range(lanes)]
        item: list[Value] = [self.i[lane] for lane in range(lanes)]
        for stage in range(lanes.bit_length() - 1):
            size = 1 << stage
            stays = [keep[p] & (to[p][0] == bool(p & size)) for p in range(lanes)]
            comes = [keep[p ^ size] & (to[p ^ size][0] == bool(p & size)) for p in range(lanes)]
            next_keep: list[Value] = []
            next_to: list[Value] = []
            next_item: list[Value] = []
            for p in range(lanes):
                crosses = Signal(name=f"crosses_{stage}_{p}")
                kept = Signal(name=f"keep_{stage}_{p}")
                moved = Signal(self._bits, name=f"item_{stage}_{p}")
                m.d.comb += [
                    crosses.eq(comes[p]),
                    kept.eq(stays[p] | crosses),
                    moved.eq(Mux(crosses, item[p ^ size], item[p])),
                ]
                next_keep.append(kept)
                if len(to[p]) > 1:
                    target = Signal(len(to[p]) - 1, name=f"to_{stage}_{p}")
                    m.d.comb += target.eq(Mux(crosses, to[p ^ size], to[p]) >> 1)
                    next_to.append(target)
                next_item.append(moved)
            keep, to, item = next_keep, next_to, next_item
        m.d.comb += [self.filled[lane].eq(keep[lane]) for lane in range(lanes)]
        m.d.comb += [self.o[lane].eq(item[lane]) for lane in range(lanes)]
        return m


class ZeroEliminator(wiring.Component):
    """Drops the lanes of a stream of rows that are not kept; the others move together.

    A row's kept lanes begin behind those of the row before, modulo the lanes, so that what takes
    them needs no realigning register: a banked memory (`rtl.lib.banked`) or a compaction buffer
    (`rtl.lib.compaction`) writes every lane where it stands.

    A first register holds the row with its ranks, a second one, where wanted, the concentrated row.

    Parameters
    ----------
    lanes : int
        A power of two.
    bits : int
        Width of a lane's data.
    registered : bool
        The concentrated row is behind a register, so shows two cycles after the row, not one.

    Members
    -------
    en : In(1)
        The registers advance.
    restart : In(1)
        The rows after this cycle begin at lane 0 again; whatever `en` is. The row in the first
        register must keep nothing.
    keep, i : In(lanes), In(array of lanes, bits)
        A row; a cycle without a row keeps nothing.
    count : Out(range(lanes + 1))
        Kept lanes of the row in the first register.
    filled, o : Out(lanes), Out(array of lanes, bits)
        The concentrated row; undefined in lanes that are not filled.
    wraps : Out(lanes)
        Filled or not, the lane is below the one at which the row began: what it holds belongs to
        the row after the one that is being filled.
    full : Out(1)
        The row that is being filled is complete.
    """

    en: Signal
    restart: Signal
    keep: Signal
    i: Any
    count: Signal
    filled: Signal
    o: Any
    wraps: Signal
    full: Signal

    def __init__(self, lanes: int, bits: int, *, registered: bool) -> None:
        self._lanes, self._bits, self._registered = lanes, bits, registered
        # The registers are named here so that proofs can speak of them. Only `keep` is reset:
        # without a row there is nothing to keep.
        ranks = data.ArrayLayout(index_bits(lanes), lanes)
        self._keep = Signal(lanes)
        self._ranks: Any = Signal(ranks, reset_less=True)
        self._row: Any = Signal(data.ArrayLayout(bits, lanes), reset_less=True)
        self._begin = Signal(index_bits(lanes))
        super().__init__(
            {
                "en": In(1),
                "restart": In(1),
                "keep": In(lanes),
                "i": In(data.ArrayLayout(bits, lanes)),
                "count": Out(range(lanes + 1)),
                "filled": Out(lanes),
                "o": Out(data.ArrayLayout(bits, lanes)),
                "wraps": Out(lanes),
                "full": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, levels = self._lanes, self._lanes.bit_length() - 1
        m.submodules.prefix = prefix = PrefixSum(lanes)
        m.submodules.concentrator = concentrator = Concentrator(lanes, self._bits)
        keep, begin = self._keep, self._begin
        with m.If(self.en):
            m.d.sync += [
                keep.eq(self.keep),
                self.count.eq(prefix.total),
                self._ranks.eq(prefix.ranks),
                self._row.eq(self.i),
            ]
        end = Signal(levels + 1)
        wraps = Signal(lanes)
        m.d.comb += [
            prefix.i.eq(self.keep),
            concentrator.keep.eq(keep),
            *(concentrator.to[lane].eq(self._ranks[lane] + begin) for lane in range(lanes)),
            concentrator.i.eq(self._row),
            end.eq(begin + self.count),
            *(wraps[lane].eq(begin > lane) for lane in range(lanes)),
        ]
        with m.If(self.restart):
            m.d.sync += begin.eq(0)
        with m.Elif(self.en):
            m.d.sync += begin.eq(end[:levels])
        results = [
            (self.filled, concentrator.filled),
            (self.wraps, wraps),
            (self.full, end[levels]),
        ]
        if self._registered:
            m.d.comb += self.o.eq(register(m, self.en, concentrator.o, name="concentrated"))
            with m.If(self.en):
                m.d.sync += [port.eq(value) for port, value in results]
        else:
            m.d.comb += [self.o.eq(concentrator.o), *(port.eq(value) for port, value in results)]
        return m
