# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the XNOR array: its action counts times sourced costs.

Dynamic energy of what section 6 of docs/engines/xnor.md counts, and of the memory behind the
streams. Leakage, clock tree, wires and control logic are not in it. Gates are priced in full
adders: a sum of 4 bits has four of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cosil.engines.xnor import XnorSpec
from energy_models.lib.fixed_point import rescale_pj, rescale_um2
from energy_models.lib.pricing import Action, EnergyModel, stream
from energy_models.lib.technology import Estimate, Technology

FRACTION_BITS = 4
"""The fixed-point epilogue counts a sum in sixteenths (section 1)."""

BASE_BITS, COLUMN_BITS, THRESHOLD_BITS = 16, 55, 32
"""Of one output: its base, its column parameters, and the threshold that is one of them."""


def _gates(spec: XnorSpec) -> float:
    """Full adders for an input of an output.

    A full adder is two XORs and a majority. The tree has one for each input but as many as the
    count has bits; XNOR is half of one, AND with the non-zero bit a quarter.
    """
    return 1.5 if spec.weights == "binary" else 1.75


def _tree_bits(spec: XnorSpec) -> int:
    """Flip-flops of an output's tree: after each three levels the counts of eight times as many."""
    stages = range(1, spec.tree_stages + 1)
    return sum(-(-spec.simd // 8**stage) * (3 * stage + 1) for stage in stages)


# -- memories: every output of a fold has its own --------------------------------------------------


def _weight_bits(spec: XnorSpec) -> int:
    return spec.simd * spec.weight_planes


def _weight_bytes(spec: XnorSpec) -> float:
    return spec.weight_depth * _weight_bits(spec) / 8


def _base_bytes(spec: XnorSpec) -> float:
    return spec.base_depth * BASE_BITS / 8


def _column_bytes(spec: XnorSpec) -> float:
    return spec.output_folds_max * COLUMN_BITS / 8


def _buffer_bytes(spec: XnorSpec) -> float:
    return spec.input_folds_max * spec.simd / 8


def _window_bytes(spec: XnorSpec) -> float:
    return spec.output_folds_max * spec.pe / 8


# -- one action each -------------------------------------------------------------------------------


def _xnor(spec: XnorSpec, tech: Technology) -> Estimate:
    gates = tech.add_pj(4) * (_gates(spec) / 4)
    return gates + tech.register_pj(1) * (_tree_bits(spec) / spec.simd)


def _weight_read(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_weight_bytes(spec), _weight_bits(spec)) * spec.pe


def _base_read(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_base_bytes(spec), BASE_BITS) * spec.pe


def _column_read(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_column_bytes(spec), COLUMN_BITS) * spec.pe


def _input_write(spec: XnorSpec, tech: Technology) -> Estimate:
    # From the queue's flip-flops, which the stream pays for, to the buffer.
    return tech.sram_write_pj(_buffer_bytes(spec), spec.simd)


def _input_read(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_buffer_bytes(spec), spec.simd)


def _accumulate(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.add_pj(spec.mismatch_bits) + tech.register_pj(spec.mismatch_bits)


def _result(spec: XnorSpec, tech: Technology) -> Estimate:
    made = tech.add_pj(spec.sum_bits) + tech.register_pj(spec.sum_bits)
    if spec.epilogue == "fixed":
        return made + rescale_pj(tech, spec.sum_bits + FRACTION_BITS)
    # A comparison is a subtraction; then the bit's share of a fold's window, read and written.
    size = _window_bytes(spec)
    window = tech.sram_read_pj(size, spec.pe) + tech.sram_write_pj(size, spec.pe)
    return made + tech.add_pj(THRESHOLD_BITS) + tech.register_pj(1) + window * (1 / spec.pe)


def _y_lane_bits(spec: XnorSpec) -> int:
    return 1 if spec.epilogue == "threshold" else 16


def _output(spec: XnorSpec, tech: Technology) -> Estimate:
    return tech.register_pj(_y_lane_bits(spec))


def _w_bits(spec: XnorSpec) -> int:
    return spec.pe * _weight_bits(spec)


def _c_bits(spec: XnorSpec) -> int:
    return spec.pe * BASE_BITS


def _e_bits(spec: XnorSpec) -> int:
    return spec.pe * 64


def _x_bits(spec: XnorSpec) -> int:
    # The class is not moved: counters beside the memory make it.
    return spec.simd


def _y_bits(spec: XnorSpec) -> int:
    return spec.pe * _y_lane_bits(spec)


def _job_bits(spec: XnorSpec) -> int:
    del spec
    return 256


def _weight_write(spec: XnorSpec, tech: Technology) -> Estimate:
    written = tech.sram_write_pj(_weight_bytes(spec), _weight_bits(spec)) * spec.pe
    return tech.register_pj(_w_bits(spec)) + written


def _base_write(spec: XnorSpec, tech: Technology) -> Estimate:
    written = tech.sram_write_pj(_base_bytes(spec), BASE_BITS) * spec.pe
    return tech.register_pj(_c_bits(spec)) + written


def _column_write(spec: XnorSpec, tech: Technology) -> Estimate:
    written = tech.sram_write_pj(_column_bytes(spec), COLUMN_BITS) * spec.pe
    return tech.register_pj(_e_bits(spec)) + written


ACTIONS: Mapping[str, Action[XnorSpec]] = MappingProxyType(
    {
        "xnor": Action("XNOR and tree", _xnor),
        "weight_reads": Action("weight memory", _weight_read),
        "base_reads": Action("parameter memories", _base_read),
        "column_reads": Action("parameter memories", _column_read),
        "input_writes": Action("input buffer", _input_write),
        "input_reads": Action("input buffer", _input_read),
        "accumulates": Action("accumulators", _accumulate),
        "results": Action("epilogue", _result),
        "outputs": Action("epilogue", _output),
        "w_beats": Action("streams", _weight_write, _w_bits),
        "c_beats": Action("streams", _base_write, _c_bits),
        "e_beats": Action("streams", _column_write, _e_bits),
        "x_beats": stream(_x_bits),
        "y_beats": stream(_y_bits),
        "job_beats": stream(_job_bits),
    }
)
"""Action name (section 6) -> how it is priced. The simulator and the bench count the same names."""


# -- area ------------------------------------------------------------------------------------------


def _areas(spec: XnorSpec, tech: Technology) -> dict[str, Estimate]:
    gates = tech.add_um2(4) * (_gates(spec) / 4 * spec.simd)
    accumulator = tech.add_um2(spec.mismatch_bits) + tech.register_um2(spec.mismatch_bits)
    sums = tech.add_um2(spec.sum_bits) + tech.register_um2(spec.sum_bits)
    parameters = tech.sram_um2(_base_bytes(spec), BASE_BITS) + tech.sram_um2(
        _column_bytes(spec), COLUMN_BITS
    )
    found = {
        "XNOR and tree": (gates + tech.register_um2(_tree_bits(spec))) * spec.pe,
        "weight memory": tech.sram_um2(_weight_bytes(spec), _weight_bits(spec)) * spec.pe,
        "parameter memories": parameters * spec.pe,
        "input buffer": tech.sram_um2(_buffer_bytes(spec), spec.simd),
        "accumulators": accumulator * spec.pe,
    }
    if spec.epilogue == "fixed":
        lane = sums + rescale_um2(tech, spec.sum_bits + FRACTION_BITS)
        return found | {"epilogue": lane * spec.pe}
    window = tech.sram_um2(_window_bytes(spec), spec.pe)
    return found | {"epilogue": (sums + tech.add_um2(THRESHOLD_BITS)) * spec.pe + window}


MODEL = EnergyModel("xnor", ACTIONS, _areas)
"""Prices a run's counts, and the area."""
