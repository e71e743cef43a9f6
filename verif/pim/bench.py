# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the PIM macro, run by `verif.pim.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import cocotb

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import Job, Operands
from verif.lib.bench import HarnessMap, run_batch
from verif.lib.cases import Expected
from verif.lib.jobs import Cycle, JobBench
from verif.lib.scoreboard import Verdict
from verif.pim.cases import Case, input_beats
from verif.pim.counts import action_counts, causes
from verif.pim.laws import Seen, broken_laws, milestones


class PimBench(JobBench):
    """The macro; what it sees of a job is held to the laws of time too."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        spec = PimSpec.from_dict(parameters)
        lanes = spec.epilogue_lanes
        marks = ("launch", "sample", "convert", "write")
        super().__init__(dut, wiring, (16 * lanes, lanes), marks)
        self._spec = spec

    async def run_case(
        self, case: dict[str, Any], expected: list[dict[str, Any]]
    ) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case and return the verdict and the cycles of each job."""
        return await self.run_jobs(Case.from_tree(case), [Expected(**want) for want in expected])

    def nothing_seen(self) -> Seen:
        """Return what is seen before a job."""
        return Seen()

    def input_beats(
        self, case: Case, job: Job, operands: Operands
    ) -> Mapping[str, list[int]]:  # fmt: skip
        """Return the payloads of the streams that bring a job."""
        return input_beats(self._spec, job, operands, case.padding)

    def judge(
        self, case: Case, job: Job, want: Expected, cycles: int, observed: Counter[Cycle],
        beats: Mapping[str, int], verdict: Verdict,
    ) -> None:  # fmt: skip
        """Compare milestones, laws, counts and causes of a job."""
        spec, seen = self._spec, self.seen
        verdict.compare("cycles_equal", want.milestones, milestones(spec, job, seen))
        for law in broken_laws(spec, job, seen, cycles, stalled=bool(case.stalls)):
            verdict.fail("cycles_equal", law)
        got = action_counts(spec, job.n, observed, self.fields, beats, self.results)
        verdict.compare("counts_equal", want.counts, got)
        verdict.compare("cycles_equal", want.causes, causes(observed, self.fields), " cycles")


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, PimBench)
