# SPDX-License-Identifier: Apache-2.0
"""Counters of what is reserved or in flight."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value


def tally(
    m: Module, name: str, limit: int, up: Value, down: Value, *, init: int = 0, by: int = 1
) -> Signal:
    """Return a counter in 0..limit that `up` raises and `down` lowers, seen in the next cycle."""
    count = Signal(range(limit + 1), name=name, init=init)
    with m.If(up & ~down):
        m.d.sync += count.eq(count + by)
    with m.Elif(down & ~up):
        m.d.sync += count.eq(count - by)
    return count
