# SPDX-License-Identifier: Apache-2.0
"""What every engine's bench does around its own part: build, hand over, run, read back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtl.lib.verilog import to_verilog
from verif.lib.archive import save
from verif.lib.bench import BATCH_VARIABLE, RESULT_VARIABLE, HarnessMap
from verif.lib.cases import Case
from verif.lib.harness import Harness
from verif.lib.report import Outcome
from verif.lib.runner import TOP, build, simulate
from verif.lib.scoreboard import Verdict
from verif.lib.toolchain import Simulator


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


def verify(
    module: str,
    source: Source,
    simulator: Simulator,
    spec: Any,
    cases: Sequence[Case[Any]],
    expected: Sequence[Any],
) -> list[Outcome]:
    """Run cases on a device and compare.

    Parameters
    ----------
    module : str
        cocotb tests; one of them is `verif.lib.bench.run_batch` on the engine's bench.
    source : Source
        The device.
    simulator : Simulator
        HDL simulator.
    spec, cases, expected : dataclass, sequence of Case, sequence
        What the engine's bench needs; cross over by `verif.lib.archive`.

    Returns
    -------
    list of Outcome
        One for each case, in order.

    Raises
    ------
    BenchError
        If the model does not build, or the simulation does not run to its end.
    """
    model = build(source.verilog, simulator)
    with tempfile.TemporaryDirectory(prefix="cosil-bench-") as folder:
        batch, results = Path(folder, "batch.npz"), Path(folder, "results.json")
        save(
            batch,
            {"spec": spec, "wiring": source.wiring._asdict(), "cases": cases, "expected": expected},
        )
        simulate(
            model, simulator, module, Path(folder),
            {BATCH_VARIABLE: str(batch), RESULT_VARIABLE: str(results)},
        )  # fmt: skip
        rows = json.loads(results.read_text(encoding="utf-8"))
    outcomes: list[Outcome] = []
    for case, row in zip(cases, rows, strict=True):
        assert row.pop("name") == case.name
        outcomes.append(Outcome(case.name, case.mutant, row.pop("cycles"), Verdict(**row)))
    return outcomes
