# SPDX-License-Identifier: Apache-2.0
"""Registers of a data path that advances only while its enable is high."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value


def register(m: Module, en: Value, value: Any, *, name: str, stages: int = 1) -> Any:
    """Return `value` behind `stages` registers that load only where `en` is 1.

    The registers have no reset: a valid bit that travels beside them decides what counts.

    Parameters
    ----------
    m : Module
        Module that receives the registers, in the domain ``sync``.
    en : Value
        Clock enable of every stage.
    value : Value or View
        What is delayed; the result has the same shape.
    name : str
        Signal name; stages after the first append their number.
    stages : int
        Number of registers, at least 0.
    """
    for index in range(stages):
        delayed = Signal(
            value.shape(), name=name if index == 0 else f"{name}_{index}", reset_less=True
        )
        with m.If(en):
            m.d.sync += delayed.eq(value)
        value = delayed
    return value
