# SPDX-License-Identifier: Apache-2.0
"""Drain: result words into the epilogue, and addresses for what comes out (section 5.4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.counters import pending
from rtl.lib.widths import index_bits
from rtl.w4a8.layout import PARAMETER_BEATS
from rtl.w4a8.loops import TileLoop, tile_sizes


class StepLoop(wiring.Component):
    """Walks through the drain steps of a job: tiles, rows, groups of E columns.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, m, n : In(1), In(32), In(32)
        A job begins; `m` and `n` stay.
    next : In(1)
        Goes to the next step.
    lanes : Out
        Columns left in the row; the step keeps at most E of them.
    row_ends, tile_ends, job_ends : Out(1)
        The step is the last of its row, tile, job.
    tile_row_ends : Out(1)
        The tile is the last of its row of tiles.
    """

    start: Signal
    m: Signal
    n: Signal
    next: Signal
    lanes: Signal
    row_ends: Signal
    tile_ends: Signal
    job_ends: Signal
    tile_row_ends: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__(
            {
                "start": In(1),
                "m": In(32),
                "n": In(32),
                "next": In(1),
                "lanes": Out(range(spec.array_cols + 1)),
                "row_ends": Out(1),
                "tile_ends": Out(1),
                "job_ends": Out(1),
                "tile_row_ends": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        E, C = self._spec.epilogue_lanes, self._spec.array_cols
        m_tile, n_tile = tile_sizes(self._spec)
        m.submodules.tiles = tiles = TileLoop(m_tile, n_tile)
        row, row_last = Signal(range(m_tile)), Signal()
        if E == C:
            m.d.comb += [self.lanes.eq(tiles.cols), self.row_ends.eq(1)]
        else:
            done = Signal(range(C + E))  # columns of the row that earlier steps took
            m.d.comb += [
                self.lanes.eq(tiles.cols - done),
                self.row_ends.eq(done + E >= tiles.cols),
            ]
            with m.If(self.next):
                m.d.sync += done.eq(Mux(self.row_ends, 0, done + E))
        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.m.eq(self.m),
            tiles.n.eq(self.n),
            tiles.n_again.eq(self.n),
            tiles.next.eq(self.next & self.tile_ends),
            self.tile_ends.eq(self.row_ends & row_last),
            self.job_ends.eq(self.tile_ends & ~tiles.m_more & ~tiles.n_more),
            self.tile_row_ends.eq(~tiles.n_more),
        ]
        with m.If(self.start | (self.next & self.tile_ends)):
            m.d.sync += [row.eq(0), row_last.eq(tiles.single)]
        with m.Elif(self.next & self.row_ends):
            m.d.sync += [row.eq(row + 1), row_last.eq(row + 2 == tiles.rows)]
        return m


class Drain(wiring.Component):
    """Issues one drain step per cycle where a result row and its parameters are there.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, m, n : In(1), In(32), In(32)
        A job begins; `m` and `n` stay.
    written : In(1)
        A tile (os) or row (ws) is complete from the next cycle.
    e_usable, r_usable : In(1)
        A beat of column parameters, of row scales (fp16 only) is there.
    en : In(1)
        The epilogue advances; no step issues without.
    issue : Out(1)
        A step issues in this cycle.
    addr, group, e_slot, r_slot, r_row : Out
        Registers: result word, group of E columns, parameter words and row within the row scales.
    give : Out(1)
        This step is the last of its tile (os) or row (ws): its result rows are free.
    e_release, r_release : Out(1)
        This step is the last that needs its beat.
    lanes, row_ends : Out
        Lanes that the step keeps; the step is the last of its row.
    """

    start: Signal
    m: Signal
    n: Signal
    written: Signal
    e_usable: Signal
    r_usable: Signal
    en: Signal
    issue: Signal
    addr: Signal
    group: Signal
    e_slot: Signal
    r_slot: Signal
    r_row: Signal
    give: Signal
    e_release: Signal
    r_release: Signal
    lanes: Signal
    row_ends: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        self._os = spec.dataflow == "os"
        self._fp16 = spec.epilogue == "fp16"
        self._groups = -(-spec.array_cols // spec.epilogue_lanes)
        ports = {
            "start": In(1),
            "m": In(32),
            "n": In(32),
            "written": In(1),
            "e_usable": In(1),
            "en": In(1),
            "issue": Out(1),
            "addr": Out(index_bits(spec.result_rows)),
            "group": Out(index_bits(self._groups)),
            "e_slot": Out(index_bits(PARAMETER_BEATS)),
            "give": Out(1),
            "e_release": Out(1),
            "lanes": Out(range(spec.epilogue_lanes + 1)),
            "row_ends": Out(1),
        }
        if self._fp16:
            ports |= {
                "r_usable": In(1),
                "r_slot": Out(index_bits(PARAMETER_BEATS)),
                "r_row": Out(index_bits(spec.array_rows)),
                "r_release": Out(1),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, issue = self._spec, self.issue
        m.submodules.steps = steps = StepLoop(spec)
        complete_max = spec.result_rows // spec.array_rows if self._os else spec.result_rows
        complete = pending(m, "complete", complete_max, self.written, self.give)
        m.d.comb += [
            steps.start.eq(self.start),
            steps.m.eq(self.m),
            steps.n.eq(self.n),
            steps.next.eq(issue),
            issue.eq(complete & self.e_usable & self._row_scales(m, steps) & self.en),
            self.give.eq(issue & (steps.tile_ends if self._os else steps.row_ends)),
            self.e_release.eq(issue & steps.tile_ends),
            self.row_ends.eq(steps.row_ends),
            self.lanes.eq(Mux(steps.row_ends, steps.lanes, spec.epilogue_lanes)),
        ]
        with m.If(issue):
            m.d.sync += self.e_slot.eq(self.e_slot + steps.tile_ends)
            with m.If(steps.row_ends):
                m.d.sync += self.group.eq(0)
            with m.Else():
                m.d.sync += self.group.eq(self.group + 1)
        self._addresses(m, steps)
        return m

    def _row_scales(self, m: Module, steps: StepLoop) -> Value | int:
        """Walk through the row scales; return 1 where the step's are there."""
        if not self._fp16:
            return 1
        ends = steps.row_ends & (self.r_row == self._spec.array_rows - 1) | steps.tile_ends
        m.d.comb += self.r_release.eq(self.issue & ends)
        with m.If(self.r_release):
            m.d.sync += [self.r_slot.eq(self.r_slot + 1), self.r_row.eq(0)]
        with m.Elif(self.issue & steps.row_ends):
            m.d.sync += self.r_row.eq(self.r_row + 1)
        return self.r_usable

    def _addresses(self, m: Module, steps: StepLoop) -> None:
        """os: R words per tile, whatever its rows; ws: one word after the other."""
        spec, addr = self._spec, self.addr
        if not self._os:
            with m.If(self.issue & steps.row_ends):
                m.d.sync += addr.eq(addr + 1)
            return
        base = Signal(addr.shape())
        next_base = Signal(addr.shape())
        m.d.comb += next_base.eq(base + spec.array_rows if spec.double_buffer else 0)
        with m.If(self.e_release):
            m.d.sync += [addr.eq(next_base), base.eq(next_base)]
        with m.Elif(self.issue & steps.row_ends):
            m.d.sync += addr.eq(addr + 1)


class OutputAddress(wiring.Component):
    """Addresses of the results in the order of the drain steps; each transfer goes to the next.

    It walks through the steps on its own, so that no address has to travel through the epilogue.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    start, job : In(1), In(m, n, y_base, y_stride)
        A job begins; `job` stays.
    next : In(1)
        The present result is transferred.
    addr, keep : Out(32), Out(E)
        Element address of the first lane, and which lanes hold a result.
    last : Out(1)
        The present result is the job's last.
    """

    start: Signal
    job: Any
    next: Signal
    addr: Signal
    keep: Signal
    last: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        job = data.StructLayout(dict.fromkeys(("m", "n", "y_base", "y_stride"), 32))
        super().__init__(
            {
                "start": In(1),
                "job": In(job),
                "next": In(1),
                "addr": Out(32),
                "keep": Out(spec.epilogue_lanes),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = self.job
        m.submodules.steps = steps = StepLoop(self._spec)
        m.d.comb += [
            steps.start.eq(self.start),
            steps.m.eq(job.m),
            steps.n.eq(job.n),
            steps.next.eq(self.next),
            self.keep.eq(Cat(steps.lanes > lane for lane in range(self._spec.epilogue_lanes))),
            self.last.eq(steps.job_ends),
        ]
        # Addresses at which the present row and the present tile begin.
        row, tile = Signal(32), Signal(32)
        below, next_tile, next_block = Signal(32), Signal(32), Signal(32)
        block_below = Signal(32)
        first_tile = Signal()
        m.d.comb += [
            below.eq(row + job.y_stride),
            next_tile.eq(tile + self._spec.array_cols),
            # The row below the first tile's last row is where the next row of tiles begins.
            next_block.eq(Mux(first_tile, below, block_below)),
        ]
        with m.If(self.start):
            base = job.y_base
            m.d.sync += [self.addr.eq(base), row.eq(base), tile.eq(base), first_tile.eq(1)]
        with m.Elif(self.next):
            with m.If(steps.tile_ends):
                target = Mux(steps.tile_row_ends, next_block, next_tile)
                m.d.sync += [self.addr.eq(target), row.eq(target), tile.eq(target)]
                m.d.sync += first_tile.eq(steps.tile_row_ends)
                with m.If(first_tile):
                    m.d.sync += block_below.eq(below)
            with m.Elif(steps.row_ends):
                m.d.sync += [self.addr.eq(below), row.eq(below)]
            with m.Else():
                m.d.sync += self.addr.eq(self.addr + self._spec.epilogue_lanes)
        return m
