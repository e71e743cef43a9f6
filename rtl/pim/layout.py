# SPDX-License-Identifier: Apache-2.0
"""Layouts that the parts of the PIM engine pass to each other, and the interface of the macro."""

from __future__ import annotations

from dataclasses import fields

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import Job
from rtl.lib.widths import index_bits

WORD_BITS = 64
"""Rows of a cell word."""

JOB = data.StructLayout({**{field.name: 32 for field in fields(Job)}, "reserved": 3 * 32})
"""Job descriptor, word 0 in the low bits (docs/engines/pim.md, section 4)."""


def job_layout(spec: PimSpec) -> data.StructLayout:
    """Return a job as the parts take it, in the widths that legal values need."""
    return data.StructLayout(
        {
            "m": 32,
            "k": (spec.rows * spec.groups).bit_length(),
            "n": spec.outputs.bit_length(),
            "rows": spec.rows.bit_length(),
            "relu": 1,
            "wide": 1,
        }
    )


def codes_layout(spec: PimSpec) -> data.ArrayLayout:
    """Payload of `i_x`: the codes of one row group."""
    return data.ArrayLayout(spec.activation_bits, spec.rows)


def rows_layout(spec: PimSpec) -> data.ArrayLayout:
    """Return what drives the rows: a slice of each code."""
    return data.ArrayLayout(spec.slice_bits, spec.rows)


def results_layout(spec: PimSpec) -> data.StructLayout:
    """Payload of `o_y`: E results of 16 bits, a keep bit each, and whether it is the last beat."""
    lanes = spec.epilogue_lanes
    return data.StructLayout({"data": data.ArrayLayout(16, lanes), "keep": lanes, "last": 1})


def code_shape(spec: PimSpec) -> Shape:
    """Return the shape of an ADC's code."""
    bits = spec.code_max.bit_length()
    return signed(bits + 1) if spec.code_min < 0 else unsigned(bits)


def sums_layout(spec: PimSpec) -> data.ArrayLayout:
    """Return the accumulators of all outputs."""
    return data.ArrayLayout(signed(spec.acc_bits), spec.outputs)


# -- planes and units ----------------------------------------------------------------------------


def unit_adcs(spec: PimSpec) -> int:
    """Return the ADCs that convert planes of one output at the same time: P / M, or 1."""
    return max(1, spec.planes // spec.mux)


def unit_outputs(spec: PimSpec) -> int:
    """Return the outputs whose planes share an ADC: M / P, or 1."""
    return max(1, spec.mux // spec.planes)


def passes(spec: PimSpec) -> int:
    """Return the conversions, one after the other, that read an output's planes: min(M, P)."""
    return min(spec.mux, spec.planes)


def add_layout(spec: PimSpec) -> data.StructLayout:
    """Return how a term goes into its accumulator.

    `clear`: the accumulator counts as 0; `shift`: it moves to the weight of the next slice first;
    `rotate`: the term is the last of its output and position; `write`: the vector is complete.
    """
    return data.StructLayout(
        {"valid": 1, "clear": 1, "shift": 1, "rotate": 1, "write": 1, "place": _place(spec)}
    )


def _place(spec: PimSpec) -> Shape:
    return unsigned(index_bits(unit_outputs(spec)))


def events_layout(spec: PimSpec) -> data.StructLayout:
    """Payload of `o_events`: what happens in the cycle in which it shows (sections 5 and 6).

    Levels
        `load`: a job is taken or not loaded (t <= L); `drive`: rows are driven; `convert`: a step
        is converted (c <= t < e); `result`: a sample waits for the result store, converter free;
        `starved`: the next step's beat is not usable; `remain`: launches or conversions remain.
    Strobes
        `launch` (d), `sample` (u - 1), `write` (f, to the result store), `issue` of an output step.
    Amounts
        `rows` of the step that is launched; `samples`: columns of the job's outputs that are
        sampled; `conversions`: those that an ADC converts, in q; `draws`: generators that step, in
        q; `accumulates`: accumulators that are written, in q + 3. 0 in other cycles.
    """
    columns = range(spec.outputs * spec.planes + 1)
    return data.StructLayout(
        {
            "load": 1,
            "drive": 1,
            "convert": 1,
            "result": 1,
            "starved": 1,
            "remain": 1,
            "launch": 1,
            "sample": 1,
            "write": 1,
            "issue": 1,
            "rows": range(spec.rows + 1),
            "samples": columns,
            "conversions": columns,
            "draws": range(spec.adcs + 1),
            "accumulates": range(spec.outputs + 1),
        }
    )


# -- the macro -----------------------------------------------------------------------------------


class MacroSignature(wiring.Signature):
    """What a macro offers to its periphery, seen from the periphery.

    A real macro takes the place of `rtl.pim.macro.Macro` behind these members; it leaves `tables`
    alone, which only describe its analog part.

    Members
    -------
    cells : Out
        Cells, a word of 64 rows at a time: `write`, `column`, `bit` of the cell, `group`, `word`
        of the group, `data`.
    select, group : Out(1), Out
        The group whose rows are driven next: in the cycle before they are, d.
    drive, rows : Out(1), Out(array of N, slice_bits)
        Rows are driven, d + 1 .. d + t_row. 0 in rows that the job does not use.
    sample, sample_bank : Out(1), Out(1)
        The last of those cycles: at its end the columns are held in this bank.
    convert, convert_bank, position : Out(1), Out(1), Out
        Columns at `position` of this bank are converted, t_conv cycles each.
    strobe : Out(1)
        The last of these cycles, q.
    codes : In(array of A, code_shape)
        Of all ADCs, at q + 2.
    tables : Out
        Of the behavioural model: `transfer_write`, `transfer_entry`, `transfer` (position t and
        value v of every ADC at t.V + v - v_min); and with noise hardware `noise_write`,
        `noise_entry`, `noise`, `state_write`, `state_adc`, `state`.
    """

    def __init__(self, spec: PimSpec) -> None:
        group = index_bits(spec.groups)
        cells = {
            "write": Out(1),
            "column": Out(index_bits(spec.columns)),
            "bit": Out(index_bits(spec.cell_bits)),
            "group": Out(group),
            "word": Out(index_bits(spec.row_words)),
            "data": Out(WORD_BITS),
        }
        tables = {
            "transfer_write": Out(1),
            "transfer_entry": Out(index_bits(spec.mux * spec.entries)),
            "transfer": Out(data.ArrayLayout(signed(16), spec.adcs)),
        }
        if spec.noise_bits:
            tables |= {
                "noise_write": Out(1),
                "noise_entry": Out(spec.noise_bits),
                "noise": Out(signed(16)),
                "state_write": Out(1),
                "state_adc": Out(index_bits(spec.adcs)),
                "state": Out(32),
            }
        super().__init__(
            {
                "cells": Out(wiring.Signature(cells)),
                "select": Out(1),
                "group": Out(group),
                "drive": Out(1),
                "rows": Out(rows_layout(spec)),
                "sample": Out(1),
                "sample_bank": Out(1),
                "convert": Out(1),
                "convert_bank": Out(1),
                "position": Out(index_bits(spec.mux)),
                "strobe": Out(1),
                "codes": In(data.ArrayLayout(code_shape(spec), spec.adcs)),
                "tables": Out(wiring.Signature(tables)),
            }
        )
