# SPDX-License-Identifier: Apache-2.0
"""Weight-stationary array: edges, load chains and elements (section 5.3)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.edge import ColumnEdge, RowEdge, a_bytes, chain_columns
from rtl.w4a8.layout import (
    a_write_layout,
    column_layout,
    pair_cols,
    psum_bits,
    row_layout,
    s_write_layout,
    w_write_layout,
)
from rtl.w4a8.pe import WsElement


class ArrayWs(wiring.Component):
    """R rows of P column pairs; row r holds the weights of code R-1-r of the k-tile.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    a_write, w_write, s_write : In
        Arriving beats; `s_write` only with group scales.
    row_wave : In(row_layout)
        Control of the wave that is launched in this cycle.
    column_wave : In(column_layout)
        Control of the load step that is issued in this cycle.
    load : In(R)
        Rows whose load chain shifts, Q cycles after the load step.
    psums : Out(array of C, psum_bits)
        Sums of the bottom row: pair p shows a wave R + 3 + p cycles after its launch.
    """

    a_write: Any
    w_write: Any
    s_write: Any
    row_wave: Any
    column_wave: Any
    load: Any
    psums: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        ports = {
            "a_write": In(a_write_layout(spec)),
            "w_write": In(w_write_layout(spec)),
            "row_wave": In(row_layout(spec)),
            "column_wave": In(column_layout(spec)),
            "load": In(spec.array_rows),
            "psums": Out(data.ArrayLayout(psum_bits(spec), spec.array_cols)),
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
        grid = self._elements(m, rows, columns)
        m.d.comb += self.psums.eq(Cat(pe.psum_out for pe in grid[-1]))
        return m

    def _rows(self, m: Module) -> list[RowEdge]:
        rows: list[RowEdge] = []
        for row in range(self._spec.array_rows):
            edge = RowEdge(self._spec)
            m.submodules[f"row_{row}"] = edge
            m.d.comb += [
                edge.write.eq(self.a_write.en),
                edge.write_slot.eq(self.a_write.slot),
                edge.word.eq(a_bytes(self._spec, self.a_write.beat, row)),
                edge.wave.eq(rows[-1].wave_out if rows else self.row_wave),
                edge.load.eq(self.load[row]),
            ]
            rows.append(edge)
        return rows

    def _elements(
        self, m: Module, rows: list[RowEdge], columns: list[ColumnEdge]
    ) -> list[list[WsElement]]:
        grid: list[list[WsElement]] = []
        for row, row_edge in enumerate(rows):
            grid.append([])
            for pair, column_edge in enumerate(columns):
                pe = WsElement(self._spec, pair_cols(self._spec, pair))
                m.submodules[f"pe_{row}_{pair}"] = pe
                left = grid[row][-1] if pair else None
                m.d.comb += [
                    pe.a.eq(left.a_out if left else row_edge.a),
                    pe.flags.eq(left.flags_out if left else row_edge.flags),
                    pe.w.eq(grid[row - 1][pair].chain if row else column_edge.w),
                ]
                if row:
                    m.d.comb += pe.psum.eq(grid[row - 1][pair].psum_out)
                grid[row].append(pe)
        return grid
