# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the top-k engine, run by `verif.topk.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cocotb

from cosil.engines.topk import TopkSpec
from verif.lib.bench import HarnessMap, TestBench, run_batch
from verif.lib.cases import stall_list
from verif.lib.scoreboard import Scoreboard, Verdict
from verif.topk.cases import MILESTONES, Case, Expected, job_word, key_rows
from verif.topk.counts import Cycle, action_counts, causes

OBSERVED_CYCLES = 24
"""Cycles watched for surplus output after the last beat, more than the filter is deep."""


class TopkBench(TestBench):
    """The engine with drivers for jobs and keys, and a scoreboard of beats by their number."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        super().__init__(dut, wiring, {"o_items": self._take})
        self._spec = TopkSpec.from_dict(parameters)
        self._fields = wiring.observed
        lanes = self._spec.lanes
        self._keep_at = lanes * (self._spec.key_bits + self._spec.index_bits)
        self._lanes_mask = (1 << lanes) - 1
        self._scoreboard = Scoreboard({}, Verdict())
        self._seen: dict[str, list[int]] = {}
        self._items = self._beats = 0

    def _take(self, cycle: int, payload: int) -> None:
        self._scoreboard.take(cycle, self._beats, payload)
        self._beats += 1
        above = payload >> self._keep_at
        self._items += (above & self._lanes_mask).bit_count()
        if above >> self._spec.lanes:
            self._seen["last_output"].append(cycle)

    async def run_case(
        self, case: dict[str, Any], expected: dict[str, Any]
    ) -> tuple[Verdict, list[int]]:
        """Run the jobs of a case, which overlap, and return the cycle after each one's last."""
        return await self._run(Case.from_tree(case), Expected(**expected))

    async def _run(self, case: Case, want: Expected) -> tuple[Verdict, list[int]]:
        verdict = Verdict()
        await self.begin(case)
        self._scoreboard = Scoreboard(dict(enumerate(want.beats)), verdict)
        self._seen = {name: [] for name in MILESTONES}
        self._items = self._beats = 0
        jobs, rows, out = self.drivers["i_job"], self.drivers["i_keys"], self.monitors["o_items"]
        jobs.start(stall_list(case, "job"), first_free=True)
        rows.start(stall_list(case, "keys"))
        out.start(stall_list(case, "items"))
        for job in case.jobs:
            jobs.send(job_word(job), 0)
        for row in key_rows(self._spec, case.jobs, case.padding):
            rows.send(row, 0)
        limit = 2 * max(want.milestones["last_output"]) + 200
        observed = await self._steps(case, limit)
        self._judge(verdict, want, observed)
        # Nothing may follow the last beat: no further beat, and nothing that moves inside.
        await self.watch(sum(observed.values()), OBSERVED_CYCLES, verdict, still=True)
        return verdict, [cycle + 1 for cycle in self._seen["last_output"]]

    async def _steps(self, case: Case, limit: int) -> Counter[Cycle]:
        """Run until the last beat or to the limit; return how often each kind of cycle was seen."""
        ends: set[int] = set()
        total = 0
        for keys, _ in case.jobs:
            total += -(-len(keys) // self._spec.lanes)
            ends.add(total)
        jobs, rows, out = self.drivers["i_job"], self.drivers["i_keys"], self.monitors["o_items"]
        decided = 1 << self._fields["decided"][0]
        observed: Counter[Cycle] = Counter()
        cycle = 0
        while cycle < limit and not self._scoreboard.done:
            jobs_before, rows_before = jobs.transfers, rows.transfers
            events = await self.step(cycle)
            moved = rows.transfers != rows_before
            observed[Cycle(events, moved, out.waiting)] += 1
            if jobs.transfers != jobs_before:
                self._seen["accepted"].append(cycle)
            if moved and rows.transfers in ends:
                self._seen["last_input"].append(cycle)
            if events & decided:
                self._seen["decided"].append(cycle)
            cycle += 1
        self._scoreboard.finish()
        return observed

    def _judge(self, verdict: Verdict, want: Expected, observed: Counter[Cycle]) -> None:
        verdict.compare("cycles_equal", want.milestones, self._seen)
        beats = {
            "job": self.drivers["i_job"].transfers, "keys": self.drivers["i_keys"].transfers,
            "items": self.monitors["o_items"].transfers,
        }  # fmt: skip
        self.judge_inputs(verdict)
        got = action_counts(observed, self._fields, beats, self._items)
        verdict.compare("counts_equal", want.counts, got)
        verdict.compare("cycles_equal", want.causes, causes(observed, self._fields), " cycles")


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, TopkBench)
