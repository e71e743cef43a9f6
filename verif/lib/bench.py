# SPDX-License-Identifier: Apache-2.0
"""The cocotb side of `verif.lib.harness`: one wake-up, one read and few writes per clock cycle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from verif.lib.archive import load
from verif.lib.cases import Case
from verif.lib.events import split
from verif.lib.scoreboard import Verdict
from verif.lib.streams import StreamDriver, StreamMonitor

BATCH_VARIABLE = "COSIL_BENCH_BATCH"
RESULT_VARIABLE = "COSIL_BENCH_RESULTS"

RESET_CYCLES = 2


class HarnessMap(NamedTuple):
    """How a harness is wired, as it crosses into the simulator's process.

    Attributes
    ----------
    streams : list of str
        All streams in the order that numbers mutants.
    sinks, sources : list of str
        Those that the device accepts and offers, in the order of the bits of `valid` and `ready`.
    fields : dict of str to [int, int]
        Offset and width of each field of `status`.
    observed : dict of str to [int, int]
        The same of each field within `observed`; a field of a struct in it is ``struct.field``.
    """

    streams: list[str]
    sinks: list[str]
    sources: list[str]
    fields: dict[str, list[int]]
    observed: dict[str, list[int]]


class TestBench:
    """Drivers and monitors on every stream of a device in its harness.

    Parameters
    ----------
    dut : cocotb handle
        Top module.
    wiring : HarnessMap
        How the harness was built.
    takes : mapping of str to callable
        For each stream that the device offers: called with cycle and payload of a transfer.

    Attributes
    ----------
    drivers : dict of str to StreamDriver
    monitors : dict of str to StreamMonitor
    """

    __test__ = False

    def __init__(
        self, dut: Any, wiring: HarnessMap, takes: Mapping[str, Callable[[int, int], None]]
    ) -> None:
        self._dut = dut
        self._wiring = wiring
        self.drivers = {name: StreamDriver() for name in wiring.sinks}
        self.monitors = {name: StreamMonitor(name, takes[name]) for name in wiring.sources}
        self._falling = FallingEdge(dut.clk)
        self._payloads = [getattr(dut, name) for name in wiring.sinks]
        self._driven: list[int | None] = [None] * len(wiring.sinks)
        self._valid = self._ready = -1
        self._sample_sinks = [
            (self.drivers[name], wiring.fields[f"{name}_ready"][0]) for name in wiring.sinks
        ]
        self._sample_sources: list[tuple[StreamMonitor, int, int, int]] = []
        for name in wiring.sources:
            offset, width = wiring.fields[f"{name}_payload"]
            self._sample_sources.append(
                (self.monitors[name], wiring.fields[f"{name}_valid"][0], offset, (1 << width) - 1)
            )
        offset, width = wiring.fields.get("observed", [0, 0])
        self._observed = offset, (1 << width) - 1

    def start_clock(self) -> None:
        """Start the clock, once per test; it begins low."""
        Clock(self._dut.clk, 2, unit="ns").start(start_high=False)

    async def _reset(self, case: Case[Any]) -> None:
        """Reset device and mutators, which then hold until the next reset."""
        dut, stream = self._dut, case.mutant_stream
        dut.mutant_kind.value = int(case.mutant)
        dut.mutant_stream.value = self._wiring.streams.index(stream) if stream else 0
        dut.mutant_beat.value = case.mutant_beat
        dut.valid.value = self._valid = 0
        dut.ready.value = self._ready = 0
        for index, payload in enumerate(self._payloads):
            payload.value = self._driven[index] = 0
        dut.rst.value = 1
        for _ in range(RESET_CYCLES):
            await self._falling
        dut.rst.value = 0

    def _defined(self, bits: str) -> int:
        """Return a status with undefined bits; only payloads that are not offered may have them."""
        top = len(bits)
        for name in self._wiring.sources:
            offset, width = self._wiring.fields[f"{name}_payload"]
            valid = self._wiring.fields[f"{name}_valid"][0]
            if bits[top - 1 - valid] == "0":
                bits = bits[: top - offset - width] + "0" * width + bits[top - offset :]
        if not set(bits) <= {"0", "1"}:
            raise AssertionError(f"the device shows undefined values: {bits}")
        return int(bits, 2)

    async def begin(self, case: Case[Any]) -> None:
        """Forget the last case, reset, and break the device as this one says."""
        for stream in (*self.drivers.values(), *self.monitors.values()):
            stream.discard()
        await self._reset(case)

    async def watch(self, cycle: int, count: int, verdict: Verdict, *, still: bool = False) -> None:
        """Fail if anything is transferred in the `count` cycles from `cycle` on, or a rule broke.

        A bench passes by what it sees until its last result; this is for what follows. With
        `still`, nothing that is observed may move inside either.
        """
        before = {name: monitor.transfers for name, monitor in self.monitors.items()}
        observed = [await self.step(number) for number in range(cycle, cycle + count)]
        for name, monitor in self.monitors.items():
            if monitor.transfers != before[name]:
                verdict.fail("counts_equal", f"{name}: a transfer after the last result")
            for violation in monitor.violations:
                verdict.fail("protocol_kept", violation)
        moved = next(filter(None, observed), 0)
        if still and verdict.passed and moved:
            fields = split(moved, self._wiring.observed)
            names = sorted(name for name, amount in fields.items() if amount)
            verdict.fail("counts_equal", f"after the last result: {', '.join(names)}")

    def judge_inputs(self, verdict: Verdict) -> None:
        """Fail if a beat that was queued was not accepted."""
        for name, driver in self.drivers.items():
            if driver.pending:
                verdict.fail("protocol_kept", f"{name}: {driver.pending} beats not accepted")

    def judge_memory(self, verdict: Verdict, requests: str, responses: str) -> None:
        """Fail if the device was not ready for a response, or did not take one for each request."""
        driver = self.drivers[responses]
        if driver.refusals:
            verdict.fail("protocol_kept", f"{responses} was not ready for a response")
        sent, came = self.monitors[requests].transfers, driver.transfers
        if sent != came:
            verdict.fail("counts_equal", f"{responses}: {sent} requests, {came} responses")

    async def step(self, cycle: int) -> int:
        """Drive a cycle, tell drivers and monitors what it showed, and return what was observed."""
        valid = ready = 0
        offered: list[tuple[StreamDriver, int]] = []
        for index, (driver, ready_bit) in enumerate(self._sample_sinks):
            payload = driver.offer(cycle)
            if payload is not None:
                valid |= 1 << index
                offered.append((driver, ready_bit))
                if payload != self._driven[index]:
                    self._driven[index] = payload
                    self._payloads[index].value = payload
        for index, (monitor, _, _, _) in enumerate(self._sample_sources):
            if monitor.ready(cycle):
                ready |= 1 << index
        if valid != self._valid:
            self._valid = valid
            self._dut.valid.value = valid
        if ready != self._ready:
            self._ready = ready
            self._dut.ready.value = ready

        # The rising edge that ends the cycle is behind, and `status` holds what it showed.
        await self._falling
        sampled = self._dut.status.value
        status = sampled.to_unsigned() if sampled.is_resolvable else self._defined(str(sampled))
        for driver, ready_bit in offered:
            driver.sample(bool(status >> ready_bit & 1))
        for monitor, valid_bit, offset, mask in self._sample_sources:
            monitor.sample(cycle, bool(status >> valid_bit & 1), status >> offset & mask)
        offset, mask = self._observed
        return status >> offset & mask


class EngineBench(Protocol):
    """A `TestBench` that knows its engine."""

    def start_clock(self) -> None:
        """Start the clock, once per test."""
        ...

    async def run_case(self, case: Any, expected: Any) -> tuple[Verdict, list[int]]:
        """Return the verdict on a case and the cycles of each of its jobs.

        Both arguments are as `verif.lib.archive.load` returns them.
        """
        ...


async def run_batch(dut: Any, bench: Callable[[Any, Any, HarnessMap], EngineBench]) -> None:
    """Run every case of the batch and write the verdicts.

    Judging them is the caller's part, since a case with broken hardware has to fail.

    Parameters
    ----------
    dut : cocotb handle
        Top module.
    bench : callable
        Makes the bench from dut, spec (a dict) and wiring.
    """
    batch = load(Path(os.environ[BATCH_VARIABLE]))
    runner = bench(dut, batch["spec"], HarnessMap(**batch["wiring"]))
    runner.start_clock()
    results: list[dict[str, Any]] = []
    for case, expected in zip(batch["cases"], batch["expected"], strict=True):
        verdict, cycles = await runner.run_case(case, expected)
        results.append({"name": case["name"], "cycles": cycles, **asdict(verdict)})
    Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(results), encoding="utf-8")
