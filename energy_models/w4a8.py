# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the W4A8 array: its action counts times sourced costs.

Dynamic energy of what section 8 of docs/engines/w4a8.md counts, and of the memory behind the
streams. Leakage, clock tree, wires between PEs and control logic are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cosil.engines.w4a8 import W4A8Spec
from energy_models.lib.pricing import Action, EnergyModel, stream
from energy_models.lib.technology import Estimate, Technology

# -- one action each -------------------------------------------------------------------------------


def _mac(spec: W4A8Spec, tech: Technology) -> Estimate:
    weight_bits = 4 if spec.scales == "channel" else 8
    add = tech.add_pj(spec.acc_bits) + tech.register_pj(spec.acc_bits)
    return tech.multiply_pj(weight_bits, 8) + add


def _operand_register(spec: W4A8Spec, tech: Technology) -> Estimate:
    # Activation and weight registers are one count. Weights of the channel datapath have 4 bits, so
    # that 8 is an upper bound there.
    return tech.register_pj(8)


def _requantise(spec: W4A8Spec, tech: Technology) -> Estimate:
    # 4-bit code times 11-bit significand, alignment, rounding, and the two pipeline registers.
    return tech.multiply_pj(4, 11) + tech.shift_pj(16) + tech.add_pj(8) + tech.register_pj(15 + 8)


def _epilogue(spec: W4A8Spec, tech: Technology) -> Estimate:
    if spec.epilogue == "fp16":
        # Integer to float32 (shift, rounding), two float32 products, rounding to float16.
        return (
            tech.shift_pj(spec.acc_bits)
            + tech.add_pj(24)
            + tech.float32_multiply_pj() * 2
            + tech.shift_pj(16)
            + tech.add_pj(16)
            + tech.register_pj(32 * spec.epilogue_latency)
        )
    wide = max(spec.acc_bits, 32) + 1
    return (
        tech.add_pj(wide)
        + tech.multiply_pj(wide, 16)
        + tech.shift_pj(wide + 17)
        + tech.add_pj(16)
        + tech.register_pj((wide + 17) * spec.epilogue_latency)
    )


def _result_bytes(spec: W4A8Spec) -> float:
    return spec.result_rows * spec.acc_bits / 8


def _result_write(spec: W4A8Spec, tech: Technology) -> Estimate:
    return tech.sram_write_pj(_result_bytes(spec), spec.acc_bits)


def _result_read(spec: W4A8Spec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_result_bytes(spec), spec.acc_bits)


def _ring_bytes(spec: W4A8Spec) -> float:
    return spec.prefetch_chunks * spec.chunk


def _ring_write(spec: W4A8Spec, tech: Technology) -> Estimate:
    return tech.sram_write_pj(_ring_bytes(spec), 8)


def _ring_read(spec: W4A8Spec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_ring_bytes(spec), 8)


def _a_bits(spec: W4A8Spec) -> int:
    return 8 * spec.a_beat_bytes


def _w_bits(spec: W4A8Spec) -> int:
    return 8 * spec.w_beat_bytes


def _s_bits(spec: W4A8Spec) -> int:
    return 16 * spec.array_cols


def _e_bits(spec: W4A8Spec) -> int:
    return spec.e_bits * spec.array_cols


def _r_bits(spec: W4A8Spec) -> int:
    return 32 * spec.array_rows


def _y_bits(spec: W4A8Spec) -> int:
    return 16 * spec.epilogue_lanes


ACTIONS: Mapping[str, Action[W4A8Spec]] = MappingProxyType(
    {
        "mac": Action("multiply-accumulate", _mac),
        "operand_reg": Action("operand registers", _operand_register),
        "requant": Action("requantiser", _requantise),
        "result_write": Action("result memory", _result_write),
        "result_read": Action("result memory", _result_read),
        "epilogue": Action("epilogue", _epilogue),
        "ring_write_bytes": Action("operand buffers", _ring_write),
        "ring_read_bytes": Action("operand buffers", _ring_read),
        "a_beats": stream(_a_bits),
        "w_beats": stream(_w_bits),
        "s_beats": stream(_s_bits),
        "e_beats": stream(_e_bits),
        "r_beats": stream(_r_bits),
        "y_beats": stream(_y_bits),
    }
)
"""Action name (section 8) -> how it is priced. The simulator and the bench count the same names."""


# -- area ------------------------------------------------------------------------------------------


def _areas(spec: W4A8Spec, tech: Technology) -> dict[str, Estimate]:
    weight_bits = 4 if spec.scales == "channel" else 8
    pe = (
        tech.multiply_um2(weight_bits, 8)
        + tech.add_um2(spec.acc_bits)
        + tech.register_um2(spec.acc_bits + weight_bits + 8)
    )
    rings = spec.array_rows + spec.array_cols
    return {
        "array": pe * (spec.array_rows * spec.array_cols),
        "result memory": tech.sram_um2(_result_bytes(spec), spec.acc_bits) * spec.array_cols,
        "operand buffers": tech.sram_um2(_ring_bytes(spec), 8) * rings,
    }


MODEL = EnergyModel("w4a8", ACTIONS, _areas)
"""Prices a run's counts, and the area."""
