# SPDX-License-Identifier: Apache-2.0
"""Registers of a data path that advances only while its enable is high."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.hdl._ast import ValueLike


def register(
    m: Module, en: ValueLike, value: Any, *, name: str, stages: int = 1, reset: bool = False
) -> Any:
    """Return `value` behind `stages` registers that load only where `en` is 1.

    Data needs no reset: a valid bit that travels beside it decides what counts.

    Parameters
    ----------
    m : Module
        Module that receives the registers, in the domain ``sync``.
    en : ValueLike
        Clock enable of every stage; 1 if they always advance.
    value : Value or View
        What is delayed; the result has the same shape.
    name : str
        Signal name; stages after the first append their number.
    stages : int
        Number of registers, at least 0.
    reset : bool
        They become 0 with the domain's reset.
    """
    for index in range(stages):
        delayed = Signal(
            value.shape(), name=name if index == 0 else f"{name}_{index}", reset_less=not reset
        )
        with m.If(en):
            m.d.sync += delayed.eq(value)
        value = delayed
    return value
