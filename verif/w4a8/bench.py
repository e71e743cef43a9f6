# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the W4A8 array, run by `verif.w4a8.check` with a batch of cases.

Every case gives one verdict in the result file; judging them is the caller's part, since a case
with broken hardware has to fail.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cocotb

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from verif.lib.bench import HarnessMap, TestBench
from verif.lib.memory import Memory
from verif.lib.scoreboard import Scoreboard, Verdict
from verif.w4a8.cases import Batch, Case, Expected
from verif.w4a8.counts import action_counts

BATCH_VARIABLE = "COSIL_BENCH_BATCH"
RESULT_VARIABLE = "COSIL_BENCH_RESULTS"

OBSERVED_CYCLES = 40
"""Cycles watched for surplus output after the last result, more than the epilogue is deep."""


class W4A8Bench(TestBench):
    """The array with its five memories, a job driver and a scoreboard."""

    def __init__(self, dut: Any, spec: W4A8Spec, wiring: HarnessMap) -> None:
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

    async def run_case(self, case: Case, expected: list[Expected]) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case and return the verdict and the cycles of each job."""
        verdict = Verdict()
        for stream in (*self.drivers.values(), *self.monitors.values()):
            stream.discard()
        await self.reset(int(case.mutant), case.mutant_stream)
        cycles: list[int] = []
        for (job, operands), want in zip(case.jobs, expected, strict=True):
            cycles.append(await self._run_job(case, job, operands, want, verdict))
            if not verdict.passed:
                break
        # Nothing may follow the last result: no further beat, no further request.
        before = {name: monitor.transfers for name, monitor in self.monitors.items()}
        for cycle in range(cycles[-1], cycles[-1] + OBSERVED_CYCLES):
            await self.step(cycle)
        for name, monitor in self.monitors.items():
            if monitor.transfers != before[name]:
                verdict.fail("counts_equal", f"{name}: a transfer after the last result")
            for violation in monitor.violations:
                verdict.fail("protocol_kept", violation)
        return verdict, cycles

    async def _run_job(
        self, case: Case, job: Job, operands: Operands, want: Expected, verdict: Verdict
    ) -> int:
        """Return the cycles of the job, or the limit at which it was given up."""
        images = {name: getattr(operands, name).tobytes() for name in self._memory}
        for name, memory in self._memory.items():
            memory.load(images[name], case.latency)
        for name, driver in self.drivers.items():
            driver.start(_pattern(case, name[2:] if name != "i_job" else ""))
        for name, monitor in self.monitors.items():
            monitor.start(_pattern(case, "y" if name == "o_y" else f"{name[2:]}_req"))
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
        for name, driver in self.drivers.items():
            if driver.refusals and name != "i_job":
                verdict.fail("protocol_kept", f"{name} was not ready for a response")
            if driver.pending:
                verdict.fail("protocol_kept", f"{name}: {driver.pending} beats not accepted")
        beats = {n: self.drivers[f"i_{n}"].transfers for n in self._memory}
        for name, count in beats.items():
            requests = self.monitors[f"o_{name}"].transfers
            if requests != count:
                verdict.fail("counts_equal", f"{name}: {requests} requests, {count} responses")
        beats["y"] = self.monitors["o_y"].transfers
        got = action_counts(self._spec, job.k, observed, beats, self._wiring.observed)
        waves = got.pop("waves")
        for name, count in got.items():
            if count != want.counts[name]:
                verdict.fail("counts_equal", f"{name}: expected {want.counts[name]}, got {count}")
        causes = {"compute": waves, "fill": 1, "drain": cycles - 1 - last_wave}
        for name, count in causes.items():
            if count != want.causes[name]:
                verdict.fail(
                    "cycles_equal", f"{name} cycles: expected {want.causes[name]}, got {count}"
                )


def _pattern(case: Case, stream: str) -> list[bool]:
    return case.stalls[stream].tolist() if stream in case.stalls else []


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
    work = Batch.load(Path(os.environ[BATCH_VARIABLE]))
    bench = W4A8Bench(dut, work.spec, work.wiring)
    bench.start_clock()
    results: list[dict[str, Any]] = []
    for case, expected in zip(work.cases, work.expected, strict=True):
        verdict, cycles = await bench.run_case(case, list(expected))
        results.append({"name": case.name, "cycles": cycles, **asdict(verdict)})
    Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(results), encoding="utf-8")
