# SPDX-License-Identifier: Apache-2.0
"""Prefix sum, concentrator, zero eliminator, banks and compaction buffer against plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from rtl.lib.banked import BankedRows
from rtl.lib.compaction import CompactionBuffer
from rtl.lib.concentrate import Concentrator, ZeroEliminator
from rtl.lib.prefix import PrefixSum

LANES = 8
BITS = 7


class Routing(wiring.Component):
    """A prefix sum in front of a concentrator."""

    def __init__(self) -> None:
        rows = data.ArrayLayout(BITS, LANES)
        super().__init__(
            {
                "keep": In(LANES), "begin": In(3), "i": In(rows),
                "ranks": Out(data.ArrayLayout(3, LANES)), "total": Out(4),
                "filled": Out(LANES), "o": Out(rows),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.prefix = prefix = PrefixSum(LANES)
        m.submodules.concentrator = concentrator = Concentrator(LANES, BITS)
        m.d.comb += [
            prefix.i.eq(self.keep),
            concentrator.keep.eq(self.keep),
            *(concentrator.to[p].eq(prefix.ranks[p] + self.begin) for p in range(LANES)),
            concentrator.i.eq(self.i),
        ]
        m.d.comb += [
            self.ranks.eq(prefix.ranks),
            self.total.eq(prefix.total),
            self.filled.eq(concentrator.filled),
            self.o.eq(concentrator.o),
        ]
        return m


def fields(word: int, bits: int) -> list[int]:
    return [word >> bits * lane & ((1 << bits) - 1) for lane in range(LANES)]


def test_every_row_of_flags_is_ranked_and_concentrated() -> None:
    """All 256 rows of 8 flags from all 8 places: ranks, total, and each kept lane in its place."""
    rng = np.random.default_rng(0)
    dut = Routing()

    async def testbench(ctx: Any) -> None:
        for keep in range(1 << LANES):
            row = rng.integers(0, 1 << BITS, LANES).tolist()
            kept = [lane for lane in range(LANES) if keep >> lane & 1]
            ctx.set(dut.keep, keep)
            ctx.set(dut.i, row)
            assert len(kept) == ctx.get(dut.total)
            ranks = [sum(other < lane for other in kept) for lane in range(LANES)]
            assert ranks == fields(ctx.get(dut.ranks.as_value()), 3)
            for begin in range(LANES):
                ctx.set(dut.begin, begin)
                places = {(begin + rank) % LANES: row[lane] for rank, lane in enumerate(kept)}
                assert sum(1 << place for place in places) == ctx.get(dut.filled)
                got = fields(ctx.get(dut.o.as_value()), BITS)
                assert places == {place: got[place] for place in places}

    sim = Simulator(dut)
    sim.add_testbench(testbench)
    sim.run()


class Compaction(wiring.Component):
    """A zero eliminator, and behind it a compaction buffer or banks."""

    def __init__(self, lanes: int, depth: int = 0) -> None:
        self.eliminator = ZeroEliminator(lanes, BITS, registered=not depth)
        self.after = BankedRows(lanes, BITS, depth) if depth else CompactionBuffer(lanes, BITS)
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.eliminator = eliminator = self.eliminator
        m.submodules.after = after = self.after
        m.d.comb += [
            after.filled.eq(eliminator.filled),
            after.wraps.eq(eliminator.wraps),
            after.full.eq(eliminator.full),
            after.i.eq(eliminator.o),
        ]
        if isinstance(after, CompactionBuffer):
            m.d.comb += eliminator.en.eq(after.en)
        else:
            m.d.comb += [eliminator.en.eq(1), after.restart.eq(eliminator.restart)]
        return m


def simulate(dut: Compaction, testbench: Any) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


def rows_of(rng: np.random.Generator, lanes: int, rows: int) -> list[tuple[int, list[int]]]:
    """Return rows of keep flags, from none to all, and data."""
    density = rng.choice([0.0, 0.2, 0.5, 1.0], size=rows)
    return [
        (
            sum(int(flag) << lane for lane, flag in enumerate(rng.random(lanes) < share)),
            rng.integers(0, 1 << BITS, lanes).tolist(),
        )
        for share in density
    ]


def kept_of(rows: Sequence[tuple[int, list[int]]]) -> list[int]:
    return [item for keep, row in rows for lane, item in enumerate(row) if keep >> lane & 1]


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_compaction_buffer_gathers_full_beats(lanes: int) -> None:
    """Jobs of any rows, with stalls, leave as full beats and one last one; nothing else shows."""
    rng = np.random.default_rng(lanes)
    jobs = [rows_of(rng, lanes, int(rng.integers(1, 12))) for _ in range(8)]
    jobs.append([(0, [0] * lanes)])
    dut = Compaction(lanes)
    beats: list[list[int]] = []

    async def testbench(ctx: Any) -> None:
        after, eliminator = dut.after, dut.eliminator
        for job in jobs:
            queue = list(job)
            ends = [0, 0]
            finished = False
            for _ in range(200):
                keep, row = queue[0] if queue else (0, [0] * lanes)
                ctx.set(eliminator.keep, keep)
                ctx.set(eliminator.i, row)
                ctx.set(after.end, ends[0])
                ctx.set(after.o.ready, int(rng.integers(2)))
                beat = ctx.get(after.o.payload)
                if ctx.get(after.o.valid & after.o.ready):
                    count = int(beat.keep).bit_count()
                    assert (1 << count) - 1 == beat.keep
                    assert count == lanes or beat.last
                    assert all(beat["items"][lane] == 0 for lane in range(count, lanes))
                    beats.append([beat["items"][lane] for lane in range(count)])
                    finished = bool(beat.last)
                if ctx.get(after.en):
                    ends = [ends[1], int(len(queue) == 1)]
                    queue = queue[1:]
                ctx.set(eliminator.restart, finished)
                await ctx.tick()
                if finished:
                    break
            assert finished
            sent = kept_of(job)
            assert sent == [item for beat in beats for item in beat]
            # Beats that were full before the row that ends the job, which gives one at least.
            full = len(kept_of(job[:-1])) // lanes
            assert full + max(1, -(-(len(sent) - full * lanes) // lanes)) == len(beats)
            beats.clear()

    simulate(dut, testbench)


@pytest.mark.parametrize("lanes", [1, 4])
def test_banks_are_compacted_in_place(lanes: int) -> None:
    """Pass after pass reads the rows and writes back what is kept, until nothing is left."""
    rng = np.random.default_rng(lanes)
    depth = 8
    dut = Compaction(lanes, depth)
    first = rng.integers(0, 1 << BITS, lanes * depth).tolist()

    async def testbench(ctx: Any) -> None:
        after, eliminator = dut.after, dut.eliminator
        for row in range(depth):
            ctx.set(eliminator.keep, (1 << lanes) - 1)
            ctx.set(eliminator.i, first[row * lanes : (row + 1) * lanes])
            await ctx.tick()
        items = first
        while items:
            ctx.set(eliminator.keep, 0)
            await ctx.tick()
            ctx.set(eliminator.restart, 1)
            rest: list[int] = []
            for row in range(-(-len(items) // lanes)):
                ctx.set(after.row, row)
                await ctx.tick()
                ctx.set(eliminator.restart, 0)
                stored = [ctx.get(after.o[lane]) for lane in range(lanes)]
                expected = items[row * lanes : (row + 1) * lanes]
                assert expected == stored[: len(expected)]
                keep = int(rng.integers(1 << len(expected))) if len(rest) < len(items) - 1 else 0
                ctx.set(eliminator.keep, keep)
                ctx.set(eliminator.i, stored)
                rest += [item for lane, item in enumerate(expected) if keep >> lane & 1]
            await ctx.tick()
            items = rest if len(rest) < len(items) else rest[1:]

    simulate(dut, testbench)
