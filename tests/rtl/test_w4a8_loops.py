# SPDX-License-Identifier: Apache-2.0
"""Loop counters and address generators of rtl/w4a8 against nested Python loops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.drain import OutputAddress
from rtl.w4a8.fetch import ColumnFetcher, RowFetcher, RowScaleFetcher, ScaleFetcher
from rtl.w4a8.loops import TileLoop

JOB = {"m": 11, "n": 7, "k": 37, "group": 5, "base": 100, "stride": 1000}
SHAPES = [(1, 1), (3, 4), (8, 9), (13, 2), (24, 12)]


def simulate(dut: Elaboratable, testbench) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and extent of each block."""
    return ((begin, min(size, total - begin)) for begin in range(0, total, size))


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_tile_loop_visits_each_tile_once_in_order(m: int, n: int) -> None:
    """Extents and flags are those of a nested loop, m outer and n inner."""
    dut = TileLoop(4, 3)
    expected = [
        (rows, cols, m0 + rows < m, n0 + cols < n)
        for m0, rows in blocks(m, 4)
        for n0, cols in blocks(n, 3)
    ]

    async def testbench(ctx) -> None:
        for name, value in (("m", m), ("n", n), ("n_again", n), ("start", 1)):
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.m, 0)  # sampled with start
        ctx.set(dut.next, 1)
        for rows, cols, m_more, n_more in expected:
            found = [ctx.get(signal) for signal in (dut.rows, dut.cols, dut.m_more, dut.n_more)]
            assert [rows, cols, m_more, n_more] == found
            await ctx.tick()

    simulate(dut, testbench)


def addresses(spec: W4A8Spec, stream: str, job: dict[str, int]) -> list[int]:
    """Order of section 5.1, written as loops over the job."""
    m_tile = spec.array_rows if spec.dataflow == "os" else spec.acc_rows
    base, stride, group = job["base"], job["stride"], min(job["group"], job["k"])
    out: list[int] = []
    for m0, rows in blocks(job["m"], m_tile):
        for n0, cols in blocks(job["n"], spec.array_cols):
            if stream == "e":
                out.append(base + n0)
            elif stream == "r":
                per_beat = spec.array_rows
                out += [base + m0 + row for row in range(0, rows, per_beat)]
            elif stream == "s":
                part = job["k"] if spec.dataflow == "os" else spec.array_rows
                out += [
                    base + n0 + (k // group) * stride
                    for k0, codes in blocks(job["k"], part)
                    for k in range(k0, k0 + codes)
                    if k == k0 or k % group == 0
                ]
            else:
                first, lines, per_word = (m0, rows, 4) if stream == "a" else (n0, cols, 8)
                out += [
                    base + (first + line) * stride + k0 // per_word
                    for k0, _ in blocks(job["k"], spec.chunk)
                    for line in range(lines)
                ]
    return out


FETCHERS = {
    "a": lambda spec: RowFetcher(spec, "a"),
    "w": lambda spec: RowFetcher(spec, "w"),
    "e": ColumnFetcher,
    "r": RowScaleFetcher,
    "s": ScaleFetcher,
}


@pytest.mark.parametrize("stream", FETCHERS)
@pytest.mark.parametrize(
    "spec",
    [
        W4A8Spec(3, 2, "os", "group"),
        W4A8Spec(1, 1, "ws", "group", acc_rows=16),
        W4A8Spec(4, 3, "ws", "group", acc_rows=16),
    ],
    ids=["os", "ws1", "ws4"],
)
@pytest.mark.parametrize("seed", range(2))
def test_fetcher_asks_in_the_order_of_the_page(stream: str, spec: W4A8Spec, seed: int) -> None:
    """Addresses equal the page's loops, and one job does not disturb the next."""
    rng = np.random.default_rng(seed)
    dut = FETCHERS[stream](spec)

    async def testbench(ctx) -> None:
        for _ in range(2):
            job = JOB | {
                name: int(rng.integers(1, high))
                for name, high in (("m", 40), ("n", 8), ("k", 40), ("group", 12), ("stride", 99))
            }
            job["group"] = min(job["group"], job["k"])
            for port in (dut.new, dut.job):
                for name, _shape in port.shape():
                    ctx.set(port[name], job[name])
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for expected in addresses(spec, stream, job):
                assert ctx.get(dut.o.valid)
                assert expected == ctx.get(dut.o.payload)
                # A request is taken every third cycle at least; its credit comes back at once.
                for _ in range(int(rng.integers(0, 3))):
                    await ctx.tick()
                    assert expected == ctx.get(dut.o.payload)
                ctx.set(dut.o.ready, 1)
                opens = ctx.get(dut.open) if stream in "aw" else 1
                await ctx.tick()
                ctx.set(dut.o.ready, 0)
                if opens:
                    ctx.set(dut.release, 1)
                    await ctx.tick()
                    ctx.set(dut.release, 0)
            await ctx.tick()
            assert not ctx.get(dut.o.valid)

    simulate(dut, testbench)


def test_fetcher_reserves_chunks_whole() -> None:
    """Only the first request of a chunk waits for credit, and one release admits one chunk."""
    spec = W4A8Spec(3, 3, prefetch_chunks=2)
    dut = RowFetcher(spec, "a")

    async def testbench(ctx) -> None:
        for port in (dut.new, dut.job):
            for name, _shape in port.shape():
                ctx.set(port[name], {"m": 3, "n": 3, "k": 200, "base": 0, "stride": 50}[name])
        ctx.set(dut.start, 1)
        ctx.set(dut.o.ready, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        for cycle in range(24):
            ctx.set(dut.release, cycle in {10, 11})
            seen.append(ctx.get(dut.o.valid))
            await ctx.tick()
        # Two chunks of three beats, a wait, and from the cycle after the releases two more.
        assert [1] * 6 + [0] * 5 + [1] * 6 + [0] * 7 == seen

    simulate(dut, testbench)


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_output_addresses_follow_the_drain(m: int, n: int, lanes: int) -> None:
    """Each element of Y is addressed once, tile by tile, row by row, E columns at a time."""
    spec = W4A8Spec(3, 5, epilogue_lanes=lanes)
    dut = OutputAddress(spec)
    expected = [
        (50 + (m0 + row) * 40 + n0 + col, (1 << min(lanes, cols - col)) - 1)
        for m0, rows in blocks(m, 3)
        for n0, cols in blocks(n, 5)
        for row in range(rows)
        for col in range(0, cols, lanes)
    ]

    async def testbench(ctx) -> None:
        for name, value in (("m", m), ("n", n), ("y_base", 50), ("y_stride", 40)):
            ctx.set(dut.job[name], value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.next, 1)
        for index, step in enumerate(expected):
            assert step == (ctx.get(dut.addr), ctx.get(dut.keep))
            assert (index == len(expected) - 1) == ctx.get(dut.last)
            await ctx.tick()

    simulate(dut, testbench)
