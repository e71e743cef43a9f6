# SPDX-License-Identifier: Apache-2.0
"""Technologies: what a sum, a product, a register or a memory access costs at one node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from energy_models.lib.scaling import area_factor, energy_factor
from energy_models.lib.tables import read_table

TECHNOLOGIES = ("asap7", "horowitz45")
"""Complete technologies, the default first. They disagree: a report names both."""

CLOCK_HZ = 500e6
"""Clock where none is given. Only what depends on a rate, such as a converter, asks for it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A cost with the range that its sources leave open.

    Attributes
    ----------
    value, low, high : float
        pJ or µm²; low <= value <= high.
    """

    value: float
    low: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        """Add; the ranges add too, since errors of one table tend to share their sign."""
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, count: float) -> Estimate:
        """Return the cost of `count` such actions."""
        return Estimate(self.value * count, self.low * count, self.high * count)

    __rmul__ = __mul__


ZERO = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Technology:
    """The costs of one table; build it with `load_technology`.

    Attributes
    ----------
    name, summary : str
        As the table gives them.
    node_nm, voltage_v : float
        What every cost is scaled to.
    costs, areas : mapping
        The entries of the table.
    clock_hz : float
        For costs that depend on a rate.
    """

    name: str
    summary: str
    node_nm: float
    voltage_v: float
    costs: Mapping[str, Mapping[str, Any]]
    areas: Mapping[str, Mapping[str, Any]]
    clock_hz: float = CLOCK_HZ

    # -- energy in pJ ------------------------------------------------------------------------

    def multiply_pj(self, bits_a: int, bits_b: int) -> Estimate:
        """Return the energy of a signed integer product.

        Unequal widths are priced as the square product of as many partial product bits.
        """
        return self._energy("int_mul", math.sqrt(bits_a * bits_b))

    def add_pj(self, bits: int) -> Estimate:
        """Return the energy of an integer addition or rounding increment."""
        return self._energy("int_add", bits)

    def shift_pj(self, bits: int) -> Estimate:
        """Return the energy of a barrel shift."""
        return self._energy("shift", bits)

    def float32_multiply_pj(self) -> Estimate:
        """Return the energy of one float32 product."""
        return self._energy("fp32_mul", 1)

    def register_pj(self, bits: int) -> Estimate:
        """Return the energy of writing `bits` flip-flops, half of which toggle."""
        return self._energy("register_bit", 1) * bits

    def sram_read_pj(self, capacity_bytes: float, width_bits: int) -> Estimate:
        """Return the energy of reading one word of an SRAM."""
        return self._energy("sram_read", 1) * self._sram("sram_read", capacity_bytes, width_bits)

    def sram_write_pj(self, capacity_bytes: float, width_bits: int) -> Estimate:
        """Return the energy of writing one word of an SRAM."""
        return self._energy("sram_write", 1) * self._sram("sram_write", capacity_bytes, width_bits)

    # -- area in µm² -------------------------------------------------------------------------

    def multiply_um2(self, bits_a: int, bits_b: int) -> Estimate:
        """Return the area of a signed integer multiplier."""
        return self._area("int_mul", math.sqrt(bits_a * bits_b))

    def add_um2(self, bits: int) -> Estimate:
        """Return the area of an integer adder."""
        return self._area("int_add", bits)

    def register_um2(self, bits: int) -> Estimate:
        """Return the area of `bits` flip-flops."""
        return self._area("register_bit", 1) * bits

    def sram_um2(self, capacity_bytes: float, width_bits: int) -> Estimate:
        """Return the area of an SRAM with one port."""
        entry = self.areas["sram"]
        return self._area("sram", 1) * _power_law(entry, capacity_bytes, width_bits)

    # -- entries of other tables ---------------------------------------------------------------

    def scaled_pj(self, entry: Mapping[str, Any], bits: float = 1) -> Estimate:
        """Return an energy entry of any table at this node and voltage."""
        factor = 1.0
        if "scaling" in entry:
            factor = energy_factor(
                entry["scaling"], entry["node_nm"], entry["voltage_v"], self.node_nm, self.voltage_v
            )
        return _estimate(entry, bits, factor)

    def scaled_um2(self, entry: Mapping[str, Any], bits: float = 1) -> Estimate:
        """Return an area entry of any table at this node."""
        factor = 1.0
        if "scaling" in entry:
            factor = area_factor(entry["scaling"], entry["node_nm"], self.node_nm)
        return _estimate(entry, bits, factor)

    # ----------------------------------------------------------------------------------------

    def _energy(self, name: str, bits: float) -> Estimate:
        return self.scaled_pj(self.costs[name], bits)

    def _area(self, name: str, bits: float) -> Estimate:
        return self.scaled_um2(self.areas[name], bits)

    def _sram(self, name: str, capacity_bytes: float, width_bits: int) -> float:
        return _power_law(self.costs[name], capacity_bytes, width_bits)


def load_technology(name: str, clock_hz: float = CLOCK_HZ) -> Technology:
    """Return the technology of that name, at a clock.

    Raises
    ------
    ValueError
        If there is none; the message lists those known.
    """
    if name not in TECHNOLOGIES:
        raise ValueError(f"technology must be one of {', '.join(TECHNOLOGIES)}, not {name!r}")
    table = read_table(name)
    return Technology(
        table["name"],
        table["summary"],
        table["node_nm"],
        table["voltage_v"],
        table["costs"],
        table["areas"],
        clock_hz,
    )


def _estimate(entry: Mapping[str, Any], bits: float, factor: float) -> Estimate:
    value = factor * (interpolate(entry["points"], bits) if "points" in entry else entry["value"])
    return Estimate(value, value / entry["uncertainty"], value * entry["uncertainty"])


def interpolate(points: Mapping[int, float], bits: float) -> float:
    """Return the value at `bits`: a power law between neighbours, or beyond the last two."""
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]] * bits / known[0]
    upper = next((i for i, b in enumerate(known) if b >= bits), len(known) - 1)
    right, left = known[max(upper, 1)], known[max(upper, 1) - 1]
    slope = math.log(points[right] / points[left]) / math.log(right / left)
    return points[left] * (bits / left) ** slope


def _power_law(entry: Mapping[str, Any], capacity_bytes: float, width_bits: int) -> float:
    size = (capacity_bytes / 1024) ** entry["size_exponent"]
    return size * (width_bits / 64) ** entry["width_exponent"]
