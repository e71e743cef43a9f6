# SPDX-License-Identifier: Apache-2.0
"""Comparison of results with expectations that cannot pass by silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_MESSAGES = 8


@dataclass(slots=True)
class Verdict:
    """What was compared, each kind by itself.

    Attributes
    ----------
    bits_equal : bool
        Every expected result came once, with the expected bits, and nothing else came.
    cycles_equal : bool
    counts_equal : bool
    protocol_kept : bool
        No stream broke a rule, and every input was accepted.
    messages : list of str
        The first differences, for people.
    """

    bits_equal: bool = True
    cycles_equal: bool = True
    counts_equal: bool = True
    protocol_kept: bool = True
    messages: list[str] = field(default_factory=list[str])

    @property
    def passed(self) -> bool:
        """All comparisons held."""
        return self.bits_equal and self.cycles_equal and self.counts_equal and self.protocol_kept

    def fail(self, kind: str, message: str) -> None:
        """Record a difference; `kind` is one of the attributes."""
        setattr(self, kind, False)
        if len(self.messages) < _MESSAGES:
            self.messages.append(message)

    def compare(
        self, kind: str, expected: Mapping[str, object], got: Mapping[str, object], what: str = ""
    ) -> None:
        """Record each value that is not the expected one, or that one side only has.

        Parameters
        ----------
        kind : str
            As for `fail`.
        expected, got : mapping of str to value
            A number or, for milestones, a list of numbers.
        what : str
            Follows the name in a message.
        """
        for name in {**expected, **got}:
            a, b = (side.get(name, "nothing") for side in (expected, got))
            if a != b:
                self.fail(kind, f"{name}{what}: expected {a}, got {b}")


class Scoreboard:
    """Results by address against a memory image.

    Parameters
    ----------
    expected : mapping of int to int
        Result bits by address; must not be empty.
    verdict : Verdict
        Receives what differs.
    """

    def __init__(self, expected: Mapping[int, int], verdict: Verdict) -> None:
        self._expected = dict(expected)
        self._total = len(self._expected)
        self._compared = 0
        self._verdict = verdict

    @property
    def done(self) -> bool:
        """Every expected result has come."""
        return not self._expected

    def take(self, cycle: int, address: int, value: int) -> None:
        """Compare one result."""
        expected = self._expected.pop(address, None)
        if expected is None:
            self._verdict.fail(
                "bits_equal", f"cycle {cycle}: surplus result {value:#06x} at address {address}"
            )
            return
        self._compared += 1
        if value != expected:
            self._verdict.fail(
                "bits_equal",
                f"cycle {cycle}: address {address}: expected {expected:#06x}, got {value:#06x}",
            )

    def finish(self) -> None:
        """Fail unless something was compared and nothing is missing."""
        if self._expected:
            self._verdict.fail(
                "bits_equal",
                f"{len(self._expected)} of {self._total} results are missing, "
                f"the first at address {min(self._expected)}",
            )
        elif not self._compared:
            self._verdict.fail("bits_equal", "no result was expected, so nothing was compared")
