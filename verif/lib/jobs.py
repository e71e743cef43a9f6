# SPDX-License-Identifier: Apache-2.0
"""The bench of an engine that runs job after job and sends results to `o_y`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from verif.lib.bench import HarnessMap, TestBench
from verif.lib.cases import Case, stall_list
from verif.lib.scoreboard import Scoreboard, Verdict

OBSERVED_CYCLES = 24
"""Cycles watched for surplus output after the last beat, more than any epilogue is deep."""


class Cycle(NamedTuple):
    """What a monitor saw of one cycle.

    Attributes
    ----------
    events : int
        `o_events`.
    held : bool
        A beat of results was offered and not taken.
    """

    events: int
    held: bool


class JobBench(TestBench, ABC):
    """Drivers on every input, and a scoreboard of beats by their number.

    What is expected of a job has `beats`, payloads of `o_y`; `cycles`; `milestones`, lists of
    cycles by name; `counts`; `causes`.

    Parameters
    ----------
    dut : cocotb handle
        Top module.
    wiring : HarnessMap
        How the harness was built.
    keep : (int, int)
        Offset and width of the keep bits in a payload of `o_y`.
    marks : sequence of str
        Fields of `o_events`, one bit each, whose cycles are kept in `seen`.

    Attributes
    ----------
    seen : object
        Cycles of the job in which something was seen: a list for each of `marks`, and `output`.
    results : int
        Results kept in the beats of the job.
    """

    def __init__(
        self, dut: Any, wiring: HarnessMap, keep: tuple[int, int], marks: Sequence[str]
    ) -> None:
        super().__init__(dut, wiring, {"o_y": self._take})
        self.fields: Mapping[str, list[int]] = wiring.observed
        self._keep_at, self._keep_mask = keep[0], (1 << keep[1]) - 1
        self._marks = marks
        self._scoreboard = Scoreboard({}, Verdict())
        self.seen: Any = None
        self.results = 0

    @abstractmethod
    def nothing_seen(self) -> Any:
        """Return what `seen` is before a job."""

    @abstractmethod
    def input_beats(self, case: Any, job: Any, operands: Any) -> Mapping[str, Sequence[int]]:
        """Return the payloads of every stream that brings a job."""

    @abstractmethod
    def judge(
        self, case: Any, job: Any, want: Any, cycles: int, observed: Counter[Cycle],
        beats: Mapping[str, int], verdict: Verdict,
    ) -> None:  # fmt: skip
        """Compare milestones, laws, counts and causes of a job that has ended.

        `beats` are the transfers of every stream, by its name without direction.
        """

    def look(self, cycle: int) -> None:
        """See more of a cycle that has passed; `drivers` and `monitors` are those of its end."""
        del cycle

    def _take(self, cycle: int, payload: int) -> None:
        self._scoreboard.take(cycle, len(self.seen.output), payload)
        self.seen.output.append(cycle)
        self.results += (payload >> self._keep_at & self._keep_mask).bit_count()

    async def run_jobs(self, case: Case[Any], expected: Sequence[Any]) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case and return the verdict and the cycles of each job."""
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
        self, case: Case[Any], job: Any, operands: Any, want: Any, verdict: Verdict
    ) -> int:
        """Return the cycles of the job, or the limit at which it was given up."""
        for name, driver in self.drivers.items():
            driver.start(stall_list(case, name[2:] if name != "i_job" else ""))
        out = self.monitors["o_y"]
        out.start(stall_list(case, "y"))
        for name, beats in self.input_beats(case, job, operands).items():
            for beat in beats:
                self.drivers[name].send(beat, 0)
        self._scoreboard = Scoreboard(dict(enumerate(want.beats)), verdict)
        self.seen, self.results = self.nothing_seen(), 0
        marks = [(1 << self.fields[name][0], getattr(self.seen, name)) for name in self._marks]
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
            self.look(cycle)
            cycle += 1
        self._scoreboard.finish()
        self._judge(case, job, want, verdict, cycle, observed)
        return cycle

    def _judge(
        self, case: Case[Any], job: Any, want: Any, verdict: Verdict, cycles: int,
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
        self.judge_inputs(verdict)
        beats = {name[2:]: driver.transfers for name, driver in self.drivers.items()}
        beats["y"] = self.monitors["o_y"].transfers
        self.judge(case, job, want, cycles, observed, beats, verdict)
