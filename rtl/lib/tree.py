# SPDX-License-Identifier: Apache-2.0
"""Balanced trees, combinational or with a register behind every second level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Module, Mux, Signal, Value

from rtl.lib.pipeline import register


def add(a: Value, b: Value) -> Value:
    """Return the exact sum."""
    return a + b


def larger(a: Value, b: Value) -> Value:
    """Return the larger of two values of one shape."""
    return Mux(a > b, a, b)


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
        Operands, a power of two of them.
    combine : callable
        `add` or `larger`; the result's shape is that of the tree's next level.
    name : str
        Name of the registers, followed by level and place.
    """
    level = 0
    while True:
        for _ in range(2):
            if len(values) > 1:
                values = [
                    _named(m, combine(values[i], values[i + 1]), f"{name}_{level}_{i // 2}")
                    for i in range(0, len(values), 2)
                ]
                level += 1
        values = [
            register(m, 1, value, name=f"{name}_reg_{level}_{i}") for i, value in enumerate(values)
        ]
        if len(values) == 1:
            return values[0]


def _named(m: Module, value: Value, name: str) -> Signal:
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal
