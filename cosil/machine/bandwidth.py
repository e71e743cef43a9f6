# SPDX-License-Identifier: Apache-2.0
"""Memory bandwidth as stall patterns of an engine's streams.

A job's beats are known before it runs. Its streams share the bandwidth in proportion to the bytes
that they move: if all of a job's bytes take T cycles at full bandwidth, a stream with b beats may
transfer one every T / b cycles, evenly spaced from the first cycle in which a response can come.
So no span of cycles moves more than the bandwidth allows plus one beat of each stream. The shares
are static, which is what a time-division arbiter does: a stream that has nothing to move does not
lend its slots. The simulator runs under these patterns as under any other, and the bench can apply
them to the hardware; the cycles are therefore simulated, not a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosil.machine.spec import Memory

PERIOD = 1 << 16
"""Cycles after which a pattern repeats; slots in a period are rounded down, at least one."""

Stalls = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a job moves from and to memory.

    Attributes
    ----------
    beats : mapping of str to int
        Transfers of each stream that touches the memory, by its letter.
    beat_bytes : mapping of str to int
        Bytes of one transfer of each of them.
    """

    beats: Mapping[str, int]
    beat_bytes: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Bytes of all streams, both ways."""
        return sum(count * self.beat_bytes[name] for name, count in self.beats.items())

    def stalls(self, memory: Memory) -> Stalls:
        """Return the stall pattern of each stream that the memory's bandwidth would hold up."""
        if not memory.bytes_per_cycle:
            return {}
        cycles = self.bytes / memory.bytes_per_cycle
        found: Stalls = {}
        for name, count in self.beats.items():
            if not count or count >= cycles:
                continue
            slots = max(1, int(count / cycles * PERIOD))
            free = np.arange(slots, dtype=np.int64) * PERIOD // slots
            pattern = np.ones(PERIOD, dtype=np.bool_)
            pattern[(free + 1 + memory.latency_cycles) % PERIOD] = False
            found[name] = pattern
        return found
