# SPDX-License-Identifier: Apache-2.0
"""A queue in block RAM whose head is read ahead."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.hdl._ast import ShapeLike
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.lib.counters import tally


class ReadAheadQueue(wiring.Component):
    """First in, first out, with the head at the memory's output register.

    The memory is read in every cycle, at the head or, where the head leaves, behind it; so nothing
    but one register follows the block RAM, and an element shows two cycles after it came.

    Parameters
    ----------
    shape : ShapeLike
        An element.
    depth : int
        Elements, a power of two of at least 2. Whoever pushes sees to it that there is room.

    Members
    -------
    push, i : In(1), In(shape)
        An element comes in this cycle.
    pop : In(1)
        The head leaves; only where `usable` is 1.
    usable : Out(1)
        There is a head.
    o : Out(shape)
        The head.
    """

    push: Signal
    i: Any
    pop: Signal
    usable: Signal
    o: Any

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "push": In(1),
                "i": In(shape),
                "pop": In(1),
                "usable": Out(1),
                "o": Out(shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = words.write_port(), words.read_port()
        # Both places that may be read are registers, so that `pop` only chooses.
        head, behind = Signal(range(self._depth)), Signal(range(self._depth), init=1)
        tail = Signal(range(self._depth))
        pushed = Signal()  # what came a cycle ago can be read from now on
        count = tally(m, "count", self._depth, pushed, self.pop)
        m.d.sync += [tail.eq(tail + self.push), pushed.eq(self.push)]
        with m.If(self.pop):
            m.d.sync += [head.eq(behind), behind.eq(behind + 1)]
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(tail),
            write.data.eq(self.i),
            read.addr.eq(Mux(self.pop, behind, head)),
            self.usable.eq(count != 0),
            self.o.eq(read.data),
        ]
        return m
