# SPDX-License-Identifier: Apache-2.0
"""The attention simulator: both models against each other and the reference; timing claims."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference.attention import reference
from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    LSB_ALWAYS,
    LSB_NEVER,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    State,
    TokensCommand,
)
from sim.attention import AttentionRun, run
from sim.attention.plan import STALL_NAMES
from sim.lib.stalls import patterns

SMALL = AttentionSpec(head_dim=8, multipliers=16, max_tokens=32, max_heads=4)


def memories(rng: np.random.Generator, spec: AttentionSpec, rows: int, size: int) -> Operands:
    """Return random queries and memories."""
    dim = spec.head_dim
    return Operands(
        rng.integers(-2048, 2048, (rows, dim)).astype(np.int16),
        rng.integers(-128, 128, (size, dim), dtype=np.int8),
        rng.integers(0, 16, (size, dim), dtype=np.uint8),
        rng.integers(-128, 128, (size, dim), dtype=np.int8),
    )


def draw_spec(rng: np.random.Generator) -> AttentionSpec:
    """Return a small spec."""
    head_dim, lanes = int(rng.choice([8, 16])), int(rng.choice([1, 2, 4]))
    pool = str(rng.choice(["shared", "split"]))
    return AttentionSpec(
        head_dim,
        head_dim * lanes * (2 if pool == "split" else 1),
        pool,  # pyright: ignore[reportArgumentType]
        int(rng.choice([16, 32])),
        int(rng.integers(1, 9)),
        str(rng.choice(["radix", "quick_select"])),  # pyright: ignore[reportArgumentType]
        int(rng.choice([2, 4, 16])),
    )


def draw_row(rng: np.random.Generator, spec: AttentionSpec, listed: int) -> RowCommand:
    """Return a row of at most `listed` keys."""
    n = int(rng.choice([1, listed, rng.integers(1, listed + 1)]))
    low, high = [LSB_NEVER, LSB_ALWAYS, (300, 4095)][int(rng.integers(3))]
    return RowCommand(
        n=n,
        values=int(rng.choice([0, n, min(n, 3), rng.integers(0, n + 1)])),
        key_msb=int(rng.choice([0, 19, 2**32 - 3])),
        key_lsb=int(rng.integers(20)),
        value=int(rng.integers(40)),
        head=int(rng.integers(spec.max_heads)),
        mult=int(rng.integers(65536)),
        shift=int(rng.integers(24, 36)),
        out_mult=int(rng.integers(65536)),
        out_shift=int(rng.integers(15, 34)),
        lsb_low=low,
        lsb_high=high,
        msb_bits=int(rng.choice([4, 6, 8])),
        value_bits=int(rng.choice([4, 6, 8])),
        add_importance=bool(rng.integers(2)),
    )


def draw_program(
    rng: np.random.Generator, spec: AttentionSpec
) -> tuple[list[Command], Operands, State]:
    """Return commands of all kinds in a random order, operands, and a state to begin with."""
    tokens = spec.max_tokens
    ids = np.sort(rng.choice(tokens, rng.integers(1, tokens + 1), replace=False))
    state = State(
        ids.astype(np.int64), rng.integers(0, 2**40, tokens), rng.integers(0, 99, spec.max_heads)
    )
    count = int(rng.integers(1, 12))
    commands: list[Command] = []
    listed = ids.size
    for kind in rng.choice(list("rrrrrthz"), count):
        if kind == "r":
            commands.append(draw_row(rng, spec, listed))
        elif kind == "t":
            listed = int(rng.integers(1, listed + 1))
            recent = int(rng.choice([0, rng.integers(listed + 1)]))
            commands.append(TokensCommand(tokens, listed, recent))
        elif kind == "h":
            heads = int(rng.integers(1, spec.max_heads + 1))
            commands.append(HeadsCommand(heads, int(rng.integers(1, heads + 1))))
        else:
            listed = int(rng.integers(1, tokens + 1))
            commands.append(ResetCommand(listed, bool(rng.integers(2)), bool(rng.integers(2))))
    return commands, memories(rng, spec, count, tokens + 20), state


def row(n: int, values: int, **fields: Any) -> RowCommand:
    """Return a row command with ordinary scales."""
    return RowCommand(n, values, 0, 0, 0, 0, 40000, 33, 30000, 30, **fields)


def assert_equal_runs(expected: AttentionRun, actual: AttentionRun) -> None:
    """Everything that both models give."""
    assert np.array_equal(expected.y, actual.y)
    assert [ids.tolist() for ids in expected.kept] == [ids.tolist() for ids in actual.kept]
    assert expected.cycles == actual.cycles
    assert expected.cycles_by_cause == actual.cycles_by_cause
    assert expected.counts == actual.counts
    assert np.array_equal(expected.jobs, actual.jobs)
    assert np.array_equal(expected.added, actual.added)
    for name in ("tokens", "importance", "head_importance"):
        assert np.array_equal(getattr(expected.state, name), getattr(actual.state, name))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["none", "random", "bursty"]),
    st.sampled_from([1, 2, 3, 20]),
    st.sampled_from([None, 5, 16, 100]),
)
def test_models_are_equal(seed: int, kind: str, latency: int, bandwidth: int | None) -> None:
    """Both models and the reference agree in outputs, ids, I and H; the models in all else too."""
    rng = np.random.default_rng(seed)
    spec = draw_spec(rng)
    commands, operands, state = draw_program(rng, spec)
    conditions: dict[str, Any] = {
        "state": state,
        "stalls": patterns(kind, seed, STALL_NAMES),
        "memory_latency": latency,
        "bytes_per_cycle": bandwidth,
    }
    fast = run(spec, commands, operands, **conditions)
    assert_equal_runs(run(spec, commands, operands, step=True, **conditions), fast)
    expected = reference(spec, commands, operands, state=state)
    assert np.array_equal(expected.output.numpy(), fast.y)
    assert [ids.tolist() for ids in expected.kept] == [ids.tolist() for ids in fast.kept]
    assert np.array_equal(expected.redo.numpy(), fast.redo)
    for name in ("tokens", "importance", "head_importance"):
        assert np.array_equal(getattr(expected.state, name), getattr(fast.state, name))
    assert sum(fast.cycles_by_cause.values()) == fast.cycles


def test_largest_engine_is_exact_at_the_extremes() -> None:
    """D = 128, 4096 tokens, extreme codes: no width of the kernels is too small."""
    spec = AttentionSpec(128, 2048, max_tokens=4096)
    rng = np.random.default_rng(0)
    memory = Operands(
        np.full((3, 128), -2048, np.int16),
        rng.choice(np.array([-128, 127], np.int8), (4096, 128)),
        rng.choice(np.array([0, 15], np.uint8), (4096, 128)),
        np.full((4096, 128), -128, np.int8),
    )
    memory.key_msb[:2] = [[-128], [127]]
    commands: list[Command] = [
        RowCommand(4096, 4096, 0, 0, 0, 0, mult, shift, 65535, 40, *LSB_ALWAYS)
        for mult, shift in ((65535, 47), (0, 0), (1, 18))
    ]
    expected = reference(spec, commands, memory)
    actual = run(spec, commands, memory)
    assert np.array_equal(expected.output.numpy(), actual.y)
    assert np.array_equal(expected.state.importance, actual.state.importance)


# -- what a cycle is -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [False, True])
def test_one_row_takes_the_page_s_cycles(step: bool) -> None:
    """Section 5 by hand: one row of 8 keys on 2 lanes, 2 values kept, no stalls, latency 2."""
    operands = memories(np.random.default_rng(1), SMALL, 1, 32)
    result = run(SMALL, [ResetCommand(32, False, False), row(8, 2)], operands, step=step)
    beats, tree, lanes = 4, 2, 1  # B, T_q, T_g
    # Reset is in the register in 1 and takes it; the row is transferred in 2 and starts in 3.
    start = 3
    # Requests from start + 3; the last is answered after 2 cycles and launches 2 later.
    complete = start + 3 + beats - 1 + 2 + 2 + 4 + tree + lanes
    decided = complete + beats + 12 + lanes
    job = result.jobs[0]
    assert (start, complete, complete, decided, decided) == job.tolist()[4:9]
    # Keys until h + B + 1; load 3, choice 1; a second digit's pass may be needed: 4 + B.
    earliest = decided + beats + 1 + 4
    last_row = 7 + beats  # of the filter: latency, rows
    assert earliest + 7 + 4 + 4 <= job["last_value"] <= earliest + 4 + beats + last_row + 8
    assert job["last_output"] == job["last_value"] + 4 + lanes + 7
    assert result.cycles == job["last_output"] + 1


@pytest.mark.parametrize("step", [False, True])
def test_resets_and_selections_take_the_page_s_cycles(step: bool) -> None:
    """A reset without clearing takes one cycle, with clearing max_tokens/G; then a selection."""
    operands = memories(np.random.default_rng(1), SMALL, 1, 32)
    short = run(SMALL, [ResetCommand(32, False, True)], operands, step=step)
    assert short.cycles == 2
    cleared = run(SMALL, [ResetCommand(32)], operands, step=step)
    assert cleared.cycles == 1 + 16
    # All kept, so no pass: job in 1, keys from 1 + 3 + T_g on, 16 rows; load 3, choice 1; a row
    # leaves the filter 7 cycles after the cut, and one cycle later o_kept.
    chosen = run(SMALL, [TokensCommand(32, 32)], operands, step=step)
    last_keys = 1 + 3 + 1 + 15
    assert chosen.cycles == last_keys + 3 + 1 + 7 + 15 + 1 + 1
    assert chosen.kept[0].tolist() == list(range(32))


def test_rows_overlap_to_the_pool_s_rate() -> None:
    """In a run of equal rows the shared pool serves B + value beats a row, and is never idle."""
    rng = np.random.default_rng(2)
    spec = AttentionSpec(head_dim=8, multipliers=64, max_tokens=256)
    operands = memories(rng, spec, 40, 256)
    commands = [row(256, 200) for _ in range(40)]
    result = run(spec, commands, operands)
    period = np.diff(result.jobs["last_value"])[10:30].mean()
    assert abs(period - (32 + 25)) <= 0.5
    assert result.utilisation > 0.9
    # Sum takes B + 13 + T_g cycles a row: with few values it is the slowest.
    few = run(spec, [row(256, 8) for _ in range(40)], operands)
    assert np.diff(few.jobs["sum"])[10:30].mean() == 32 + 13 + 2
    # Two pools of half the multipliers: 64 beats of keys a row, and sum's 13 + T_g cycles more.
    split = AttentionSpec(head_dim=8, multipliers=64, pool="split", max_tokens=256)
    halves = run(split, commands, operands)
    assert np.array_equal(result.y, halves.y)
    assert np.diff(halves.jobs["last_value"])[10:30].mean() >= 64


@pytest.mark.parametrize("name", STALL_NAMES)
def test_every_stream_can_stall(name: str) -> None:
    """A pattern on any single stream lengthens the run and changes no result."""
    operands = memories(np.random.default_rng(3), SMALL, 6, 32)
    commands: list[Command] = [ResetCommand(32), *[row(32, 20)] * 4, TokensCommand(32, 20)]
    commands += [HeadsCommand(4, 2), row(20, 5)]
    free = run(SMALL, commands, operands)
    stalled = run(SMALL, commands, operands, stalls={name: np.arange(11) < 10})
    assert stalled.cycles > free.cycles
    assert np.array_equal(free.y, stalled.y)
    assert free.counts == stalled.counts


def test_bandwidth_bounds_the_cycles() -> None:
    """With W bytes a cycle a run takes at least bytes / W, and a long one hardly more."""
    spec = AttentionSpec(head_dim=8, multipliers=64, max_tokens=256)
    operands = memories(np.random.default_rng(4), spec, 30, 256)
    commands = [row(256, 77) for _ in range(30)]
    for limit in (16, 24):
        result = run(spec, commands, operands, bytes_per_cycle=limit)
        fetched = sum(result.counts[f"{name}_bytes"] for name in ("k_msb", "k_lsb", "v"))
        assert fetched / limit <= result.cycles <= 1.1 * fetched / limit
        # A launch hides what the memory does meanwhile: 64 bytes are one launch.
        assert result.cycles_by_cause["dram"] > (1 - limit / 64) * 0.8 * result.cycles
    free = run(spec, commands, operands)
    wide = run(spec, commands, operands, bytes_per_cycle=10**6)
    assert free.cycles == wide.cycles


def test_counts_are_what_was_fetched_and_multiplied() -> None:
    """Bytes, products and beats are sums over the rows, counted here row by row."""
    operands = memories(np.random.default_rng(5), SMALL, 9, 32)
    shapes = [(32, 9, 8, 4), (7, 0, 6, 6), (1, 1, 4, 8)]
    commands = [
        row(n, values, msb_bits=msb, value_bits=bits, lsb_low=low, lsb_high=high)
        for n, values, msb, bits in shapes
        for low, high in (LSB_NEVER, LSB_ALWAYS)
    ]
    counts = run(SMALL, commands, operands).counts
    assert counts["redo_rows"] == 3
    assert counts["k_msb_bytes"] == sum(2 * n * msb for n, _, msb, _ in shapes)
    assert counts["k_lsb_bytes"] == sum(n * 4 for n, *_ in shapes)
    assert counts["v_bytes"] == sum(2 * values * bits for _, values, _, bits in shapes)
    assert counts["mac_qk"] == sum(3 * n * 8 for n, *_ in shapes)
    assert counts["mac_pv"] == sum(2 * values * 8 for _, values, *_ in shapes)
    assert counts["value_items"] == sum(2 * values for _, values, *_ in shapes)
    assert counts["v_beats"] == 2 * (5 + 0 + 1)
    assert counts["e_beats"] == counts["q_beats"] == 6


# -- what pruning promises -------------------------------------------------------------------------


def test_cascade_keeps_survivors_only() -> None:
    """Without a membership test, tokens that were pruned never come back before a reset."""
    rng = np.random.default_rng(6)
    operands = memories(rng, SMALL, 12, 32)
    commands: list[Command] = [ResetCommand(32)]
    for listed, following in ((32, 24), (24, 24), (24, 11), (11, 4), (4, 1)):
        commands += [row(listed, 3), row(listed // 2, 2), TokensCommand(32, following)]
    kept = [set(ids.tolist()) for ids in run(SMALL, commands, operands).kept]
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))
    assert [24, 24, 11, 4, 1] == [len(ids) for ids in kept]


def test_importance_grows_by_one_per_row() -> None:
    """Each row adds its probabilities, 1 within 2^-7, to the importance, if it is told to."""
    operands = memories(np.random.default_rng(7), SMALL, 20, 32)
    commands = [row(32, 5, add_importance=bool(i % 4)) for i in range(20)]
    result = run(SMALL, commands, operands)
    assert result.state.importance.sum() == result.added[np.arange(20) % 4 > 0].sum()
    assert np.all(np.abs(result.added / 2**22 - 1) <= 2**-7)


def test_runs_go_on_from_a_state() -> None:
    """Two runs, the second from the first one's state, give what one run gives."""
    rng = np.random.default_rng(8)
    operands = memories(rng, SMALL, 8, 32)
    later = Operands(operands.query[4:], operands.key_msb, operands.key_lsb, operands.value)
    first: list[Command] = [ResetCommand(30), *[row(30, 9)] * 4, TokensCommand(30, 12)]
    second: list[Command] = [*[row(12, 9)] * 4, TokensCommand(30, 5), HeadsCommand(4, 1)]
    whole = run(SMALL, first + second, operands)
    half = run(SMALL, first, operands)
    rest = run(SMALL, second, later, state=half.state)
    assert np.array_equal(whole.y, np.concatenate([half.y, rest.y]))
    assert np.array_equal(whole.state.importance, rest.state.importance)
    assert [ids.tolist() for ids in whole.kept] == [ids.tolist() for ids in half.kept + rest.kept]


def test_wrong_conditions_are_named() -> None:
    """Latency, bandwidth and stall names are checked."""
    operands = memories(np.random.default_rng(9), SMALL, 1, 1)
    with pytest.raises(ValueError, match=r"^attention: memory_latency must be at least 1, not 0$"):
        run(SMALL, [ResetCommand(1)], operands, memory_latency=0)
    with pytest.raises(ValueError, match=r"^attention: bytes_per_cycle must be at least 1, not 0$"):
        run(SMALL, [ResetCommand(1)], operands, bytes_per_cycle=0)
    with pytest.raises(ValueError, match=r"^stalls: unknown stream 'w'; known are cmd, q, k_req, "):
        run(SMALL, [ResetCommand(1)], operands, stalls={"w": np.zeros(1, dtype=np.bool_)})
