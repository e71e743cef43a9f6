# SPDX-License-Identifier: Apache-2.0
"""The XNOR array against the page in plain Python, beat by beat and cycle by cycle.

The oracle knows memories as beats at addresses, so that jobs which load nothing may have other
shapes than the one that did; verif/xnor compares with reference and simulator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
)
from rtl.xnor import Xnor

QUEUE_BEATS = 4
Stalls = dict[str, list[bool]]


@dataclass
class Column:
    """Parameters of an output as numbers."""

    value: int
    mult: int
    shift: int
    flip: int

    def word(self) -> int:
        """Return the 64 bits of `i_e`."""
        return self.value % (1 << 32) | self.mult << 32 | self.shift << 48 | self.flip << 54


@dataclass
class Offered:
    """Beats that the streams of a job offer: lists of lanes."""

    w: list[list[tuple[int, int]]]
    c: list[list[int]]
    e: list[list[Column]]
    x: list[tuple[int, int]]


@dataclass
class Found:
    """What a job shows: beats of o_y, cycles, cycles by cause, and action counts."""

    beats: list[tuple[list[int], int, int]] = field(default_factory=lambda: [])
    cycles: int = 0
    causes: Counter[str] = field(default_factory=lambda: Counter())
    counts: Counter[str] = field(default_factory=lambda: Counter())


def rounded(value: Fraction) -> int:
    """Return the nearest integer, ties to even; Python's own rule."""
    return round(value)


class Oracle:
    """The page: memories that stay from job to job, sections 1, 3 and 5."""

    def __init__(self, spec: XnorSpec) -> None:
        self.spec = spec
        self.tiles: dict[int, list[tuple[int, int]]] = {}
        self.base: dict[int, list[int]] = {}
        self.columns: dict[int, list[Column]] = {}

    def load(self, job: Job, offered: Offered) -> None:
        """Write what a job loads at the addresses of section 4."""
        folds = -(-job.n // self.spec.pe)
        stride = -(-self.spec.max_outputs // self.spec.pe)
        self.tiles.update(enumerate(offered.w))
        self.columns.update(enumerate(offered.e))
        for at, beat in enumerate(offered.c):
            self.base[at // folds * stride + at % folds] = beat

    def results(self, job: Job, offered: Offered) -> list[tuple[list[int], int, int]]:
        """Return the beats of o_y: data, keep, last (section 1)."""
        spec = self.spec
        nf, sf = -(-job.n // spec.pe), -(-job.k // spec.simd)
        stride = -(-spec.max_outputs // spec.pe)
        beats: list[tuple[list[int], int, int]] = []
        window: dict[int, list[int]] = {}
        for vector in range(job.m):
            beat = offered.x[vector * sf : (vector + 1) * sf]
            for fold in range(nf):
                used = min(spec.pe, job.n - fold * spec.pe)
                lanes: list[int] = []
                for lane in range(used):
                    mismatches = 0
                    for step in range(sf):
                        valid = (1 << min(spec.simd, job.k - step * spec.simd)) - 1
                        signs, nonzero = self.tiles[fold * sf + step][lane]
                        mismatches += ((beat[step][0] & valid ^ signs) & nonzero).bit_count()
                    base = self.base[beat[0][1] * stride + fold][lane]
                    s = base - 2 * mismatches
                    lanes.append(self.result(job, s, self.columns[fold][lane]))
                if spec.epilogue == "threshold":
                    if vector % job.pool:
                        lanes = [a | b for a, b in zip(lanes, window[fold], strict=True)]
                    window[fold] = lanes
                if vector % job.pool == job.pool - 1:
                    last = vector == job.m - 1 and fold == nf - 1
                    padded = lanes + [0] * (spec.pe - used)
                    beats.append((padded, (1 << used) - 1, int(last)))
        return beats

    def result(self, job: Job, s: int, column: Column) -> int:
        """Return a bit, or 16 bits of a number."""
        if self.spec.epilogue == "threshold":
            return int(s >= column.value) ^ column.flip
        acc = 16 * (-s if column.flip else s) + column.value
        y = rounded(Fraction(acc * column.mult, 1 << column.shift))
        if job.flags & FLAG_RELU:
            y = max(y, 0)
        top = 1 << (15 if job.flags & FLAG_WIDE else 7)
        return min(max(y, -top), top - 1) % (1 << 16)

    def run(self, job: Job, offered: Offered, stalls: Stalls) -> Found:
        """Return what a job shows."""
        spec, found = self.spec, Found()
        self.load(job, offered)
        found.beats = self.results(job, offered)
        nf, sf = -(-job.n // spec.pe), -(-job.k // spec.simd)
        steps = job.m * nf * sf
        depth = max(1, -(-(spec.simd - 1).bit_length() // 3))
        stages = depth + (5 if spec.epilogue == "threshold" else 9)
        pipe: list[int | None] = [None] * stages
        remaining = {"w": len(offered.w), "c": len(offered.c), "e": len(offered.e)}
        beats, queue, issued, sent, cycle, end_of_load = job.m * sf, 0, 0, 0, 0, 0

        def free(key: str) -> bool:
            pattern = stalls.get(key, [False])
            return not pattern[cycle % len(pattern)]

        while sent < len(found.beats):
            loaded = cycle > 0 and not any(remaining.values())
            if cycle:
                for key in "wce":
                    if remaining[key] and free(key):
                        remaining[key] -= 1
                        end_of_load = cycle
            taken = bool(cycle and beats and queue < QUEUE_BEATS and free("x"))
            shown = pipe[-1]
            moves = shown is None or free("y")
            fold = issued // sf % nf
            issue = loaded and issued < steps and moves and bool(fold or queue)
            if issue:
                cause = "compute"
            elif not moves:
                cause = "stalled_out"
            elif not loaded and (cycle == 0 or cycle <= end_of_load or any(remaining.values())):
                cause = "load"
            elif issued < steps:
                cause = "stalled_in"
            else:
                cause = "drain"
            found.causes[cause] += 1
            if moves:
                sent += shown is not None
                pipe[1:] = pipe[:-1]
                pipe[0] = None
                if pipe[-1] is not None:
                    vector, ends = divmod(pipe[-1], nf * sf)
                    if ends % sf != sf - 1 or vector % job.pool != job.pool - 1:
                        pipe[-1] = None
            if issue:
                pipe[0] = issued
                issued += 1
            queue += taken - (issue and fold == 0)
            beats -= taken
            cycle += 1
        found.cycles = cycle
        found.counts.update(
            xnor=job.m * job.k * job.n, weight_reads=steps, base_reads=job.m * nf,
            column_reads=job.m * nf, input_writes=job.m * sf, input_reads=job.m * sf * (nf - 1),
            accumulates=job.m * sf * job.n, results=job.m * job.n,
        )  # fmt: skip
        return found


def offer(spec: XnorSpec, job: Job, rng: np.random.Generator) -> Offered:
    """Return random beats for a job, with extreme columns and base values among them.

    Lanes past n hold anything, and so do activations past K.
    """
    nf, sf = -(-job.n // spec.pe), -(-job.k // spec.simd)

    def word(bits: int) -> int:
        return int.from_bytes(rng.bytes(-(-bits // 8)), "little") & (1 << bits) - 1

    def weight(step: int) -> tuple[int, int]:
        valid = (1 << min(spec.simd, job.k - step * spec.simd)) - 1
        nonzero = word(spec.simd) & valid if spec.weights == "ternary" else (1 << spec.simd) - 1
        return word(spec.simd) & valid & nonzero, nonzero

    def column() -> Column:
        value = int(rng.integers(-job.k, job.k + 1))
        if spec.epilogue == "fixed":
            value = int(
                rng.choice([value * 16, value, 2**31 - 1, -(2**31)], p=[0.6, 0.3, 0.05, 0.05])
            )
        elif rng.integers(4) == 0:
            near = 1 << spec.sum_bits - 1
            value = int(rng.choice([2**31 - 1, -(2**31), near, -near - 1, near - 1, -near]))
        mult, shift = int(rng.integers(1 << 16)), int(rng.integers(12, 22))
        if rng.integers(8) == 0:
            mult, shift = int(rng.choice([0, 1, 65535])), int(rng.integers(64))
        return Column(value, mult, shift, int(rng.integers(2)))

    loads = {name: bool(job.flags & flag) for name, flag in
             (("w", FLAG_WEIGHTS), ("c", FLAG_BASE), ("e", FLAG_COLUMNS))}  # fmt: skip
    return Offered(
        w=[[weight(at % sf) for _ in range(spec.pe)] for at in range(nf * sf * loads["w"])],
        c=[rng.integers(0, 2 * job.k + 1, spec.pe).tolist()
           for _ in range(job.classes * nf * loads["c"])],
        e=[[column() for _ in range(spec.pe)] for _ in range(nf * loads["e"])],
        x=[(word(spec.simd), int(rng.integers(job.classes if at % sf == 0 else 256)))
           for at in range(job.m * sf)],
    )  # fmt: skip


def words(spec: XnorSpec, offered: Offered) -> dict[str, list[int]]:
    """Return the payloads of the streams."""
    simd, pe = spec.simd, spec.pe

    def joined(lanes: list[int], bits: int) -> int:
        return sum(lane << bits * at for at, lane in enumerate(lanes))

    def tile(lanes: list[tuple[int, int]]) -> int:
        signs = joined([lane[0] for lane in lanes], simd)
        if spec.weights == "binary":
            return signs
        return signs | joined([lane[1] for lane in lanes], simd) << simd * pe

    return {
        "w": [tile(lanes) for lanes in offered.w],
        "c": [joined(lanes, 16) for lanes in offered.c],
        "e": [joined([column.word() for column in lanes], 64) for lanes in offered.e],
        "x": [bits | border << simd for bits, border in offered.x],
    }


def observe(spec: XnorSpec, jobs: list[tuple[Job, Offered, Stalls]]) -> list[Found]:
    """Run jobs one after the other on one array; junk is driven where nothing is valid."""
    dut = Xnor(spec)
    all_found: list[Found] = []
    junk = np.random.default_rng(7)

    async def one(ctx: Any, job: Job, offered: Offered, stalls: Stalls) -> Found:
        found, beats = Found(), words(spec, offered)
        places = dict.fromkeys("wcex", 0)
        limit = 40 * (10 + sum(map(len, beats.values())) + job.m * spec.interval(job.k, job.n))
        totals: Counter[str] = Counter()
        word = int.from_bytes(job.words().tobytes(), "little")
        ctx.set(Value.cast(dut.i_job.payload), word)
        ctx.set(dut.i_job.valid, 1)
        assert ctx.get(dut.i_job.ready)
        for cycle in range(limit):
            for key, place in places.items():
                port = getattr(dut, f"i_{key}")
                pattern = stalls.get(key, [False])
                valid = place < len(beats[key]) and not pattern[cycle % len(pattern)]
                ctx.set(port.valid, valid)
                bits = len(Value.cast(port.payload))
                noise = int.from_bytes(junk.bytes(bits // 8 + 1), "little") & (1 << bits) - 1
                ctx.set(Value.cast(port.payload), beats[key][place] if valid else noise)
            pattern = stalls.get("y", [False])
            ctx.set(dut.o_y.ready, not pattern[cycle % len(pattern)])
            events = {name: ctx.get(dut.o_events[name]) for name, _ in dut.o_events.shape()}
            totals.update(events)
            waits = ctx.get(dut.o_y.valid & ~dut.o_y.ready)
            held = {"compute": events["issue"], "stalled_out": waits, "load": events["load"],
                    "stalled_in": events["starved"], "drain": not events["remain"],
                    "fill": True}  # fmt: skip
            found.causes[next(cause for cause, holds in held.items() if holds)] += 1
            if cycle:
                assert not ctx.get(dut.i_job.ready)
            for key in places:
                port = getattr(dut, f"i_{key}")
                places[key] += ctx.get(port.valid & port.ready)
            ends = False
            if ctx.get(dut.o_y.valid & dut.o_y.ready):
                y, payload = dut.o_y.payload, Value.cast(dut.o_y.payload.data)
                each = len(payload) // spec.pe
                lanes = [ctx.get(payload[each * i : each * (i + 1)]) for i in range(spec.pe)]
                ends = bool(ctx.get(y.last))
                found.beats.append((lanes, ctx.get(y.keep), int(ends)))
            await ctx.tick()
            ctx.set(dut.i_job.valid, 0)
            if ends:
                break
        else:
            raise AssertionError(f"no last beat in {limit} cycles")
        found.cycles = sum(found.causes.values())
        assert places == {key: len(each) for key, each in beats.items()}
        found.counts.update(
            xnor=totals["inputs"] * job.n // spec.output_folds(job.n),
            weight_reads=totals["issue"], base_reads=totals["base"],
            column_reads=totals["column"], input_writes=totals["take"],
            input_reads=totals["issue"] - totals["take"], accumulates=totals["accumulates"],
            results=totals["results"],
        )  # fmt: skip
        return found

    async def testbench(ctx: Any) -> None:
        for job, offered, stalls in jobs:
            all_found.append(await one(ctx, job, offered, stalls))
            assert ctx.get(dut.i_job.ready)
            assert not ctx.get(dut.o_y.valid)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    return all_found


def random_stalls(rng: np.random.Generator) -> Stalls:
    """Return none, or a pattern for some streams; every pattern lets something through."""
    stalls: Stalls = {}
    for key in "wcexy":
        if rng.integers(2):
            pattern = (rng.random(int(rng.integers(1, 9))) < rng.choice([0.2, 0.5, 0.8])).tolist()
            stalls[key] = [*pattern, False]
    return stalls


def random_jobs(
    spec: XnorSpec, rng: np.random.Generator, count: int, *, stalled: bool = True
) -> list[tuple[Job, Offered, Stalls]]:
    """Return jobs of which the first loads all, and others some or nothing, in shapes of theirs.

    A job that does not load something finds all of it where one before has left it.
    """
    jobs: list[tuple[Job, Offered, Stalls]] = []
    k = n = classes = 0
    for number in range(count):
        flags = 7 if number == 0 else int(rng.integers(8))
        if flags == FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS:
            k = some(rng, spec.simd, spec.max_inputs)
            n = some(rng, 1, spec.max_outputs)
            classes = some(rng, 1, spec.border_classes)
            outputs, borders = n, classes
        else:
            outputs, borders = some(rng, 1, n), some(rng, 1, classes)
        pool = 1
        if spec.epilogue == "fixed":
            flags |= int(rng.integers(4)) * FLAG_RELU
        else:
            pool = (1, 1, 2, 3, 4)[rng.integers(5)]
        job = Job(m=pool * int(rng.integers(1, 4)), k=k, n=outputs, pool=pool,
                  classes=borders, flags=flags)  # fmt: skip
        jobs.append((job, offer(spec, job, rng), random_stalls(rng) if stalled else {}))
    return jobs


def some(rng: np.random.Generator, usual: int, most: int) -> int:
    """Return a number in 1..most, often an end or the usual one."""
    return (1, usual, most, int(rng.integers(1, most + 1)))[rng.integers(4)]


SPECS = {
    "one fold of either kind": XnorSpec(pe=3, simd=5, max_inputs=5, max_outputs=3,
                                        border_classes=1),
    "folds": XnorSpec(pe=3, simd=5, max_inputs=17, max_outputs=10, border_classes=5),
    "ternary, a lane": XnorSpec(pe=1, simd=1, weights="ternary", max_inputs=4, max_outputs=3,
                                border_classes=2),
    "two tree stages": XnorSpec(pe=2, simd=13, weights="ternary", max_inputs=40, max_outputs=7,
                                border_classes=3),
    "fixed": XnorSpec(pe=2, simd=4, epilogue="fixed", max_inputs=12, max_outputs=6,
                      border_classes=9),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_array_is_as_the_page_says(name: str) -> None:
    """Beats, cycles, causes and counts of jobs that load all, some or nothing, with stalls."""
    spec = SPECS[name]
    jobs = random_jobs(spec, np.random.default_rng(len(name)), 6)
    oracle = Oracle(spec)
    expected = [oracle.run(*job) for job in jobs]
    assert expected == observe(spec, jobs)


def test_latency_is_that_of_the_law() -> None:
    """Without stalls the array takes `XnorSpec.latency`, whatever the job loads."""
    for spec in (SPECS["folds"], SPECS["fixed"]):
        jobs = random_jobs(spec, np.random.default_rng(11), 4, stalled=False)
        laws = [
            spec.latency(
                job.m, job.k, job.n, job.classes,
                load_weights=job.has(FLAG_WEIGHTS), load_base=job.has(FLAG_BASE),
                load_columns=job.has(FLAG_COLUMNS),
            )
            for job, _, _ in jobs
        ]  # fmt: skip
        assert laws == [found.cycles for found in observe(spec, jobs)]
