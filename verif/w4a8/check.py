# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from algos.reference.w4a8 import reference
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from rtl.lib.verilog import to_verilog
from rtl.w4a8 import W4A8
from sim.w4a8 import run
from verif.lib.bench import HarnessMap
from verif.lib.harness import Harness
from verif.lib.report import Outcome
from verif.lib.runner import TOP, build, simulate
from verif.lib.scoreboard import Verdict
from verif.lib.toolchain import Simulator
from verif.w4a8.bench import BATCH_VARIABLE, RESULT_VARIABLE
from verif.w4a8.cases import Batch, Case, Expected


def _harness(spec: W4A8Spec) -> Harness:
    """Return the array in a harness whose flipped bits matter: signs, an address, a result."""
    flipped = {
        # Bit 0 of y_base: any other word could make a job that never ends, or the same job.
        "i_job": 12 * 32,
        "i_a": 7, "i_w": 3, "i_s": 15, "i_e": 31, "i_r": 31,
        "o_y": 32,
    }  # fmt: skip
    return Harness(W4A8(spec), observed="o_events", flipped_bits=flipped)


def expect(spec: W4A8Spec, case: Case, job: Job, operands: Operands) -> Expected:
    """Return the reference's bits and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If the simulator's bits are not the reference's: then there is nothing to compare with.
    """
    result = run(spec, job, operands, stalls=case.stalls, memory_latency=case.latency, step=True)
    y = reference(spec, job, operands).numpy()
    bits = _bits(y)
    if not np.array_equal(bits, _bits(result.y)):
        raise AssertionError(f"{case.name}: simulator and reference differ before any hardware ran")
    return Expected(bits, result.cycles, result.counts, result.cycles_by_cause)


def _bits(y: np.ndarray) -> np.ndarray:
    if y.dtype == np.float16:
        bits = y.view(np.uint16)
        return np.where(np.isnan(y), np.uint16(0x7E00), bits)
    return y.astype(np.int16).view(np.uint16)


def streams(spec: W4A8Spec) -> list[str]:
    """Return the names of the array's streams."""
    return _source(spec)[0].streams


@cache
def _source(spec: W4A8Spec) -> tuple[HarnessMap, str]:
    # Only ever here: Amaranth warns of a harness that is described and not converted.
    bench = _harness(spec)
    return HarnessMap(**bench.describe()), to_verilog(bench, name=TOP, clean=True)


def verify(spec: W4A8Spec, cases: Sequence[Case], simulator: Simulator) -> list[Outcome]:
    """Run cases on the generated hardware and compare.

    Parameters
    ----------
    spec : W4A8Spec
        The array.
    cases : sequence of Case
        Broken hardware among them runs on the same model.
    simulator : Simulator
        HDL simulator.

    Returns
    -------
    list of Outcome
        One for each case, in order.

    Raises
    ------
    BenchError
        If the model does not build, or the simulation does not run to its end.
    """
    wiring, verilog = _source(spec)
    model = build(verilog, simulator)
    expected = [[expect(spec, case, *job) for job in case.jobs] for case in cases]
    with tempfile.TemporaryDirectory(prefix="cosil-bench-") as folder:
        batch, results = Path(folder, "batch.npz"), Path(folder, "results.json")
        Batch(spec, wiring, cases, expected).save(batch)
        simulate(
            model, simulator, "verif.w4a8.bench", Path(folder),
            {BATCH_VARIABLE: str(batch), RESULT_VARIABLE: str(results)},
        )  # fmt: skip
        rows = json.loads(results.read_text(encoding="utf-8"))
    outcomes: list[Outcome] = []
    for case, row in zip(cases, rows, strict=True):
        assert row.pop("name") == case.name
        outcomes.append(Outcome(case.name, case.mutant, row.pop("cycles"), Verdict(**row)))
    return outcomes
