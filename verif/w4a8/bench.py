# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the W4A8 array, run by `verif.w4a8.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cocotb

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from verif.lib.bench import HarnessMap, TestBench, run_batch
from verif.lib.cases import stall_list
from verif.lib.memory import Memory
from verif.lib.scoreboard import Scoreboard, Verdict
from verif.w4a8.cases import Case, Expected
from verif.w4a8.counts import action_counts

OBSERVED_CYCLES = 40
"""Cycles watched for surplus output after the last result, more than the epilogue is deep."""


class W4A8Bench(TestBench):
    """The array with its five memories, a job driver and a scoreboard."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        spec = W4A8Spec.from_dict(parameters)
        lanes, self._lanes = spec.array_cols, spec.epilogue_lanes
        column = spec.e_bits // 8
        # Bytes of an address step, bytes of a beat.
        geometry = {
            "a": (4, spec.a_beat_bytes), "w": (4, spec.w_beat_bytes), "s": (2, 2 * lanes),
            "e": (column, column * lanes), "r": (4, 4 * spec.array_rows),
        }  # fmt: skip
        present = [name for name in geometry if f"o_{name}" in wiring.sources]
        takes = {f"o_{name}": self._requester(name) for name in present} | {"o_y": self._take_y}
        super().__init__(dut, wiring, takes)
        self._memory = {n: Memory(self.drivers[f"i_{n}"], *geometry[n]) for n in present}
        self._spec = spec
        self._wiring = wiring
        self._scoreboard = Scoreboard({}, Verdict())

    def _requester(self, name: str) -> Any:
        return lambda cycle, address: self._memory[name].request(cycle, address)

    def _take_y(self, cycle: int, payload: int) -> None:
        lanes = self._lanes
        address, keep = payload & 0xFFFFFFFF, payload >> (32 + 16 * lanes)
        for lane in range(lanes):
            if keep >> lane & 1:
                self._scoreboard.take(cycle, address + lane, payload >> (32 + 16 * lane) & 0xFFFF)

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
        # Nothing may follow the last result: no further beat, no further request.
        await self.watch(cycles[-1], OBSERVED_CYCLES, verdict)
        return verdict, cycles

    async def _run_job(
        self, case: Case, job: Job, operands: Operands, want: Expected, verdict: Verdict
    ) -> int:
        """Return the cycles of the job, or the limit at which it was given up."""
        images = {name: getattr(operands, name).tobytes() for name in self._memory}
        for name, memory in self._memory.items():
            memory.load(images[name], case.latency)
        for name, driver in self.drivers.items():
            driver.start(stall_list(case, name[2:] if name != "i_job" else ""))
        for name, monitor in self.monitors.items():
            monitor.start(stall_list(case, "y" if name == "o_y" else f"{name[2:]}_req"))
        self._scoreboard = Scoreboard(_results(job, want), verdict)
        self.drivers["i_job"].send(int.from_bytes(job.words().tobytes(), "little"), 0)

        limit = 2 * want.cycles + 200
        observed: Counter[int] = Counter()
        cycle = last_wave = 0
        wave_offset = self._wiring.observed["wave"][0]
        while cycle < limit and not self._scoreboard.done:
            events = await self.step(cycle)
            if events:
                observed[events] += 1
                if events >> wave_offset & 1:
                    last_wave = cycle
            cycle += 1
        self._scoreboard.finish()
        self._judge(job, want, verdict, cycle, last_wave, observed)
        return cycle

    def _judge(
        self, job: Job, want: Expected, verdict: Verdict, cycles: int, last_wave: int,
        observed: Counter[int],
    ) -> None:  # fmt: skip
        job_driver = self.drivers["i_job"]
        if job_driver.transfers != 1 or job_driver.refusals:
            # An idle engine is ready, so the cycle of the offer is cycle 0.
            verdict.fail(
                "cycles_equal", f"the job was accepted after {job_driver.refusals} refusals"
            )
        if cycles != want.cycles:
            verdict.fail("cycles_equal", f"expected {want.cycles} cycles, got {cycles}")
        self.judge_inputs(verdict)
        for name in self._memory:
            self.judge_memory(verdict, f"o_{name}", f"i_{name}")
        beats = {name: self.drivers[f"i_{name}"].transfers for name in self._memory}
        beats["y"] = self.monitors["o_y"].transfers
        got = action_counts(self._spec, job.k, observed, beats, self._wiring.observed)
        waves = got.pop("waves")
        verdict.compare("counts_equal", want.counts, got)
        causes = {"compute": waves, "fill": 1, "drain": cycles - 1 - last_wave}
        # Which cause a cycle without a wave has, no signal shows.
        expected = {name: want.causes[name] for name in causes}
        verdict.compare("cycles_equal", expected, causes, " cycles")


def _results(job: Job, want: Expected) -> dict[int, int]:
    rows, cols = want.y.shape
    return {
        job.y_base + m * job.y_stride + n: int(want.y[m, n])
        for m in range(rows)
        for n in range(cols)
    }


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, W4A8Bench)
