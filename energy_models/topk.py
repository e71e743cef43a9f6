# SPDX-License-Identifier: Apache-2.0
"""Energy and area of the top-k engine: its action counts times sourced costs.

Dynamic energy of what section 7 of docs/engines/topk.md counts. Leakage, clock tree, wires and
control logic are not in it, nor is a memory behind the streams: both ends are on the chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cosil.engines.topk import TopkSpec
from energy_models.lib.pricing import Action, EnergyModel, stream
from energy_models.lib.technology import ZERO, Estimate, Technology

# -- one action each -------------------------------------------------------------------------------


def _row_bits(spec: TopkSpec) -> int:
    return spec.lanes * spec.key_bits


def _memory_bytes(spec: TopkSpec) -> float:
    return spec.memory_depth * _row_bits(spec) / 8


def _bins(spec: TopkSpec) -> int:
    """Counters of a histogram: one for each digit but 0."""
    return (1 << spec.digit_widths[0]) - 1


def _lane_bits(spec: TopkSpec) -> int:
    """Bits of a lane number, at least 1."""
    return max(1, (spec.lanes - 1).bit_length())


def _row_write(spec: TopkSpec, tech: Technology) -> Estimate:
    return tech.sram_write_pj(_memory_bytes(spec), _row_bits(spec))


def _row_read(spec: TopkSpec, tech: Technology) -> Estimate:
    # What is read is compared: with the cut, the digits chosen so far, or to find the pivot's lane.
    compare = tech.add_pj(spec.key_bits) + tech.register_pj(spec.key_bits)
    return tech.sram_read_pj(_memory_bytes(spec), _row_bits(spec)) + compare * spec.lanes


def _fifo_read(spec: TopkSpec, tech: Technology) -> Estimate:
    return tech.sram_read_pj(_memory_bytes(spec), _row_bits(spec))


def _histogram_key(spec: TopkSpec, tech: Technology) -> Estimate:
    # Per bin a comparison with a constant, priced as an addition of the digit's bits, which is an
    # upper bound; one full adder of the row's count, a quarter of a 4-bit addition; and the lane's
    # share of the counter.
    compare = tech.add_pj(spec.digit_widths[0])
    counter = tech.add_pj(spec.count_bits) + tech.register_pj(spec.count_bits)
    return (compare + tech.add_pj(4) * 0.25 + counter * (1 / spec.lanes)) * _bins(spec)


def _compared_key(spec: TopkSpec, tech: Technology) -> Estimate:
    # One subtraction tells smaller from greater, another equal from unequal.
    return tech.add_pj(spec.key_bits) * 2 + tech.register_pj(spec.key_bits + 2)


def _moved_key(spec: TopkSpec, tech: Technology, bits: int) -> Estimate:
    """Rank among the kept lanes, move to the front (log2 P stages), and align to a full row."""
    rank = tech.add_pj(_lane_bits(spec)) * _lane_bits(spec)
    # A barrel shifter as wide as the row, for each bit of a key, shared by the lanes.
    move = tech.shift_pj(spec.lanes) * (2 * bits / spec.lanes)
    return rank + move + tech.register_pj(bits * 2)


def _fifo_key(spec: TopkSpec, tech: Technology) -> Estimate:
    written = tech.sram_write_pj(_memory_bytes(spec), _row_bits(spec)) * (1 / spec.lanes)
    return _moved_key(spec, tech, spec.key_bits) + written


def _item(spec: TopkSpec, tech: Technology) -> Estimate:
    return _moved_key(spec, tech, spec.key_bits + spec.index_bits)


def _draw(spec: TopkSpec, tech: Technology) -> Estimate:
    # The generator, and the pivot's position: a 16-bit draw times the number of keys.
    return tech.register_pj(32) + tech.add_pj(32) + tech.multiply_pj(16, spec.count_bits)


def _pass(spec: TopkSpec, tech: Technology) -> Estimate:
    decide = tech.add_pj(spec.count_bits) * 2 + tech.register_pj(spec.count_bits + spec.key_bits)
    if spec.architecture == "quick_select":
        return decide
    # The counters are set, and one of them is selected at the end.
    return decide + tech.register_pj(spec.count_bits) * _bins(spec) + tech.shift_pj(_bins(spec) + 1)


def _keys_bits(spec: TopkSpec) -> int:
    return _row_bits(spec)


def _items_bits(spec: TopkSpec) -> int:
    return spec.lanes * (spec.key_bits + spec.index_bits + 1) + 1


def _job_bits(spec: TopkSpec) -> int:
    del spec
    return 64


ACTIONS: Mapping[str, Action[TopkSpec]] = MappingProxyType(
    {
        "bank_write_rows": Action("banks", _row_write),
        "bank_read_rows": Action("banks", _row_read),
        "histogram_keys": Action("histograms", _histogram_key),
        "compare_keys": Action("comparators", _compared_key),
        "fifo_write_keys": Action("survivors", _fifo_key),
        "fifo_read_rows": Action("survivors", _fifo_read),
        "draws": Action("control", _draw),
        "passes": Action("control", _pass),
        "items": Action("filter", _item),
        "job_beats": stream(_job_bits, on_chip=True),
        "keys_beats": stream(_keys_bits, on_chip=True),
        "items_beats": stream(_items_bits, on_chip=True),
    }
)
"""Action name (section 7) -> how it is priced. The simulator and the bench count the same names."""


# -- area ------------------------------------------------------------------------------------------


def _areas(spec: TopkSpec, tech: Technology) -> dict[str, Estimate]:
    bank = tech.sram_um2(_memory_bytes(spec), _row_bits(spec))
    compare = tech.add_um2(spec.key_bits) * spec.lanes
    found = {"banks": bank * spec.buffers, "filter": compare * 2}
    if spec.architecture == "radix":
        counter = tech.add_um2(spec.count_bits) + tech.register_um2(spec.count_bits)
        adders = tech.add_um2(max(4, _lane_bits(spec))) * (spec.lanes / 4)
        return found | {
            # Load has one, select another where there is a later digit.
            "histograms": (counter + adders) * (_bins(spec) * min(2, spec.digits)),
            "survivor memory": bank if spec.digits > 2 else ZERO,
        }
    return found | {"comparators": compare * 2, "fifos": bank * 2}


MODEL = EnergyModel("topk", ACTIONS, _areas)
"""Prices a run's counts, and the area."""
