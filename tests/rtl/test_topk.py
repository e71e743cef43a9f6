# SPDX-License-Identifier: Apache-2.0
"""The engine in Amaranth's own simulator against sorting and the page; verif/topk goes further."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from numpy.typing import NDArray

from cosil.engines.topk import TopkSpec
from rtl.topk import Topk


@dataclass
class Outcome:
    """What a run showed: items of each job, and the cycles in which things happened."""

    items: list[list[tuple[int, int]]] = field(default_factory=list)
    last_row: list[int] = field(default_factory=list)
    decided: list[int] = field(default_factory=list)
    last_item: list[int] = field(default_factory=list)


def run(
    spec: TopkSpec,
    jobs: list[tuple[NDArray[np.int64], int]],
    *,
    stall: float = 0.0,
    alone: bool = False,
) -> Outcome:
    """Run jobs and check every beat's form.

    Each stream is stalled with a probability; a job that runs alone waits for the one before.
    """
    dut = Topk(spec)
    rng = np.random.default_rng(3)
    P, mask = spec.lanes, (1 << spec.key_bits) - 1
    rows: list[list[int]] = []
    ends: set[int] = set()
    for keys, _ in jobs:
        padded = [int(key) & mask for key in keys] + [mask] * (-len(keys) % P)
        rows += [padded[at : at + P] for at in range(0, len(padded), P)]
        ends.add(len(rows) - 1)
    outcome = Outcome()

    async def testbench(ctx: Any) -> None:
        job = row = 0
        items: list[tuple[int, int]] = []
        for cycle in range(4000):
            offer = job < (len(outcome.items) + 1 if alone else len(jobs))
            offer = offer and job < len(jobs) and (cycle == 0 or rng.random() >= stall)
            give = row < len(rows) and rng.random() >= stall
            ctx.set(dut.i_job.valid, offer)
            ctx.set(dut.i_keys.valid, give)
            ctx.set(dut.o_items.ready, rng.random() >= stall)
            if offer:
                ctx.set(dut.i_job.payload, {"n": len(jobs[job][0]), "k": jobs[job][1]})
                job += ctx.get(dut.i_job.ready)
            if give:
                ctx.set(dut.i_keys.payload, rows[row])
                if ctx.get(dut.i_keys.ready):
                    if row in ends:
                        outcome.last_row.append(cycle)
                    row += 1
            if ctx.get(dut.o_events.decided):
                outcome.decided.append(cycle)
            if ctx.get(dut.o_items.valid & dut.o_items.ready):
                beat = ctx.get(dut.o_items.payload)
                count = int(beat.keep).bit_count()
                assert (1 << count) - 1 == beat.keep
                assert count == P or beat.last
                assert all(beat.key[i] == beat.index[i] == 0 for i in range(count, P))
                items += [(beat.key[i], beat.index[i]) for i in range(count)]
                if beat.last:
                    outcome.items.append(items)
                    outcome.last_item.append(cycle)
                    items = []
                    if len(outcome.items) == len(jobs):
                        return
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    return outcome


def best(spec: TopkSpec, keys: NDArray[np.int64], k: int) -> list[tuple[int, int]]:
    """Return the items that a stable sort keeps, in input order."""
    order = np.argsort(-keys if spec.largest else keys, kind="stable")[:k]
    mask = (1 << spec.key_bits) - 1
    return [(int(keys[i]) & mask, int(i)) for i in sorted(order.tolist())]


def draw_jobs(spec: TopkSpec, seed: int, count: int) -> list[tuple[NDArray[np.int64], int]]:
    """Return jobs of every kind: nothing kept, all kept, many ties, one key."""
    rng = np.random.default_rng(seed)
    low = -(1 << spec.key_bits - 1) if spec.signed else 0
    jobs: list[tuple[NDArray[np.int64], int]] = []
    for number in range(count):
        n = (1, spec.max_n, *rng.integers(1, spec.max_n + 1, 3))[number % 5]
        keys = rng.integers(low, low + (1 << spec.key_bits), n)
        if number % 2:
            keys = rng.choice(keys[:3], n)
        jobs.append((keys, int((n // 2, n - 1, 0, n + 7, 1 << 31)[(number + seed) % 5])))
    return jobs


SPECS = {
    "radix": TopkSpec(lanes=4, key_bits=9, digit_bits=3, max_n=37),
    "radix-signed": TopkSpec(lanes=2, key_bits=5, signed=True, largest=False, digit_bits=3,
                             max_n=21, buffers=1),
    "radix-one": TopkSpec(lanes=1, key_bits=1, max_n=1),
    "quick": TopkSpec("quick_select", lanes=4, key_bits=9, max_n=37, buffers=2),
    "quick-signed": TopkSpec("quick_select", lanes=2, key_bits=5, signed=True, largest=False,
                             max_n=21, seed=99),
    "quick-one": TopkSpec("quick_select", lanes=1, key_bits=1, max_n=1),
}  # fmt: skip


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("name", SPECS)
def test_keeps_what_a_stable_sort_keeps(name: str, stall: float) -> None:
    """Items of every job equal those of a stable sort, stalled or not."""
    spec = SPECS[name]
    jobs = draw_jobs(spec, len(name), 6)
    outcome = run(spec, jobs, stall=stall)
    assert [best(spec, keys, k) for keys, k in jobs] == outcome.items


def test_radix_cycles_of_a_job() -> None:
    """Cycles from the last row: 4, N + 4 for each pass, and the filter's to the last item's row."""
    spec = SPECS["radix"]
    # Digits 3, 3, 3. All keys share digit 0, ten of them digit 1: passes read 37 and 37 keys, and
    # the cut needs the last digit.
    keys = np.array([0o200 + 0o70 * (i < 10) + i % 8 for i in range(37)], dtype=np.int64)
    outcome = run(spec, [(keys, 9)])
    rows = -(-37 // 4)
    decided = rows + 4 + (rows + 4) + (rows + 4)
    assert [rows] == outcome.last_row
    assert [decided] == outcome.decided
    # Nine of keys 0..9 are kept; the last of them, in row 2, fills a beat and leaves one item.
    assert [best(spec, keys, 9)] == outcome.items
    assert [decided + 7 + 2] == outcome.last_item


def test_radix_is_decided_as_soon_as_the_need_is_met() -> None:
    """No pass follows where all keys with the digit are needed, nor for none or all keys."""
    spec = SPECS["radix"]
    keys = np.array([0o700] * 4 + [0o300] * 8, dtype=np.int64)
    jobs = [(keys, k) for k in (0, 4, 12, 99)]
    outcome = run(spec, jobs, alone=True)
    assert [row + 4 for row in outcome.last_row] == outcome.decided
    assert [best(spec, keys, k) for keys, k in jobs] == outcome.items


def test_quick_select_pass_is_the_published_rule() -> None:
    """A pass over N rows takes N + 3 cycles: equal keys are decided after one, all keys at once."""
    spec = SPECS["quick"]
    jobs = [(np.full(n, 7, dtype=np.int64), n - 1) for n in (4, 5, 37)]
    outcome = run(spec, [*jobs, (jobs[-1][0], 37)], alone=True)
    waits = [last - row for last, row in zip(outcome.decided, outcome.last_row, strict=True)]
    assert [2 + 1 + 3, 2 + 2 + 3, 2 + 10 + 3, 2] == waits
