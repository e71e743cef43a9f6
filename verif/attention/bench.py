# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the attention engine, run by `verif.attention.check` with a batch of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import cocotb
import numpy as np

from cosil.engines.attention import CODE_BITS, LSB_BITS, AttentionSpec
from verif.attention.cases import (
    MILESTONES,
    STREAMS,
    Case,
    Expected,
    command_word,
    image,
    query_word,
    requested,
)
from verif.attention.counts import action_counts, causes
from verif.attention.invariants import Invariants
from verif.lib.bench import HarnessMap, TestBench, run_batch
from verif.lib.cases import stall_list
from verif.lib.memory import RowMemory
from verif.lib.scoreboard import Scoreboard, Verdict

OBSERVED_CYCLES = 40
"""Cycles watched for surplus output after the last beat, more than the engine is deep."""

_PORTS = {
    "cmd": "i_cmd", "q": "i_q", "k": "i_k", "v": "i_v", "k_req": "o_k", "v_req": "o_v",
    "e": "o_e", "kept": "o_kept",
}  # fmt: skip
_KINDS = ("outputs", "kept", "msb_requests", "lsb_requests", "value_requests")
"""What the scoreboard holds; the address of a beat is its number plus a multiple of `_SPACE`."""
_SPACE = 1_000_000


class AttentionBench(TestBench):
    """The engine with drivers for commands and queries, two memories and a scoreboard of beats."""

    def __init__(self, dut: Any, parameters: dict[str, Any], wiring: HarnessMap) -> None:
        takes = {
            "o_e": self._take_output, "o_kept": self._take_kept, "o_k": self._take_key_request,
            "o_v": self._take_value_request,
        }  # fmt: skip
        super().__init__(dut, wiring, takes)
        self._spec = spec = AttentionSpec.from_dict(parameters)
        self._fields = wiring.observed
        row_bits = CODE_BITS * spec.head_dim
        self._keys = RowMemory(self.drivers["i_k"], row_bits)
        self._values = RowMemory(self.drivers["i_v"], row_bits)
        self._scoreboard = Scoreboard({}, Verdict())
        self._invariants = Invariants(spec, [])
        self._broken: list[str] = []
        self._images: dict[str, list[int]] = {}
        self._numbers: Counter[str] = Counter()
        self._traffic: Counter[str] = Counter()
        self._seen: dict[str, list[int]] = {}
        self._bits: dict[str, list[int]] = {}

    # -- what the device offers --------------------------------------------------------------

    def _compare(self, cycle: int, kind: str, payload: int) -> int:
        """Compare a beat and return its number."""
        number = self._numbers[kind]
        self._numbers[kind] += 1
        self._scoreboard.take(cycle, _KINDS.index(kind) * _SPACE + number, payload)
        return number

    def _hold(self, check: Callable[[int], None], payload: int) -> None:
        """Hold a beat against what the device said before; the first break makes the rest moot."""
        if not self._broken:
            try:
                check(payload)
            except AssertionError as error:
                self._broken.append(str(error))

    def _take_output(self, cycle: int, payload: int) -> None:
        self._compare(cycle, "outputs", payload)
        if payload >> 32 + 16 * self._spec.out_lanes:
            self._seen["last_output"].append(cycle)

    def _take_kept(self, cycle: int, payload: int) -> None:
        self._compare(cycle, "kept", payload)
        self._hold(self._invariants.kept, payload)
        lanes = self._spec.lanes
        self._traffic["ids"] += (payload >> 16 * lanes & (1 << lanes) - 1).bit_count()

    def _take_key_request(self, cycle: int, payload: int) -> None:
        lanes = self._spec.lanes
        rows = requested(lanes, payload)
        kind = "lsb" if payload >> lanes * 33 & 1 else "msb"
        self._account(f"{kind}_requests", f"k_{kind}_bytes", cycle, payload, rows)
        self._keys.request(cycle, self._images[f"key_{kind}"], rows)

    def _take_value_request(self, cycle: int, payload: int) -> None:
        rows = requested(self._spec.lanes, payload)
        self._account("value_requests", "v_bytes", cycle, payload, rows)
        self._hold(self._invariants.value_request, payload)
        self._values.request(cycle, self._images["value"], rows)

    def _account(
        self, kind: str, bytes_of: str, cycle: int, payload: int, rows: list[int | None]
    ) -> None:
        """Compare a request and add the bytes of its rows, whose codes its command describes."""
        number = self._compare(cycle, kind, payload)
        bits = self._bits[kind]
        asked = len(rows) - rows.count(None)
        if number < len(bits):
            self._traffic[bytes_of] += asked * bits[number] * self._spec.head_dim // 8

    # -- a case ------------------------------------------------------------------------------

    async def run_case(
        self, case: dict[str, Any], expected: dict[str, Any]
    ) -> tuple[Verdict, list[int]]:
        """Run the commands of a case and return the cycle after each row's last output."""
        return await self._run(Case.from_tree(case), Expected(**expected))

    async def _run(self, case: Case, want: Expected) -> tuple[Verdict, list[int]]:
        verdict = Verdict()
        await self.begin(case)
        self._prepare(case, want, verdict)
        cycles, observed = await self._steps(case, 2 * want.cycles + 200)
        self._judge(verdict, want, cycles, observed)
        # Nothing may follow the last beat: no further beat, and nothing that moves inside.
        await self.watch(cycles, OBSERVED_CYCLES, verdict, still=True)
        return verdict, [cycles]

    def _prepare(self, case: Case, want: Expected, verdict: Verdict) -> None:
        """Offer what goes in, and expect what comes out."""
        expected = {
            space * _SPACE + number: payload
            for space, kind in enumerate(_KINDS)
            for number, payload in enumerate(getattr(want, kind))
        }
        self._scoreboard = Scoreboard(expected, verdict)
        self._invariants = Invariants(self._spec, case.jobs)
        self._broken.clear()
        self._numbers.clear()
        self._traffic.clear()
        self._seen = {name: [] for name in MILESTONES}
        lanes, rows = self._spec.lanes, case.rows
        self._bits = {
            "msb_requests": [row.msb_bits for row in rows for _ in range(-(-row.n // lanes))],
            "lsb_requests": [LSB_BITS] * len(want.lsb_requests),
            "value_requests": [
                row.value_bits for row in rows for _ in range(-(-row.values // lanes))
            ],
        }
        self._images = {
            name: image(getattr(case.operands, name)) for name in ("key_msb", "key_lsb", "value")
        }
        rng = np.random.default_rng([case.padding, 0x9AD])
        for memory in (self._keys, self._values):
            memory.start(case.latency, int.from_bytes(rng.bytes(self._spec.head_dim), "little"))
        for name in STREAMS:
            port, stalls = _PORTS[name], stall_list(case, name)
            if port in self.drivers:
                self.drivers[port].start(stalls, first_free=name == "cmd")
            else:
                self.monitors[port].start(stalls)
        for command in case.jobs:
            self.drivers["i_cmd"].send(command_word(command), 0)
        for query in case.operands.query[: len(rows)]:
            self.drivers["i_q"].send(query_word(query), 0)

    async def _steps(self, case: Case, limit: int) -> tuple[int, Counter[int]]:
        """Run to the last beat or the limit; return the cycles and how often what showed."""
        ends: dict[int, str] = {}
        firsts: set[int] = set()
        launches, launch = 0, 1 << self._fields["launch_v"][0]
        total = 0
        for row in case.rows:
            firsts.add(total)
            total += max(1, -(-row.values // self._spec.lanes))
            ends[total - 1] = "last_value"
        queries = self.drivers["i_q"]
        observed: Counter[int] = Counter()
        cycle = 0
        while cycle < limit and not self._scoreboard.done:
            before = queries.transfers
            events = await self.step(cycle)
            observed[events] += 1
            if queries.transfers != before:
                self._seen["start"].append(cycle)
            if events & launch:
                if launches in firsts:
                    self._seen["first_value"].append(cycle)
                if launches in ends:
                    self._seen["last_value"].append(cycle)
                launches += 1
            cycle += 1
        self._scoreboard.finish()
        return cycle, observed

    def _judge(self, verdict: Verdict, want: Expected, cycles: int, observed: Counter[int]) -> None:
        for rule in self._broken:
            verdict.fail("bits_equal", f"does not hold: {rule}")
        if cycles != want.cycles:
            verdict.fail("cycles_equal", f"expected {want.cycles} cycles, got {cycles}")
        verdict.compare("cycles_equal", want.milestones, self._seen)
        for name in "kv":
            self.judge_memory(verdict, f"o_{name}", f"i_{name}")
        self.judge_inputs(verdict)
        beats = {
            name: (self.drivers.get(port) or self.monitors[port]).transfers
            for name, port in _PORTS.items()
        }
        got = action_counts(self._spec, observed, self._fields, beats, self._traffic)
        verdict.compare("counts_equal", want.counts, got)
        verdict.compare("cycles_equal", want.causes, causes(observed, self._fields), " cycles")


@cocotb.test()
async def batch(dut: Any) -> None:
    """Run every case of the batch and write the verdicts."""
    await run_batch(dut, AttentionBench)
