# SPDX-License-Identifier: Apache-2.0
"""The attention reference: against Python integers, and the softmax's error against float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference.attention import reference
from algos.reference.attention_rows import Factors, rows
from cosil.engines.attention import AttentionSpec, log_table, pow_table
from cosil.lowering.attention import (
    LSB_ALWAYS,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    State,
    TokensCommand,
    power_up,
)

SPEC = AttentionSpec(head_dim=8, multipliers=16, max_tokens=16, max_heads=4)
POW, LOG = pow_table(), log_table()


# -- an engine in Python integers, section 1 step by step ------------------------------------------


def naive_row(
    command: RowCommand, query: list[int], ids: list[int], memory: Operands
) -> tuple[list[int], list[int], bool]:
    """Return output, probabilities and whether the LSBs were fetched."""

    def read(array: np.ndarray, base: int, token: int) -> list[int]:
        row = (base + token) % 2**32
        return [int(c) for c in array[row]] if row < len(array) else [0] * 8

    def sign(code: int, bits: int) -> int:
        code %= 1 << bits
        return code - (1 << bits) if code >> (bits - 1) else code

    def weigh(scores: list[int]) -> tuple[list[int], list[int], int]:
        half = 1 << command.shift >> 1
        t = [min(((max(scores) - s) * command.mult + half) >> command.shift, 8191) for s in scores]
        total = sum(0 if x == 8191 else POW[x & 255] >> (x >> 8) for x in t)
        z = total.bit_length() - 1
        level = ((z - 24) << 8) + LOG[(total >> (z - 10)) & 1023]
        p = []
        for x in t:
            u = x + level
            r = 2 + (u >> 8)
            rounded = (POW[u & 255] + (1 << (r - 1))) >> r
            p.append(0 if x == 8191 else min(rounded, 2**22 - 1))
        return t, p, level

    scores, low = [], []
    for token in ids:
        msb = [sign(c, command.msb_bits) for c in read(memory.key_msb, command.key_msb, token)]
        lsb = [c & 15 for c in read(memory.key_lsb, command.key_lsb, token)]
        scores.append(sum(q * 16 * m for q, m in zip(query, msb, strict=True)))
        low.append(sum(q * x for q, x in zip(query, lsb, strict=True)))
    t, p, level = weigh(scores)
    flat = command.lsb_low <= level <= command.lsb_high
    if flat:
        t, p, _ = weigh([a + b for a, b in zip(scores, low, strict=True)])
    kept = sorted(sorted(range(len(ids)), key=lambda i: (t[i], i))[: command.values])
    output = []
    for d in range(8):
        acc = 0
        for i in kept:
            code = read(memory.value, command.value, ids[i])[d]
            acc += p[i] * sign(code, command.value_bits)
        exact = Fraction(acc * command.out_mult, 1 << command.out_shift)
        output.append(max(-32768, min(32767, round(exact))))  # round() ties to even
    return output, p, flat


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Command], Operands, State]:
    """Draw a legal sequence of commands, operands and a state to begin with."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    extreme = draw(st.booleans())
    memory = Operands(
        rng.choice([-2048, 2047], (6, 8)).astype(np.int16)
        if extreme
        else rng.integers(-2048, 2048, (6, 8), dtype=np.int16),
        rng.integers(-128, 128, (40, 8), dtype=np.int8),
        rng.integers(0, 16, (40, 8), dtype=np.uint8),
        rng.integers(-128, 128, (40, 8), dtype=np.int8),
    )
    tokens = np.sort(rng.choice(16, rng.integers(1, 17), replace=False)).astype(np.int64)
    state = State(tokens, rng.integers(0, 2**40, 16), rng.integers(0, 9, 4))
    commands: list[Command] = []
    listed, left = tokens.size, 6
    for kind in draw(st.lists(st.sampled_from("rrrthz"), min_size=1, max_size=9)):
        if kind == "r" and left:
            left -= 1
            n = int(rng.integers(1, listed + 1))
            commands.append(
                RowCommand(
                    n=n,
                    values=int(rng.choice([0, n, rng.integers(0, n + 1)])),
                    key_msb=int(rng.choice([0, 30, 2**32 - 3])),
                    key_lsb=int(rng.choice([0, 30])),
                    value=int(rng.choice([0, 30])),
                    head=int(rng.integers(4)),
                    mult=int(rng.choice([0, 1, 65535, rng.integers(65536)])),
                    shift=int(rng.choice([0, 47, rng.integers(18, 36)])),
                    out_mult=int(rng.choice([1, 65535, rng.integers(65536)])),
                    out_shift=int(rng.choice([0, 63, rng.integers(20, 45)])),
                    lsb_low=int(rng.choice([0, 1, 300])),
                    lsb_high=int(rng.choice([0, 600, 4095])),
                    msb_bits=int(rng.choice([4, 6, 8])),
                    value_bits=int(rng.choice([4, 6, 8])),
                    add_importance=bool(rng.integers(2)),
                )
            )
        elif kind == "t":
            total = int(rng.integers(1, 17))
            listed = int(rng.integers(1, min(total, listed) + 1))
            commands.append(TokensCommand(total, listed))
        elif kind == "h":
            commands.append(HeadsCommand(3, int(rng.integers(1, 4))))
        elif kind == "z":
            listed = int(rng.integers(1, 17))
            clear = bool(rng.integers(2)), bool(rng.integers(2))
            commands.append(ResetCommand(listed, *clear))
    return commands or [ResetCommand(1)], memory, state


@settings(max_examples=50, deadline=None)
@given(programs())
def test_reference_equals_python_integers(
    program: tuple[list[Command], Operands, State],
) -> None:
    """Outputs, kept ids, flags and the final state are those of the page, command by command."""
    commands, memory, state = program
    ids = state.tokens.tolist()
    importance, heads = state.importance.tolist(), state.head_importance.tolist()
    outputs, kept, redo = [], [], []
    for command in commands:
        if isinstance(command, RowCommand):
            row = ids[: command.n]
            query = memory.query[len(outputs)].tolist()
            output, p, flat = naive_row(command, query, row, memory)
            outputs.append(output)
            redo.append(flat)
            heads[command.head] += sum(abs(o) for o in output)
            if command.add_importance:
                for token, add in zip(row, p, strict=True):
                    importance[token] += add
        elif isinstance(command, TokensCommand):
            order = sorted(range(command.tokens), key=lambda i: (-importance[i], i))
            ids = sorted(order[: command.k])
            kept.append(ids)
        elif isinstance(command, HeadsCommand):
            order = sorted(range(command.heads), key=lambda i: (-heads[i], i))
            kept.append(sorted(order[: command.k]))
        else:
            ids = list(range(command.tokens))
            importance = [0] * 16 if command.clear_tokens else importance
            heads = [0] * 4 if command.clear_heads else heads
    result = reference(SPEC, commands, memory, state=state)
    assert outputs == result.output.tolist()
    assert kept == [ids.tolist() for ids in result.kept]
    assert redo == result.redo.tolist()
    assert ids == result.state.tokens.tolist()
    assert importance == result.state.importance.tolist()
    assert heads == result.state.head_importance.tolist()


def test_state_that_is_given_stays() -> None:
    """The state passed in is not modified, and the one at power-up is empty."""
    start = power_up(SPEC)
    memory = Operands(
        np.ones((1, 8), np.int16), *(np.ones((16, 8), t) for t in (np.int8, np.uint8, np.int8))
    )
    row = RowCommand(5, 2, 0, 0, 0, 1, 9, 3, 1, 0)
    result = reference(SPEC, [row], memory, state=start)
    assert result.state.importance.sum() > 0
    assert not start.importance.any()
    assert np.array_equal(np.arange(16), start.tokens)


# -- the softmax against float64 -------------------------------------------------------------------


def softmax_errors(scores: np.ndarray, mult: int, shift: int) -> tuple[float, float, float]:
    """Return the largest relative error for p >= 2**-14, the L1 error, and the sum of p."""
    # D = 1 in effect: the query is 1 in one dimension, keys are the scores (12 bits).
    n = scores.size
    query = torch.zeros((1, 1, 8), dtype=torch.int64)
    query[..., 0] = 2047
    key = torch.zeros((1, n, 8), dtype=torch.int64)
    key[0, :, 0] = torch.as_tensor(scores)
    one = torch.tensor([1])
    factors = Factors(torch.tensor([mult]), torch.tensor([shift]), one, one, *LSB_ALWAYS)
    visible = torch.ones((1, 1, n), dtype=torch.bool)
    value = torch.zeros_like(key)
    p = rows(query, key, value, visible, torch.tensor([[0]]), factors).probability
    got = p[0, 0].numpy() / 2.0**22
    exponent = scores.astype(np.float64) * 2047 * mult / 2.0 ** (shift + 8)
    weights = np.exp2(exponent - exponent.max())
    true = weights / weights.sum()
    large = true >= 2.0**-14
    relative = np.abs(got - true)[large] / true[large]
    return float(relative.max(initial=0.0)), float(np.abs(got - true).sum()), float(got.sum())


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["normal", "uniform", "equal", "two", "one", "tail"]),
    st.sampled_from([1, 2, 3, 15, 16, 17, 255, 1000, 1024, 4096]),
    st.integers(1, 65535),
    st.integers(18, 36),
    st.integers(0, 2**32 - 1),
)
def test_softmax_error_is_bounded(kind: str, n: int, mult: int, shift: int, seed: int) -> None:
    """Relative error <= 2^-7 for p >= 2^-14, L1 error of a row <= 2^-7, sum of p within 2^-7."""
    rng = np.random.default_rng(seed)
    scores = {
        "normal": lambda: np.clip(rng.normal(0, 500, n), -2048, 2047),
        "uniform": lambda: rng.integers(-2048, 2048, n),
        "equal": lambda: np.full(n, rng.integers(-2048, 2048)),
        "two": lambda: rng.choice([-5, 6], n),
        "one": lambda: np.where(np.arange(n) == rng.integers(n), 2047, -2048),
        "tail": lambda: 2047 - np.minimum(np.arange(n), 4095),
    }[kind]()
    relative, l1, total = softmax_errors(np.asarray(scores).astype(np.int64), mult, shift)
    assert relative <= 2**-7
    assert l1 <= 2**-7
    assert abs(total - 1) <= 2**-7


@pytest.mark.parametrize("n", [1, 4096])
def test_softmax_extremes(n: int) -> None:
    """A single key has all weight (less 2^-22), and equal keys share it."""
    relative, l1, total = softmax_errors(np.zeros(n, dtype=np.int64), 1, 0)
    assert relative <= 2**-9
    assert l1 <= 2**-9
    assert total < 1 if n == 1 else abs(total - 1) <= 2**-9
