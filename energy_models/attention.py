# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the sparse attention engine: its action counts times sourced costs.

Dynamic energy of what section 7 of docs/engines/attention.md counts, and of the memory behind the
streams. Leakage, clock tree, wires and control logic are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cosil.engines.attention import (
    CODE_BITS,
    DISTANCE_BITS,
    EPILOGUE_LATENCY,
    EXP_BITS,
    IMPORTANCE_BITS,
    LOG_BITS,
    MULT_BITS,
    OUTPUT_BITS,
    PROBABILITY_BITS,
    QUERY_BITS,
    SCORE_BANKS,
    AttentionSpec,
)
from cosil.engines.topk import TopkSpec
from energy_models import topk
from energy_models.lib.pricing import Action, EnergyModel, stream
from energy_models.lib.technology import ZERO, Estimate, Technology

TABLE_BYTES = 256 * (EXP_BITS + 1) / 8
"""A table of powers of two; each lane has one for the sum and one for the weights."""


# -- one action each -------------------------------------------------------------------------------


def _mac_qk(spec: AttentionSpec, tech: Technology) -> Estimate:
    add = tech.add_pj(spec.score_bits) + tech.register_pj(QUERY_BITS + CODE_BITS)
    return tech.multiply_pj(QUERY_BITS, CODE_BITS) + add


def _mac_pv(spec: AttentionSpec, tech: Technology) -> Estimate:
    add = tech.add_pj(spec.acc_bits) + tech.register_pj(PROBABILITY_BITS + CODE_BITS)
    return tech.multiply_pj(PROBABILITY_BITS, CODE_BITS) + add


def _exponential(spec: AttentionSpec, tech: Technology) -> Estimate:
    product = spec.difference_bits + MULT_BITS
    distance = (
        tech.add_pj(spec.difference_bits)
        + tech.multiply_pj(spec.difference_bits, MULT_BITS)
        + tech.shift_pj(product)
        + tech.add_pj(DISTANCE_BITS)
    )
    power = tech.sram_read_pj(TABLE_BYTES, EXP_BITS + 1) + tech.shift_pj(EXP_BITS + 1)
    registers = tech.register_pj(2 * product + DISTANCE_BITS + 2 * (EXP_BITS + 1))
    return distance + power + tech.add_pj(spec.sum_bits) + registers


def _weight(spec: AttentionSpec, tech: Technology) -> Estimate:
    del spec
    u_bits = DISTANCE_BITS + 1
    power = tech.sram_read_pj(TABLE_BYTES, EXP_BITS + 1) + tech.shift_pj(EXP_BITS + 1)
    registers = tech.register_pj(u_bits + EXP_BITS + 1 + PROBABILITY_BITS)
    return tech.add_pj(u_bits) + power + tech.add_pj(PROBABILITY_BITS) + registers


def _importance_bytes(spec: AttentionSpec) -> float:
    return spec.max_tokens * IMPORTANCE_BITS / 8


def _importance(spec: AttentionSpec, tech: Technology) -> Estimate:
    size = _importance_bytes(spec)
    move = tech.sram_read_pj(size, IMPORTANCE_BITS) + tech.sram_write_pj(size, IMPORTANCE_BITS)
    return move + tech.add_pj(IMPORTANCE_BITS) + tech.register_pj(IMPORTANCE_BITS)


def _score_bits(spec: AttentionSpec) -> int:
    return spec.lanes * spec.score_bits


def _score_bytes(spec: AttentionSpec) -> float:
    return spec.rows * _score_bits(spec) / 8


def _score_write(spec: AttentionSpec, tech: Technology) -> Estimate:
    return tech.sram_write_pj(_score_bytes(spec), _score_bits(spec))


def _score_read(spec: AttentionSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_score_bytes(spec), _score_bits(spec))


def _distance_bits(spec: AttentionSpec) -> int:
    return spec.lanes * DISTANCE_BITS


def _distance_bytes(spec: AttentionSpec) -> float:
    return spec.rows * _distance_bits(spec) / 8


def _distance_write(spec: AttentionSpec, tech: Technology) -> Estimate:
    return tech.sram_write_pj(_distance_bytes(spec), _distance_bits(spec))


def _distance_read(spec: AttentionSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_distance_bytes(spec), _distance_bits(spec))


def _output(spec: AttentionSpec, tech: Technology) -> Estimate:
    product = spec.acc_bits + MULT_BITS
    # Rounded and saturated, then its magnitude added to the head's importance.
    return (
        tech.multiply_pj(spec.acc_bits, MULT_BITS)
        + tech.shift_pj(product)
        + tech.add_pj(OUTPUT_BITS) * 2
        + tech.add_pj(IMPORTANCE_BITS) * (1 / spec.out_lanes)
        + tech.register_pj(product * EPILOGUE_LATENCY)
    )


def _beat(spec: AttentionSpec, tech: Technology) -> Estimate:
    """Write a beat of rows to its buffer, and read it: what the memory gave is priced by bytes."""
    bits = spec.lanes * spec.head_dim * CODE_BITS
    size = spec.fetch_beats * bits / 8
    return tech.sram_write_pj(size, bits) + tech.sram_read_pj(size, bits) + tech.register_pj(bits)


def _redo(spec: AttentionSpec, tech: Technology) -> Estimate:
    """Read the query again and decide once more."""
    return tech.register_pj(spec.head_dim * QUERY_BITS) + tech.add_pj(LOG_BITS) * 2


def _byte_bits(spec: AttentionSpec) -> int:
    del spec
    return 8


def _q_bits(spec: AttentionSpec) -> int:
    return spec.head_dim * QUERY_BITS


def _e_bits(spec: AttentionSpec) -> int:
    return 32 + spec.out_lanes * OUTPUT_BITS + 1


def _kept_bits(spec: AttentionSpec) -> int:
    return spec.lanes * 17 + 1


def _cmd_bits(spec: AttentionSpec) -> int:
    del spec
    return 512


def _inner(action: Action[TopkSpec], selector: str) -> Action[AttentionSpec]:
    """Return a selector's action as one of this engine; both ends of its streams are inside."""

    def cost(spec: AttentionSpec, tech: Technology) -> Estimate:
        return action.cost(getattr(spec, selector), tech)

    return Action(selector.replace("_", " "), cost)


ACTIONS: Mapping[str, Action[AttentionSpec]] = MappingProxyType(
    {
        "mac_qk": Action("query x key", _mac_qk),
        "mac_pv": Action("probability x value", _mac_pv),
        "exp": Action("softmax", _exponential),
        "weigh": Action("softmax", _weight),
        "importance_add": Action("importance", _importance),
        "score_write": Action("scores", _score_write),
        "score_read": Action("scores", _score_read),
        "distance_write": Action("distances", _distance_write),
        "distance_read": Action("distances", _distance_read),
        "out": Action("output", _output),
        "k_msb_bytes": stream(_byte_bits),
        "k_lsb_bytes": stream(_byte_bits),
        "v_bytes": stream(_byte_bits),
        "k_beats": Action("fetch buffers", _beat),
        "v_beats": Action("fetch buffers", _beat),
        "q_beats": stream(_q_bits),
        "e_beats": stream(_e_bits),
        "kept_beats": stream(_kept_bits),
        "cmd_beats": stream(_cmd_bits),
        "redo_rows": Action("softmax", _redo),
        **{f"value_{name}": _inner(a, "value_selector") for name, a in topk.ACTIONS.items()},
        **{f"token_{name}": _inner(a, "importance_selector") for name, a in topk.ACTIONS.items()},
    }
)
"""Action name (section 7) -> how it is priced. The simulator and the bench count the same names."""


# -- area ------------------------------------------------------------------------------------------


def _areas(spec: AttentionSpec, tech: Technology) -> dict[str, Estimate]:
    # A multiplier of the shared pool takes the wider operand of both products.
    wide = tech.multiply_um2(PROBABILITY_BITS, CODE_BITS) + tech.add_um2(spec.acc_bits)
    narrow = tech.multiply_um2(QUERY_BITS, CODE_BITS) + tech.add_um2(spec.score_bits)
    pool = wide * spec.multipliers
    if spec.pool == "split":
        pool = (wide + narrow) * (spec.multipliers / 2)
    copy = tech.sram_um2(_importance_bytes(spec), IMPORTANCE_BITS)
    beat = spec.lanes * spec.head_dim * CODE_BITS
    buffers = tech.sram_um2(spec.fetch_beats * beat / 8, beat)
    distance = tech.multiply_um2(spec.difference_bits, MULT_BITS)
    tables = tech.sram_um2(TABLE_BYTES, EXP_BITS + 1) * 2
    found = {
        "multipliers": pool,
        "softmax": (distance + tables + tech.add_um2(spec.sum_bits)) * spec.lanes,
        "scores": tech.sram_um2(_score_bytes(spec), _score_bits(spec)) * SCORE_BANKS,
        "distances": tech.sram_um2(_distance_bytes(spec), _distance_bits(spec)) * 2,
        "importance": copy * spec.lanes,
        "fetch buffers": buffers * 2,
        "output": tech.multiply_um2(spec.acc_bits, MULT_BITS) * spec.out_lanes,
    }
    for name, selector in (
        ("value selector", spec.value_selector),
        ("importance selector", spec.importance_selector),
    ):
        found[name] = sum(topk.MODEL.areas(selector, tech).values(), ZERO)
    return found


MODEL = EnergyModel("attention", ACTIONS, _areas)
"""Prices a run's counts, and the area."""
