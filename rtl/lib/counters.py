# SPDX-License-Identifier: Apache-2.0
"""Counters of what is reserved or in flight."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value


def tally(m: Module, name: str, limit: int, up: Value, down: Value, *, init: int = 0) -> Signal:
    """Return a counter in 0..limit that `up` raises and `down` lowers, seen in the next cycle."""
    count = Signal(range(limit + 1), name=name, init=init)
    with m.If(up & ~down):
        m.d.sync += count.eq(count + 1)
    with m.Elif(down & ~up):
        m.d.sync += count.eq(count - 1)
    return count


def pending(m: Module, name: str, limit: int, up: Value, down: Value, *, init: int = 0) -> Signal:
    """Return 1 where the `tally` of `up` and `down` is not 0, in a register of its own.

    A decision that waits for it begins at a register, not behind a comparison.
    """
    count = tally(m, name, limit, up, down, init=init)
    some = Signal(name=f"{name}_some", init=int(init != 0))
    with m.If(up & ~down):
        m.d.sync += some.eq(1)
    with m.Elif(down & ~up):
        m.d.sync += some.eq(count != 1)
    return some
