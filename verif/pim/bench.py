# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the PIM macro, run by `verif.pim.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cocotb

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import Job, Operands
from verif.lib.bench import HarnessMap, TestBench, run_batch
from verif.lib.cases import stall_list
from verif.lib.scoreboard import Scoreboard, Verdict
from verif.pim.cases import Case, Expected, input_beats
from verif.pim.counts import Cycle, action_counts, causes
from verif.pim.laws import Seen, broken_laws, milestones

OBSERVED_CYCLES = 24
"""Cycles watched for surplus output after the last beat, more than the epilogue is deep."""

_MARKS = ("launch", "sample", "convert", "write")
"""Fields of `o_events` whose cycles are kept."""


class PimBench(TestBench):
    """The macro with a driver for each stream, and a scoreboard of beats by their number."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        super().__init__(dut, wiring, {"o_y": self._take})
        self._spec = PimSpec.from_dict(parameters)
        self._fields = wiring.observed
        lanes = self._spec.epilogue_lanes
        self._keep_at, self._keep_mask = 16 * lanes, (1 << lanes) - 1
        self._scoreboard = Scoreboard({}, Verdict())
        self._seen = Seen()
        self._results = 0

    def _take(self, cycle: int, payload: int) -> None:
        self._scoreboard.take(cycle, len(self._seen.output), payload)
        self._seen.output.append(cycle)
        self._results += (payload >> self._keep_at & self._keep_mask).bit_count()

    async def run_case(
        self, case: dict[str, Any], expected: list[dict[str, Any]]
    ) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case and return the verdict and the cycles of each job."""
        return await self._run(Case.from_tree(case), [Expected(**want) for want in expected])

    async def _run(self, case: Case, expected: list[Expected]) -> tuple[Verdict, list[int]]:
        verdict = Verdict()
        await self.begin(case)
        cycles: list[int] = []
        for (job, operands), want in zip(case.jobs, expected, strict=True):
            cycles.append(await self._run_job(case, job, operands, want, verdict))
            if not verdict.passed:
                break
        # Nothing may follow the last beat: no further beat, and nothing that moves inside.
        await self.watch(cycles[-1], OBSERVED_CYCLES, verdict, still=True)
        return verdict, cycles

    async def _run_job(
        self, case: Case, job: Job, operands: Operands, want: Expected, verdict: Verdict
    ) -> int:
        """Return the cycles of the job, or the limit at which it was given up."""
        for name, driver in self.drivers.items():
            driver.start(stall_list(case, name[2:] if name != "i_job" else ""))
        out = self.monitors["o_y"]
        out.start(stall_list(case, "y"))
        for name, beats in input_beats(self._spec, job, operands, case.padding).items():
            for beat in beats:
                self.drivers[name].send(beat, 0)
        self._scoreboard = Scoreboard(dict(enumerate(want.beats)), verdict)
        self._seen, self._results = Seen(), 0
        marks = [(1 << self._fields[name][0], getattr(self._seen, name)) for name in _MARKS]
        marked = sum(bit for bit, _ in marks)
        limit = 2 * want.cycles + 200
        observed: Counter[Cycle] = Counter()
        cycle = 0
        while cycle < limit and not self._scoreboard.done:
            events = await self.step(cycle)
            observed[Cycle(events, out.waiting)] += 1
            if events & marked:
                for bit, cycles in marks:
                    if events & bit:
                        cycles.append(cycle)
            cycle += 1
        self._scoreboard.finish()
        self._judge(case, job, want, verdict, cycle, observed)
        return cycle

    def _judge(
        self, case: Case, job: Job, want: Expected, verdict: Verdict, cycles: int,
        observed: Counter[Cycle],
    ) -> None:  # fmt: skip
        job_driver = self.drivers["i_job"]
        if job_driver.transfers != 1 or job_driver.refusals:
            # An idle engine is ready, so the cycle of the offer is cycle 0.
            verdict.fail(
                "cycles_equal", f"the job was accepted after {job_driver.refusals} refusals"
            )
        if cycles != want.cycles:
            verdict.fail("cycles_equal", f"expected {want.cycles} cycles, got {cycles}")
        verdict.compare("cycles_equal", want.milestones, milestones(self._spec, job, self._seen))
        for law in broken_laws(self._spec, job, self._seen, cycles, stalled=bool(case.stalls)):
            verdict.fail("cycles_equal", law)
        self.judge_inputs(verdict)
        beats = {name[2:]: driver.transfers for name, driver in self.drivers.items()}
        beats["y"] = self.monitors["o_y"].transfers
        got = action_counts(self._spec, job.n, observed, self._fields, beats, self._results)
        verdict.compare("counts_equal", want.counts, got)
        verdict.compare("cycles_equal", want.causes, causes(observed, self._fields), " cycles")


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, PimBench)
