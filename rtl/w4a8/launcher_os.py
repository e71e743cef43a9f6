# SPDX-License-Identifier: Apache-2.0
"""Launcher of the output-stationary array: one wave per cycle, K per tile (section 5.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.counters import pending
from rtl.w4a8.layout import column_layout, row_layout, scale_slots
from rtl.w4a8.loops import TileLoop, k_bits, spacing, tile_sizes


class LauncherOs(wiring.Component):
    """Decides when wave k of a tile starts into the array.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, job : In(1), In(m, n, k, group)
        A job begins; `job` stays.
    a_usable, w_usable, s_usable : In(1)
        The chunk, or scale beat, that comes next is complete.
    give : In(1)
        The drain returns a tile's result rows.
    row_wave, column_wave : Out(row_layout), Out(column_layout)
        Control of the wave of this cycle.
    release : Out(1)
        The wave of this cycle is the last of its chunks.
    scale_pop : Out(1)
        The wave of this cycle takes a scale beat.
    wave, wave_first, wave_rows, wave_cols : Out
        A wave is launched, it is the tile's first, and the extent of its tile.
    """

    start: Signal
    job: Any
    a_usable: Signal
    w_usable: Signal
    s_usable: Signal
    give: Signal
    row_wave: Any
    column_wave: Any
    release: Signal
    scale_pop: Signal
    wave: Signal
    wave_first: Signal
    wave_rows: Signal
    wave_cols: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        group = spec.scales == "group"
        names = ("m", "n", "k", "group") if group else ("m", "n", "k")
        ports = {
            "start": In(1),
            "job": In(data.StructLayout(dict.fromkeys(names, 32))),
            "a_usable": In(1),
            "w_usable": In(1),
            "give": In(1),
            "row_wave": Out(row_layout(spec)),
            "column_wave": Out(column_layout(spec)),
            "release": Out(1),
            "scale_pop": Out(1),
            "wave": Out(1),
            "wave_first": Out(1),
            "wave_rows": Out(range(spec.array_rows + 1)),
            "wave_cols": Out(range(spec.array_cols + 1)),
        }
        if group:
            ports["s_usable"] = In(1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job = self._spec, self.job
        R, group = spec.array_rows, spec.scales == "group"
        m.submodules.tiles = tiles = TileLoop(*tile_sizes(spec))
        active, first, last = Signal(), Signal(), Signal()
        left = Signal(k_bits(spec))
        index = Signal(range(spec.chunk))
        slot = Signal(range(spec.prefetch_chunks))
        chunk_begins, chunk_ends = Signal(), Signal()
        wave = self.wave

        # The launch decision: a few bits, all of them registers. What the drain returns is counted
        # one cycle late, and so it counts by itself in that cycle.
        takes, given = wave & first, Signal()
        m.d.sync += given.eq(self.give)
        room = spec.result_rows // R  # tiles
        free = given | pending(m, "free", room, given, takes, init=room)
        far_first = spacing(m, "since_first", spec.period_min, takes, clear=self.start)
        # Without group scales a wave waits inside a tile only at a chunk's begin, and a chunk is
        # longer than R: the next tile's last wave is then far enough from this one's by itself.
        far_last = spacing(m, "since_last", R if group else 1, wave & last, clear=self.start)
        begins = far_first & free
        operands = self.a_usable & self.w_usable
        scales = self._scales(m, last) if group else Const(1)
        m.d.comb += [
            wave.eq(
                active
                & (~first | begins)
                & (~last | far_last)
                & (~chunk_begins | operands)
                & scales
            ),
            chunk_ends.eq(last | (index == spec.chunk - 1)),
            self.release.eq(wave & chunk_ends),
        ]

        with m.If(self.start):
            m.d.sync += [active.eq(1), first.eq(1), chunk_begins.eq(1)]
            m.d.sync += [left.eq(job.k), last.eq(job.k == 1)]
        with m.Elif(wave):
            m.d.sync += [
                first.eq(last),
                chunk_begins.eq(chunk_ends),
                index.eq(Mux(chunk_ends, 0, index + 1)),
                slot.eq(slot + chunk_ends),
                left.eq(Mux(last, job.k, left - 1)),
                last.eq(Mux(last, job.k == 1, left == 2)),
            ]
            with m.If(last):
                m.d.sync += active.eq(tiles.m_more | tiles.n_more)

        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.m.eq(job.m),
            tiles.n.eq(job.n),
            tiles.n_again.eq(job.n),
            tiles.next.eq(wave & last),
            self.row_wave.valid.eq(wave),
            self.row_wave.first.eq(wave & first),
            self.row_wave.last.eq(wave & last),
            self.row_wave.slot.eq(slot),
            self.row_wave.index.eq(index),
            self.column_wave.slot.eq(slot),
            self.column_wave.index.eq(index),
            self.wave_first.eq(takes),
            self.wave_rows.eq(tiles.rows),
            self.wave_cols.eq(tiles.cols),
        ]
        return m

    def _scales(self, m: Module, last: Value) -> Value:
        """Count the codes of a group; return 1 where the wave needs no scale beat or has one."""
        left = Signal(k_bits(self._spec), name="group_left")
        begins = Signal(name="group_begins")
        slot = Signal(range(scale_slots(self._spec)), name="scale_slot")
        with m.If(self.start | (self.wave & (last | (left == 1)))):
            m.d.sync += [left.eq(self.job.group), begins.eq(1)]
        with m.Elif(self.wave):
            m.d.sync += [left.eq(left - 1), begins.eq(0)]
        with m.If(self.scale_pop):
            m.d.sync += slot.eq(slot + 1)
        m.d.comb += [
            self.scale_pop.eq(self.wave & begins),
            self.column_wave.pop.eq(self.scale_pop),
            self.column_wave.scale_slot.eq(slot),
        ]
        return ~begins | self.s_usable
