# SPDX-License-Identifier: Apache-2.0
"""Parts of the attention engine with a state; verif/attention runs the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from cosil.engines.attention import AttentionSpec
from rtl.attention.fetch import Fetch
from rtl.attention.importance import HeadImportance, TokenImportance
from rtl.attention.tokens import TokenList

SPEC = AttentionSpec(head_dim=16, multipliers=64, max_tokens=32, max_heads=6, fetch_beats=4)
"""Four lanes; heads fill one row and a half; two beats of outputs."""

ONE_LANE = AttentionSpec(head_dim=8, multipliers=8, max_tokens=16, max_heads=3, fetch_beats=2)


def simulate(dut: Any, testbench: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a testbench to its end."""
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


def write_list(dut: TokenList, ctx: Any, spec: AttentionSpec, ids: list[int]) -> None:
    """Offer a row of ids to the list; the rest of the row is 0."""
    for lane in range(spec.lanes):
        ctx.set(dut.write_ids[lane], ids[lane] if lane < len(ids) else 0)
    ctx.set(dut.write, 1)


@pytest.mark.parametrize("spec", [SPEC, ONE_LANE], ids=["four lanes", "one lane"])
def test_list_is_the_identity_until_it_is_written_and_after_a_reset(spec: AttentionSpec) -> None:
    """All three readers agree with a Python list; fetch holds its row while it is not enabled."""
    dut = TokenList(spec)
    rng = np.random.default_rng(0)
    lanes = spec.lanes

    async def testbench(ctx: Any) -> None:
        for _ in range(3):
            kept = np.sort(rng.permutation(spec.max_tokens)[: spec.max_tokens // 2]).tolist()
            for positions in (list(range(spec.max_tokens)), kept):
                if positions is kept:
                    for row in range(len(kept) // lanes):
                        ctx.set(dut.write_row, row)
                        write_list(dut, ctx, spec, kept[row * lanes : (row + 1) * lanes])
                        await ctx.tick()
                    ctx.set(dut.write, 0)
                held = 0
                for step in range(30):
                    row, other = rng.integers(0, len(positions) // lanes, 2).tolist()
                    index = rng.integers(0, len(positions), lanes).tolist()
                    enable = step == 0 or rng.random() < 0.5
                    ctx.set(dut.fetch_row, row)
                    ctx.set(dut.fetch_en, enable)
                    ctx.set(dut.weigh_row, other)
                    for lane in range(lanes):
                        ctx.set(dut.item_index[lane], index[lane])
                    await ctx.tick()
                    held = row if enable else held
                    for lane in range(lanes):
                        assert positions[held * lanes + lane] == ctx.get(dut.fetch_ids[lane])
                        assert positions[other * lanes + lane] == ctx.get(dut.weigh_ids[lane])
                        assert positions[index[lane]] == ctx.get(dut.item_ids[lane])
            ctx.set(dut.reset, 1)
            await ctx.tick()
            ctx.set(dut.reset, 0)

    simulate(dut, testbench)


@pytest.mark.parametrize("spec", [SPEC, ONE_LANE], ids=["four lanes", "one lane"])
def test_token_importance_adds_rows_in_every_cycle_and_clears(spec: AttentionSpec) -> None:
    """Increasing ids may follow cycle after cycle; a scan gives the sums of all copies."""
    dut = TokenImportance(spec)
    rng = np.random.default_rng(1)
    lanes, rows = spec.lanes, spec.rows
    expected = np.zeros(spec.max_tokens, dtype=np.int64)

    async def testbench(ctx: Any) -> None:
        for pass_ in range(6):
            if pass_ == 4:
                for row in range(rows):
                    ctx.set(dut.clear, 1)
                    ctx.set(dut.clear_row, row)
                    await ctx.tick()
                ctx.set(dut.clear, 0)
                expected[:] = 0
            n = int(rng.integers(1, spec.max_tokens + 1))
            ids = np.sort(rng.permutation(spec.max_tokens)[:n])
            added = rng.integers(0, 1 << 22, n)
            added[0] = (1 << 22) - 1
            expected[ids] += added
            late: list[int] = []
            for at in range(0, n + lanes, lanes):
                here = ids[at : at + lanes].tolist()
                ctx.set(dut.add, (1 << len(here)) - 1)
                for lane in range(lanes):
                    ctx.set(dut.ids[lane], here[lane] if lane < len(here) else 0)
                    ctx.set(dut.probability[lane], late[lane] if lane < len(late) else 77)
                late = added[at : at + lanes].tolist()
                await ctx.tick()
            ctx.set(dut.add, 0)
            await ctx.tick().repeat(3)
            latency = 1 + spec.lane_tree
            for row in range(rows + latency):
                if row >= latency:
                    first = (row - latency) * lanes
                    for lane in range(lanes):
                        assert expected[first + lane] == ctx.get(dut.scan[lane])
                ctx.set(dut.scan_row, row % rows)
                await ctx.tick()

    simulate(dut, testbench)
    assert expected.max() >= (1 << 22) - 1


@pytest.mark.parametrize("spec", [SPEC, ONE_LANE], ids=["four lanes", "one lane"])
def test_head_importance_counts_a_beat_three_cycles_later(spec: AttentionSpec) -> None:
    """Beats of a row may follow each other at once; clearing counts for those that just left."""
    dut = HeadImportance(spec)
    rng = np.random.default_rng(2)
    expected = np.zeros(spec.max_heads, dtype=np.int64)

    async def testbench(ctx: Any) -> None:
        for row in range(40):
            if row % 13 == 12:  # the last beat left in the cycle before, or some cycles before
                for _ in range(row // 13):
                    await ctx.tick()
                ctx.set(dut.clear, 1)
                await ctx.tick()
                ctx.set(dut.clear, 0)
                expected[:] = 0
            head = int(rng.integers(0, spec.max_heads))
            ctx.set(dut.head, head)
            ctx.set(dut.busy, 1)
            await ctx.tick().repeat(3)
            for beat in range(spec.out_beats):
                y = rng.integers(-(1 << 15), 1 << 15, spec.out_lanes)
                y[0] = -(1 << 15)
                expected[head] += np.abs(y).sum()
                for lane, value in enumerate(y.tolist()):
                    ctx.set(dut.beat.data[lane], value & 0xFFFF)
                ctx.set(dut.beat.last, beat == spec.out_beats - 1)
                ctx.set(dut.transfer, 1)
                await ctx.tick()
                ctx.set(dut.transfer, 0)
                ctx.set(dut.busy, beat < spec.out_beats - 1)
                if beat < spec.out_beats - 1:
                    for _ in range(int(rng.integers(0, 3))):
                        await ctx.tick()
            if row % 3 == 0:
                await ctx.tick().repeat(2)
                for number in range(-(-spec.max_heads // spec.lanes)):
                    ctx.set(dut.scan_row, number)
                    await ctx.tick()
                    for lane in range(spec.lanes):
                        index = number * spec.lanes + lane
                        if index < spec.max_heads:
                            assert expected[index] == ctx.get(dut.scan[lane])

    simulate(dut, testbench)
    assert (expected > 0).sum() >= 2


@pytest.mark.parametrize("ready", [1.0, 0.5], ids=["free", "stalled"])
def test_fetch_asks_for_the_list_in_order_within_its_credit(ready: float) -> None:
    """Requests are base + id; the first shows in s + 3, and each stays until it is taken.

    Never are more than `fetch_beats` out; the stage is idle after the last transfer.
    """
    spec = SPEC
    dut = Fetch(spec)
    rng = np.random.default_rng(3)
    ids = np.sort(rng.permutation(1 << 5)).tolist()
    lanes = spec.lanes

    async def testbench(ctx: Any) -> None:
        there = [0] * lanes
        out = 0
        for _ in range(25):
            n = int(rng.integers(1, spec.max_tokens + 1))
            base, plane = int(rng.integers(0, 1 << 32)), int(rng.integers(0, 2))
            row = {"n": n, "base": base, "plane": plane, "msb_bits": 6, "bank": n % 3}
            for name, value in row.items():
                ctx.set(dut.row[name], value)
            assert ctx.get(dut.idle)
            ctx.set(dut.start, 1)
            asked = cycle = 0
            shown = False
            while asked < n:
                take = rng.random() < ready
                launch = out > 0 and rng.random() < 0.4
                ctx.set(dut.o.ready, take)
                ctx.set(dut.launch, launch)
                valid = ctx.get(dut.o.valid)
                assert valid == (cycle >= 3 and out < spec.fetch_beats)
                assert not shown or valid
                if valid:
                    request, tag = ctx.get(dut.o.payload), ctx.get(dut.tag)
                    kept = min(lanes, n - asked)
                    assert (1 << kept) - 1 == request.keep == tag.keep
                    for lane in range(lanes):
                        address = (base + ids[asked + lane]) % (1 << 32) if lane < kept else 0
                        assert address == request.addr[lane]
                    assert plane == request.plane == tag.plane
                    assert (asked == 0, asked + lanes >= n) == (tag.first, tag.last)
                    assert (6, n % 3) == (tag.msb_bits, tag.bank)
                reads, number = ctx.get(dut.list_en), ctx.get(dut.list_row)
                assert not ctx.get(dut.idle) or cycle == 0
                await ctx.tick()
                ctx.set(dut.start, 0)
                if reads:  # the list's memory: its output holds unless it is read
                    there = [ids[(number * lanes + lane) % len(ids)] for lane in range(lanes)]
                for lane in range(lanes):
                    ctx.set(dut.list_ids[lane], there[lane])
                asked += lanes * (valid and take)
                out += (valid and take) - launch
                shown = valid and not take
                cycle += 1
            ctx.set(dut.launch, 0)

    simulate(dut, testbench)
