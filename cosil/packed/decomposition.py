# SPDX-License-Identifier: Apache-2.0
"""How weights are spread over the columns of an analog array, and the integers that follow.

`docs/engines/pim.md`, section 1, defines the three decompositions. Weights have `weight_bits` bits,
activation slices `slice_bits`; an output owns `planes` columns, whose cells have `cell_bits` bits.
"""

from __future__ import annotations

from typing import Literal

Decomposition = Literal["bit_serial", "differential", "native"]

DECOMPOSITIONS: tuple[Decomposition, ...] = ("bit_serial", "differential", "native")

VALUES_MAX = 65536
"""Most values that a column may have: entries of a transfer table."""

GROUPS_MAX = 256
"""Most groups of rows whose sums are added in one accumulator."""


def planes(decomposition: Decomposition, weight_bits: int) -> int:
    """Return P, the columns of an output."""
    return {"bit_serial": weight_bits, "differential": 2, "native": 1}[decomposition]


def cell_bits(decomposition: Decomposition, weight_bits: int) -> int:
    """Return Q, the bits of a cell."""
    return {"bit_serial": 1, "differential": weight_bits - 1, "native": weight_bits}[decomposition]


def plane_weights(decomposition: Decomposition, weight_bits: int) -> tuple[int, ...]:
    """Return the P factors by which the codes of an output's columns are added."""
    if decomposition == "bit_serial":
        top = weight_bits - 1
        return (*(1 << p for p in range(top)), -(1 << top))
    return (1, -1) if decomposition == "differential" else (1,)


def encoding(decomposition: Decomposition) -> Literal["twos", "differential"]:
    """Return the encoding of codec `bitplane` that holds the cells."""
    return "differential" if decomposition == "differential" else "twos"


def value_range(
    decomposition: Decomposition, weight_bits: int, slice_bits: int, rows: int
) -> tuple[int, int]:
    """Return the least and the largest value of a column of so many rows."""
    most = rows * ((1 << slice_bits) - 1)
    if decomposition == "bit_serial":
        return 0, most
    top = 1 << (weight_bits - 1)
    return (-most * top if decomposition == "native" else 0), most * (top - 1)


def code_range(decomposition: Decomposition, adc_bits: int) -> tuple[int, int]:
    """Return the least and the largest code of an ADC."""
    if decomposition == "native":
        most = (1 << (adc_bits - 1)) - 1
        return -most, most
    return 0, (1 << adc_bits) - 1
