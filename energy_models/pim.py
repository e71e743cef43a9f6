# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the PIM macro: its action counts times sourced costs.

Dynamic energy of what section 6 of docs/engines/pim.md counts, and of the memory behind the
streams. Published models of an ADC disagree by an order of magnitude, so a conversion has a price
under each of them (`Breakdown.alternatives`) and, in the total, what lies between. Leakage, clock
tree, wires, references of the converters and control logic are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cosil.engines.common import ceil_div
from cosil.engines.pim import PimSpec
from energy_models.lib import adc
from energy_models.lib.fixed_point import rescale_pj, rescale_um2
from energy_models.lib.pricing import Action, EnergyModel, stream, unpriced
from energy_models.lib.tables import read_table
from energy_models.lib.technology import Estimate, Technology, load_technology

FRACTION_BITS = 4
"""An output's rescale counts its sum in sixteenths (section 1)."""


def converter(spec: PimSpec, tech: Technology) -> adc.Converter:
    """Return one of the macro's ADCs at the technology's node, voltage and clock."""
    rate_hz = tech.clock_hz / spec.conversion_cycles
    return adc.Converter(spec.adc_bits, rate_hz, tech.node_nm, tech.voltage_v)


# -- one action each -------------------------------------------------------------------------------


def _table() -> Mapping[str, Any]:
    return read_table("pim")


def _row_drive(spec: PimSpec, tech: Technology) -> Estimate:
    # The row's code moves on by a slice in its register; the driver takes the slice.
    drive = tech.scaled_pj(_table()["dac_bit"]) * spec.slice_bits
    return drive + tech.register_pj(spec.activation_bits)


def _cell(spec: PimSpec, tech: Technology) -> Estimate:
    del spec
    return tech.scaled_pj(_table()["cell"])


def _sample(spec: PimSpec, tech: Technology) -> Estimate:
    del spec
    return tech.scaled_pj(_table()["sample_and_hold"])


def _conversion(spec: PimSpec, tech: Technology) -> Estimate:
    return adc.energy_of_all_pj(converter(spec, tech))


def _conversion_under(model: str) -> Action[PimSpec]:
    def cost(spec: PimSpec, tech: Technology) -> Estimate:
        return adc.energy_pj(model, converter(spec, tech))

    return Action("ADC", cost)


def _accumulate(spec: PimSpec, tech: Technology) -> Estimate:
    # A code is placed by its plane's weight; codes of planes that are converted together are added
    # before. From slice to slice the accumulator moves by a fixed distance, which takes no logic.
    placed = spec.adc_bits + spec.weight_bits
    codes = (tech.shift_pj(placed) + tech.add_pj(placed)) * ceil_div(spec.planes, spec.mux)
    # The outputs of an ADC are a ring of accumulators, which turns after an output's last plane.
    ring = spec.mux // spec.planes
    written = 1 + (ring / spec.planes if ring > 1 else 0)
    return codes + tech.add_pj(spec.acc_bits) + tech.register_pj(spec.acc_bits) * written


def _store_bytes(spec: PimSpec) -> float:
    return spec.result_depth * spec.outputs * spec.acc_bits / 8


def _result(spec: PimSpec, tech: Technology) -> Estimate:
    size = _store_bytes(spec)
    stored = tech.sram_write_pj(size, spec.acc_bits) + tech.sram_read_pj(size, spec.acc_bits)
    return stored + rescale_pj(tech, spec.acc_bits + FRACTION_BITS)


def _cell_write(spec: PimSpec, tech: Technology) -> Estimate:
    size = spec.groups * spec.rows * spec.columns * spec.cell_bits / 8
    return tech.register_pj(64) + tech.sram_write_pj(size, 64)


def _w_bits(spec: PimSpec) -> int:
    del spec
    return 64


def _e_bits(spec: PimSpec) -> int:
    return 64 * spec.epilogue_lanes


def _x_bits(spec: PimSpec) -> int:
    return spec.rows * spec.activation_bits


def _y_bits(spec: PimSpec) -> int:
    return 16 * spec.epilogue_lanes


def _job_bits(spec: PimSpec) -> int:
    del spec
    return 256


ACTIONS: Mapping[str, Action[PimSpec]] = MappingProxyType(
    {
        "mac": unpriced("cells"),
        "row_drives": Action("row drivers", _row_drive),
        "cell_ops": Action("cells", _cell),
        "samples": Action("sample and hold", _sample),
        "conversions": Action("ADC", _conversion),
        "draws": unpriced("ADC"),
        "accumulates": Action("shift-add", _accumulate),
        "results": Action("rescale", _result),
        "w_beats": Action("streams", _cell_write, _w_bits),
        "t_beats": unpriced("ADC"),
        "n_beats": unpriced("ADC"),
        "e_beats": stream(_e_bits),
        "x_beats": stream(_x_bits),
        "y_beats": stream(_y_bits),
        "job_beats": stream(_job_bits),
    }
)
"""Action name (section 6) -> how it is priced. The simulator and the bench count the same names.

Free are products, which the cells make, and what stands for physics: transfer tables and noise.
"""


# -- area ------------------------------------------------------------------------------------------


def _areas(spec: PimSpec, tech: Technology) -> dict[str, Estimate]:
    parts = _table()["areas"]
    cells = spec.groups * spec.rows * spec.columns * spec.cell_bits
    samples = spec.columns * (2 if spec.double_buffer else 1)
    banks = 2 * spec.groups * spec.rows * spec.activation_bits
    adders = tech.add_um2(spec.acc_bits) * spec.adcs
    return {
        "cells": tech.scaled_um2(parts["cell"]) * cells,
        "row drivers": tech.scaled_um2(parts["dac_bit"]) * (spec.rows * spec.slice_bits),
        "sample and hold": tech.scaled_um2(parts["sample_and_hold"]) * samples,
        "ADC": adc.area_of_all_um2(converter(spec, tech)) * spec.adcs,
        "input banks": tech.register_um2(banks),
        "shift-add": adders + tech.register_um2(spec.outputs * spec.acc_bits),
        "result store": tech.sram_um2(_store_bytes(spec), spec.acc_bits),
        "rescale": rescale_um2(tech, spec.acc_bits + FRACTION_BITS) * spec.epilogue_lanes,
    }


MODEL = EnergyModel(
    "pim",
    ACTIONS,
    _areas,
    MappingProxyType(
        {model: MappingProxyType({"conversions": _conversion_under(model)}) for model in adc.MODELS}
    ),
)
"""Prices a run's counts, and the area."""


def adc_areas(spec: PimSpec, *, technology: str, clock_hz: float) -> dict[str, Estimate]:
    """Return the area of all of a macro's ADCs in µm² under each model that gives one.

    Raises
    ------
    ValueError
        If the technology is unknown.
    """
    one = converter(spec, load_technology(technology, clock_hz))
    return {model: adc.area_um2(model, one) * spec.adcs for model in adc.AREA_MODELS}
