# SPDX-License-Identifier: Apache-2.0
"""A walk through a dimension without division: what is left of it, and the present block."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal, Value
from amaranth.hdl._ast import Assign


class Blocks:
    """Walks through `total` in blocks of `size`; every output is a register.

    Both flags of the next block are computed from the present count in parallel, so that no
    comparison follows a subtraction in one cycle.

    Parameters
    ----------
    size : int or Value
        Elements of a block; a value has to hold from `load` to the last `step`.
    width : int
        Bits that hold the largest total.
    name : str
        Prefix of the registers.
    most : int, optional
        The largest `size`, where it is a value.

    Attributes
    ----------
    left : Signal
        Elements from the present block on.
    more : Signal
        Another block follows the present one.
    part : Signal
        Elements in the present block, 1..size.
    """

    def __init__(
        self, size: int | Value, width: int, name: str, *, most: int | None = None
    ) -> None:
        if isinstance(size, int):
            most = size
        assert most is not None
        self.size = size
        self.left = Signal(width, name=f"{name}_left")
        self.more = Signal(name=f"{name}_more")
        self.part = Signal(range(most + 1), name=f"{name}_part")

    def load(self, total: Value) -> list[Assign]:
        """Return the assignments that begin a walk through `total`."""
        more = total > self.size
        return [
            self.left.eq(total),
            self.more.eq(more),
            self.part.eq(Mux(more, self.size, total)),
        ]

    def step(self) -> list[Assign]:
        """Return the assignments that go to the next block; only where `more` is 1."""
        more = self.left > (self.size << 1)
        return [
            self.left.eq(self.left - self.size),
            self.more.eq(more),
            self.part.eq(Mux(more, self.size, self.left - self.size)),
        ]
