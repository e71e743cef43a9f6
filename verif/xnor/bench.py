# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the XNOR array, run by `verif.xnor.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import cocotb

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import Job, Operands
from verif.lib.bench import HarnessMap, run_batch
from verif.lib.cases import Expected
from verif.lib.jobs import Cycle, JobBench
from verif.lib.scoreboard import Verdict
from verif.xnor.cases import Case, input_beats, result_bits
from verif.xnor.counts import action_counts, causes
from verif.xnor.laws import LOAD_STREAMS, Seen, broken_laws, milestones


class XnorBench(JobBench):
    """The array; what it sees of a job is held to the laws of time too."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        spec = XnorSpec.from_dict(parameters)
        super().__init__(dut, wiring, (result_bits(spec) * spec.pe, spec.pe), ("issue", "take"))
        self._spec = spec
        self._loads = [self.drivers[f"i_{name}"] for name in LOAD_STREAMS]
        self._loaded = self._taken = 0

    async def run_case(
        self, case: dict[str, Any], expected: list[dict[str, Any]]
    ) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case and return the verdict and the cycles of each job."""
        return await self.run_jobs(Case.from_tree(case), [Expected(**want) for want in expected])

    def nothing_seen(self) -> Seen:
        """Return what is seen before a job."""
        self._loaded = self._taken = 0
        return Seen()

    def input_beats(
        self, case: Case, job: Job, operands: Operands
    ) -> Mapping[str, list[int]]:  # fmt: skip
        """Return the payloads of the streams that bring a job."""
        return input_beats(self._spec, job, operands, case.padding)

    def look(self, cycle: int) -> None:
        """Note the cycles of transfers, and those in which the pipeline stands."""
        seen, taken = self.seen, self.drivers["i_x"].transfers
        if taken != self._taken:
            self._taken = taken
            seen.input.append(cycle)
        loaded = sum(driver.transfers for driver in self._loads)
        if loaded != self._loaded:
            self._loaded = loaded
            seen.last_load = cycle
        if self.monitors["o_y"].waiting:
            seen.held.append(cycle)

    def judge(
        self, case: Case, job: Job, want: Expected, cycles: int, observed: Counter[Cycle],
        beats: Mapping[str, int], verdict: Verdict,
    ) -> None:  # fmt: skip
        """Compare milestones, laws, counts and causes of a job."""
        spec, seen = self._spec, self.seen
        verdict.compare("cycles_equal", want.milestones, milestones(spec, job, seen))
        for law in broken_laws(spec, job, seen, cycles, stalled=bool(case.stalls)):
            verdict.fail("cycles_equal", law)
        folds = spec.output_folds(job.n)
        got = action_counts(job.n, folds, observed, self.fields, beats, self.results)
        verdict.compare("counts_equal", want.counts, got)
        verdict.compare("cycles_equal", want.causes, causes(observed, self.fields), " cycles")


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, XnorBench)
