# SPDX-License-Identifier: Apache-2.0
"""Driver and monitor of a stream, stepped once per clock cycle.

A stall pattern is a sequence of bools, repeated when it ends and indexed by the cycle; an empty one
never stalls. Cycles are those of the job that runs: the bench starts a new count with each job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


class StreamDriver:
    """Offers beats to a stream that the device accepts.

    Attributes
    ----------
    transfers : int
        Beats that the device has accepted.
    refusals : int
        Cycles in which a beat was offered and the device was not ready.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[int, int]] = deque()
        self._stalls: Sequence[bool] = ()
        self._free_before = 0
        self.transfers = 0
        self.refusals = 0

    def discard(self) -> None:
        """Forget what is queued, as a reset of the device does."""
        self._queue.clear()

    def start(self, stalls: Sequence[bool], *, first_free: bool = False) -> None:
        """Begin a job: counts from 0, cycles of the pattern too.

        With `first_free`, cycle 0 is free whatever the pattern says of it.
        """
        self._stalls = stalls
        self._free_before = int(first_free)
        self.transfers = 0
        self.refusals = 0

    def send(self, payload: int, cycle: int) -> None:
        """Queue a beat that may be offered from `cycle` on, in order."""
        self._queue.append((cycle, payload))

    def offer(self, cycle: int) -> int | None:
        """Return the payload to offer in this cycle, or None."""
        queue, stalls = self._queue, self._stalls
        if not queue or queue[0][0] > cycle:
            return None
        if stalls and stalls[cycle % len(stalls)] and cycle >= self._free_before:
            return None
        return queue[0][1]

    def sample(self, ready: bool) -> None:
        """Tell whether the device was ready for what `offer` returned."""
        if ready:
            self._queue.popleft()
            self.transfers += 1
        else:
            self.refusals += 1

    @property
    def pending(self) -> int:
        """Beats that were not accepted yet."""
        return len(self._queue)


class StreamMonitor:
    """Accepts and checks a stream that the device offers.

    Parameters
    ----------
    name : str
        For messages.
    take : callable
        Called with the cycle and the payload of every transfer.

    Attributes
    ----------
    transfers : int
        Beats that were transferred.
    violations : list of str
        Breaches of the stream rules: once valid, a beat stays, unchanged, until it is transferred.
    """

    def __init__(self, name: str, take: Callable[[int, int], None]) -> None:
        self._name = name
        self._take = take
        self._stalls: Sequence[bool] = ()
        self._held: int | None = None
        self._ready = False
        self.transfers = 0
        self.violations: list[str] = []

    def discard(self) -> None:
        """Forget a held beat and all violations, as a reset of the device does."""
        self._held = None
        self.violations.clear()

    def start(self, stalls: Sequence[bool]) -> None:
        """Begin a job: counts from 0, cycles of the pattern too."""
        self._stalls = stalls
        self.transfers = 0

    def ready(self, cycle: int) -> bool:
        """Return whether to accept a beat in this cycle."""
        stalls = self._stalls
        self._ready = not (stalls and stalls[cycle % len(stalls)])
        return self._ready

    @property
    def waiting(self) -> bool:
        """In the cycle that was sampled last, a beat was offered and not taken."""
        return self._held is not None

    def sample(self, cycle: int, valid: bool, payload: int) -> None:
        """Tell what the device showed in the cycle for which `ready` was asked last."""
        held = self._held
        if held is not None and (not valid or payload != held):
            what = "changed its payload" if valid else "withdrew a beat"
            self.violations.append(f"{self._name} {what} before the transfer, cycle {cycle}")
        self._held = None
        if not valid:
            return
        if self._ready:
            self.transfers += 1
            self._take(cycle, payload)
        else:
            self._held = payload
