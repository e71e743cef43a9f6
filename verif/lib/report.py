# SPDX-License-Identifier: Apache-2.0
"""What a bench run says in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verif.lib.mutants import Mutant
from verif.lib.scoreboard import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    name : str
    mutant : Mutant
    cycles : list of int
        Of each job that ran, as the hardware took them.
    verdict : Verdict
    """

    name: str
    mutant: Mutant
    cycles: list[int]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes of one run.

    Attributes
    ----------
    engine, simulator : str
    outcomes : sequence of Outcome
    seconds : float
        Builds included.
    """

    engine: str
    simulator: str
    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def whole(self) -> list[Outcome]:
        """Outcomes of hardware that was not broken."""
        return [outcome for outcome in self.outcomes if outcome.mutant == Mutant.NONE]

    @property
    def missed(self) -> list[Outcome]:
        """Broken hardware that passed."""
        return [o for o in self.outcomes if o.mutant != Mutant.NONE and o.verdict.passed]

    @property
    def failed(self) -> list[Outcome]:
        """Unbroken hardware that differed."""
        return [outcome for outcome in self.whole if not outcome.verdict.passed]

    @property
    def passed(self) -> bool:
        """Something was compared, all was equal, and every mutant was caught."""
        return bool(self.whole) and not self.failed and not self.missed

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of docs/json.md."""
        verdicts = [outcome.verdict for outcome in self.whole]
        total = len(self.outcomes) - len(self.whole)
        return {
            "engine": self.engine,
            "simulator": self.simulator,
            "cases": len(verdicts),
            "bits_equal": all(verdict.bits_equal for verdict in verdicts),
            "cycles_equal": all(verdict.cycles_equal for verdict in verdicts),
            "counts_equal": all(verdict.counts_equal for verdict in verdicts),
            "protocol_kept": all(verdict.protocol_kept for verdict in verdicts),
            "mutants": {"caught": total - len(self.missed), "total": total},
            "seconds": round(self.seconds, 2),
        }


def assert_passed(outcomes: Sequence[Outcome], count: int) -> None:
    """Assert that so many cases ran, each for some cycles, and that nothing differed in any."""
    assert len(outcomes) == count
    failed = [(o.name, o.cycles, o.verdict.messages) for o in outcomes if not o.verdict.passed]
    assert failed == []
    assert all(outcome.cycles and min(outcome.cycles) > 0 for outcome in outcomes)


def assert_caught(outcomes: Sequence[Outcome]) -> None:
    """Assert that each mutant is caught, and for what it breaks."""
    for outcome in outcomes:
        verdict = outcome.verdict
        assert not verdict.passed, f"{outcome.name} was not caught"
        # An extra cycle leaves the results right. A job that lacks a beat never ends, so its time
        # runs out.
        extra, flipped = (
            outcome.mutant == mutant for mutant in (Mutant.EXTRA_CYCLE, Mutant.FLIPPED_BIT)
        )
        assert verdict.bits_equal == extra, outcome.name
        assert flipped or not verdict.cycles_equal, outcome.name
