# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the W4A8 array: its action counts times sourced costs.

Dynamic energy of what section 8 of docs/engines/w4a8.md counts, and of the memory behind the
streams. Leakage, clock tree, wires between PEs and control logic are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cosil.engines.w4a8 import W4A8Spec
from energy_models.lib.tables import read_table
from energy_models.lib.technology import TECHNOLOGIES, ZERO, Estimate, Technology, load_technology

MEMORIES = ("lpddr4", "hbm2", "ddr3", "sram_1mb")
"""What may be behind the streams; the default first."""

CostModel = Callable[[W4A8Spec, Technology], Estimate]


@dataclass(frozen=True, slots=True)
class Action:
    """How one counted action is priced.

    Attributes
    ----------
    component : str
        Bar of the energy plot that it belongs to.
    cost : callable
        (spec, technology) -> pJ of one action; for a stream, of one transfer without the memory.
    stream_bits : callable or None
        spec -> bits that one transfer moves from or to the memory; None if it moves none.
    """

    component: str
    cost: CostModel
    stream_bits: Callable[[W4A8Spec], int] | None = None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Energy of a run.

    Attributes
    ----------
    components : mapping of str to float
        pJ by component; sums to `total_pj`.
    actions : mapping of str to float
        pJ by action; sums to `total_pj`.
    total_pj, low_pj, high_pj : float
        The estimate, and the range that the sources leave open.
    technology, memory : str
        Names of the tables.
    """

    components: Mapping[str, float]
    actions: Mapping[str, float]
    total_pj: float
    low_pj: float
    high_pj: float
    technology: str
    memory: str


def energy(
    spec: W4A8Spec,
    counts: Mapping[str, int],
    *,
    technology: str = TECHNOLOGIES[0],
    memory: str = MEMORIES[0],
) -> Breakdown:
    """Return the dynamic energy of a run.

    Parameters
    ----------
    spec : W4A8Spec
        The array.
    counts : mapping of str to int
        Action counts, as ``sim.w4a8.run`` gives them; an action that is left out counts 0.
    technology : {"asap7", "horowitz45"}
        Table of costs.
    memory : {"lpddr4", "hbm2", "ddr3", "sram_1mb"}
        What is behind the streams.

    Raises
    ------
    ValueError
        If a count, the technology or the memory is unknown.
    """
    for name in counts:
        if name not in ACTIONS:
            raise ValueError(f"w4a8: unknown action {name!r}; known are {', '.join(ACTIONS)}")
    tech = load_technology(technology)
    per_bit = _memory_pj_per_bit(memory, tech)
    components: dict[str, float] = {}
    actions: dict[str, float] = {}
    total = ZERO
    for name, action in ACTIONS.items():
        count = counts.get(name, 0)
        parts = [(action.component, action.cost(spec, tech) * count)]
        if action.stream_bits is not None:
            parts.append((f"memory ({memory})", per_bit * (action.stream_bits(spec) * count)))
        for component, part in parts:
            components[component] = components.get(component, 0.0) + part.value
            actions[name] = actions.get(name, 0.0) + part.value
            total += part
    return Breakdown(
        MappingProxyType(components),
        MappingProxyType(actions),
        total.value,
        total.low,
        total.high,
        technology,
        memory,
    )


def area(spec: W4A8Spec, *, technology: str = TECHNOLOGIES[0]) -> dict[str, Estimate]:
    """Return the cell and memory area in µm² by component, without wires and control logic."""
    tech = load_technology(technology)
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


def _beat(bits: Callable[[W4A8Spec], int]) -> CostModel:
    def cost(spec: W4A8Spec, tech: Technology) -> Estimate:
        return tech.register_pj(bits(spec))

    return cost


def _stream(bits: Callable[[W4A8Spec], int]) -> Action:
    return Action("streams", _beat(bits), bits)


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


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        "mac": Action("multiply-accumulate", _mac),
        "operand_reg": Action("operand registers", _operand_register),
        "requant": Action("requantiser", _requantise),
        "result_write": Action("result memory", _result_write),
        "result_read": Action("result memory", _result_read),
        "epilogue": Action("epilogue", _epilogue),
        "ring_write_bytes": Action("operand buffers", _ring_write),
        "ring_read_bytes": Action("operand buffers", _ring_read),
        "a_beats": _stream(_a_bits),
        "w_beats": _stream(_w_bits),
        "s_beats": _stream(_s_bits),
        "e_beats": _stream(_e_bits),
        "r_beats": _stream(_r_bits),
        "y_beats": _stream(_y_bits),
    }
)
"""Action name (section 8) -> how it is priced. The simulator and the bench count the same names."""


def _memory_pj_per_bit(name: str, tech: Technology) -> Estimate:
    if name not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(MEMORIES)}, not {name!r}")
    if name == "sram_1mb":
        return tech.sram_read_pj(1 << 20, 64) * (1 / 64)
    entry = read_table("memories")[name]
    factor = entry["uncertainty"]
    return Estimate(entry["value"], entry["value"] / factor, entry["value"] * factor)
