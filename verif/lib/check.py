# SPDX-License-Identifier: Apache-2.0
"""What every engine's bench does around its own part: build, hand over, run, read back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rtl.lib.verilog import to_verilog
from verif.lib.archive import save
from verif.lib.bench import BATCH_VARIABLE, RESULT_VARIABLE, HarnessMap
from verif.lib.cases import Case
from verif.lib.harness import Harness
from verif.lib.report import Outcome
from verif.lib.runner import TOP, build, simulate
from verif.lib.scoreboard import Verdict
from verif.lib.toolchain import Simulator

S = TypeVar("S")
C = TypeVar("C", bound=Case[Any])


class Source(NamedTuple):
    """A device in its harness, ready to be compiled.

    Attributes
    ----------
    wiring : HarnessMap
    verilog : str
    """

    wiring: HarnessMap
    verilog: str

    @classmethod
    def of(cls, harness: Harness) -> Source:
        """Describe and convert; Amaranth warns of a harness that is described only."""
        wiring = HarnessMap(**harness.describe())
        return cls(wiring, to_verilog(harness, name=TOP, clean=True))


class EngineCheck(Generic[S, C]):
    """Reference, simulator and hardware of one engine side by side.

    Parameters
    ----------
    engine : str
        The stem: ``verif.<engine>.bench`` holds cocotb tests, one of which is
        `verif.lib.bench.run_batch` on the engine's bench.
    harness : callable
        Spec -> the device in its harness.
    expect : callable
        (spec, case) -> what the bench has to see, as `verif.lib.archive` can save it.
    """

    def __init__(
        self, engine: str, harness: Callable[[S], Harness], expect: Callable[[S, C], Any]
    ) -> None:
        self._bench = f"verif.{engine}.bench"
        self._harness = harness
        self._expect = expect
        self._sources: dict[S, Source] = {}

    def _source(self, spec: S) -> Source:
        if spec not in self._sources:
            self._sources[spec] = Source.of(self._harness(spec))
        return self._sources[spec]

    def streams(self, spec: S) -> list[str]:
        """Return the names of the device's streams."""
        return self._source(spec).wiring.streams

    def verify(self, spec: S, cases: Sequence[C], simulator: Simulator) -> list[Outcome]:
        """Run cases, broken hardware among them, on the generated device and compare.

        Returns
        -------
        list of Outcome
            One for each case, in order.

        Raises
        ------
        AssertionError
            If simulator and reference differ: then there is nothing to compare with.
        BenchError
            If the model does not build, or the simulation does not run to its end.
        """
        expected = [self._expect(spec, case) for case in cases]
        source = self._source(spec)
        model = build(source.verilog, simulator)
        tree = {
            "spec": spec, "wiring": source.wiring._asdict(), "cases": cases, "expected": expected,
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="cosil-bench-") as folder:
            batch, results = Path(folder, "batch.npz"), Path(folder, "results.json")
            save(batch, tree)
            simulate(
                model, simulator, self._bench, Path(folder),
                {BATCH_VARIABLE: str(batch), RESULT_VARIABLE: str(results)},
            )  # fmt: skip
            rows = json.loads(results.read_text(encoding="utf-8"))
        outcomes: list[Outcome] = []
        for case, row in zip(cases, rows, strict=True):
            assert row.pop("name") == case.name
            outcomes.append(Outcome(case.name, case.mutant, row.pop("cycles"), Verdict(**row)))
        return outcomes
