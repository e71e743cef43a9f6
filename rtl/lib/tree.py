# SPDX-License-Identifier: Apache-2.0
"""Balanced trees, combinational or with registers between their levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.hdl._ast import ValueLike

from rtl.lib.pipeline import register


def add(a: Value, b: Value) -> Value:
    """Return the exact sum."""
    return a + b


def larger(a: Value, b: Value) -> Value:
    """Return the larger of two values of one shape."""
    return Mux(a > b, a, b)


def add_in_gates(a: Value, b: Value) -> Value:
    """Return the exact sum of unsigned numbers; of two bits at most, as gates.

    A carry chain costs more to enter and to leave than two bits of it save.
    """
    if max(len(a), len(b)) > 2:
        return a + b
    total: list[Value] = [a[0] ^ b[0]]
    carry: Value = a[0] & b[0]
    for i in range(1, max(len(a), len(b))):
        each = [operand[i] if i < len(operand) else Const(0, 1) for operand in (a, b)]
        odd = each[0] ^ each[1]
        total.append(odd ^ carry)
        carry = (each[0] & each[1]) | (odd & carry)
    return Cat(*total, carry)


def tree(values: Sequence[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """Return all values, one at least, combined without registers.

    Parameters
    ----------
    values : sequence of Value
        Operands.
    combine : callable
        As for `registered_tree`.
    """
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = [*pairs, *values[2 * len(pairs) :]]
    return values[0]


def registered_tree(
    m: Module,
    values: Sequence[Value],
    combine: Callable[[Value, Value], Value],
    *,
    name: str,
) -> Value:
    """Return all values combined, behind max(1, ceil(log2(len(values)) / 2)) registers.

    Parameters
    ----------
    m : Module
        Module that receives the tree.
    values : sequence of Value
        Operands, one at least.
    combine : callable
        `add` or `larger`; the result's shape is that of the tree's next level.
    name : str
        Name of the registers, followed by level and place.
    """
    level = 0
    while True:
        values, level = registered_levels(m, 1, values, combine, levels=2, name=name, level=level)
        if len(values) == 1:
            return values[0]


def registered_levels(
    m: Module,
    en: ValueLike,
    values: Sequence[Value],
    combine: Callable[[Value, Value], Value],
    *,
    levels: int,
    name: str,
    level: int = 0,
) -> tuple[list[Value], int]:
    """Return what some levels of a tree leave, behind a register each, and the level reached.

    Of an odd number of values, the last one goes to the next level as it is.

    Parameters
    ----------
    m, values, combine, name
        As for `registered_tree`.
    en : ValueLike
        Clock enable.
    levels : int
        Levels before the registers; fewer where one value is left.
    level : int
        Levels that come before, for the names.
    """
    values = list(values)
    for _ in range(levels):
        if len(values) > 1:
            pairs = [
                _named(m, combine(values[i], values[i + 1]), f"{name}_{level}_{i // 2}")
                for i in range(0, len(values) - 1, 2)
            ]
            values = [*pairs, *values[2 * len(pairs) :]]
            level += 1
    held = [
        register(m, en, value, name=f"{name}_reg_{level}_{i}") for i, value in enumerate(values)
    ]
    return held, level


def _named(m: Module, value: Value, name: str) -> Signal:
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal
