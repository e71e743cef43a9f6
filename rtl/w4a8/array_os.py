# SPDX-License-Identifier: Apache-2.0
"""Output-stationary array: edges, elements and the shadow chains for the results (section 5.2)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.edge import ColumnEdge, RowEdge, chain_columns
from rtl.w4a8.layout import (
    a_write_layout,
    column_layout,
    pair_cols,
    row_layout,
    s_write_layout,
    w_write_layout,
)
from rtl.w4a8.pe import OsElement


class ArrayOs(wiring.Component):
    """R rows of P column pairs, each element with its own accumulators.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    a_write, w_write, s_write : In
        Arriving beats; `s_write` only with group scales.
    row_wave, column_wave : In(row_layout), In(column_layout)
        Control of the wave that enters the first row (Q cycles after its launch) and the first
        pair.
    captured : Out(1)
        High in the cycle before the bottom row of a tile shows in `bottom` of the first pair; the
        rows above it follow, one per cycle.
    bottom : Out(array of C, acc_bits)
        Bottom shadow registers; pair p is p cycles later than pair 0.
    """

    a_write: Any
    w_write: Any
    s_write: Any
    row_wave: Any
    column_wave: Any
    captured: Signal
    bottom: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        ports = {
            "a_write": In(a_write_layout(spec)),
            "w_write": In(w_write_layout(spec)),
            "row_wave": In(row_layout(spec)),
            "column_wave": In(column_layout(spec)),
            "captured": Out(1),
            "bottom": Out(data.ArrayLayout(spec.acc_bits, spec.array_cols)),
        }
        if spec.scales == "group":
            ports["s_write"] = In(s_write_layout(spec))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self._rows(m)
        columns = chain_columns(
            m, self._spec, self.column_wave, self.w_write, getattr(self, "s_write", None)
        )
        elements = self._elements(m, rows, columns)
        self._shadow_chains(m, elements)
        return m

    def _rows(self, m: Module) -> list[RowEdge]:
        rows: list[RowEdge] = []
        for row in range(self._spec.array_rows):
            edge = RowEdge(self._spec)
            m.submodules[f"row_{row}"] = edge
            m.d.comb += [
                edge.write.eq(self.a_write.en & (self.a_write.line == row)),
                edge.write_slot.eq(self.a_write.slot),
                edge.word.eq(self.a_write.beat),
                edge.wave.eq(rows[-1].wave_out if rows else self.row_wave),
            ]
            rows.append(edge)
        return rows

    def _elements(
        self, m: Module, rows: list[RowEdge], columns: list[ColumnEdge]
    ) -> list[list[OsElement]]:
        grid: list[list[OsElement]] = []
        for row, row_edge in enumerate(rows):
            grid.append([])
            for pair, column_edge in enumerate(columns):
                pe = OsElement(self._spec, pair_cols(self._spec, pair))
                m.submodules[f"pe_{row}_{pair}"] = pe
                left = grid[row][-1] if pair else None
                m.d.comb += [
                    pe.a.eq(left.a_out if left else row_edge.a),
                    pe.flags.eq(left.flags_out if left else row_edge.flags),
                    pe.w.eq(grid[row - 1][pair].w_out if row else column_edge.w),
                ]
                grid[row].append(pe)
        return grid

    def _shadow_chains(self, m: Module, grid: list[list[OsElement]]) -> None:
        """Shift each chain from the cycle in which its bottom register shows.

        In the s-th cycle from then only rows below s shift: those above may hold the next tile's
        results.
        """
        R = self._spec.array_rows
        for pair in range(self._spec.pairs):
            last = grid[R - 1][pair]
            shift = Signal(R, name=f"shift_{pair}")
            with m.If(last.captured):
                m.d.sync += shift.eq(-2)
            with m.Else():
                m.d.sync += shift.eq(shift << 1)
            for row in range(R):
                m.d.comb += grid[row][pair].shift.eq(shift[row])
                if row:
                    m.d.comb += grid[row][pair].above.eq(grid[row - 1][pair].shadow)
        m.d.comb += [
            self.captured.eq(grid[R - 1][0].captured),
            self.bottom.eq(Cat(pe.shadow for pe in grid[R - 1])),
        ]
