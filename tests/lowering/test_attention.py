# SPDX-License-Identifier: Apache-2.0
"""Commands of the attention engine: words, ranges, packed rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    ROW_FIELDS,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
    check,
    packed,
    power_up,
    split_key,
)

SPEC = AttentionSpec(head_dim=8, multipliers=16, max_tokens=32, max_heads=4)
ROW = RowCommand(
    n=7, values=3, key_msb=11, key_lsb=12, value=13, head=2, mult=40000, shift=33, out_mult=50000,
    out_shift=21, lsb_low=5, lsb_high=4000, msb_bits=6, value_bits=4, add_importance=True, tag=9,
)  # fmt: skip


def operands(rows: int = 1) -> Operands:
    """Empty memories and some queries."""
    return Operands(
        np.zeros((rows, 8), np.int16),
        np.zeros((0, 8), np.int8),
        np.zeros((0, 8), np.uint8),
        np.zeros((0, 8), np.int8),
    )


def test_words_are_those_of_the_page() -> None:
    """Every field stands where section 4 of docs/engines/attention.md puts it."""
    row = [0 | 1 << 4 | 6 << 8 | 4 << 12, 9, 7, 3, 11, 12, 13, 2]
    row += [40000 | 33 << 16, 5 | 4000 << 16, 50000 | 21 << 16, 0, 0, 0, 0, 0]
    assert row == ROW.words().tolist()
    assert [1, 30, 4] + [0] * 13 == TokensCommand(30, 4).words().tolist()
    assert [2, 4, 1] + [0] * 13 == HeadsCommand(4, 1).words().tolist()
    assert [3 | 1 << 5, 17] + [0] * 14 == ResetCommand(17, False, True).words().tolist()
    assert ROW.words().dtype == np.uint32


@given(st.sampled_from([4, 6, 8]), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_packed_rows_hold_the_codes_lsb_first(bits: int, seed: int, rows: int) -> None:
    """Code c of a row is bits c*b .. c*b+b-1 of the row's bytes, read as one little-endian int."""
    codes = np.random.default_rng(seed).integers(-128, 128, (rows, 8), dtype=np.int8)
    stored = packed(codes, bits)
    assert stored.shape == (rows, bits)
    for row in range(rows):
        number = int.from_bytes(stored[row].tobytes(), "little")
        for c in range(8):
            assert int(codes[row, c]) & ((1 << bits) - 1) == number >> (c * bits) & (
                (1 << bits) - 1
            )


def test_packed_refuses_other_widths() -> None:
    """Only 4, 6 and 8 bits are stored."""
    with pytest.raises(ValueError, match=r"^attention: bits of a code must be 4, 6 or 8, not 5$"):
        packed(np.zeros((1, 8), np.int8), 5)


def test_split_key_gives_both_planes() -> None:
    """A key is msb * 16 + lsb with 0 <= lsb < 16, for all 12-bit keys."""
    key = np.arange(-2048, 2048)
    msb, lsb = split_key(key)
    assert (msb.dtype, lsb.dtype) == (np.int8, np.uint8)
    assert np.array_equal(key, msb.astype(int) * 16 + lsb)
    assert lsb.max() == 15


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([], r"^attention: there must be at least one command, not an empty sequence$"),
        ([replace(ROW, n=33)], r"^attention: n of command 0 must be in 1\.\.32, not 33$"),
        ([replace(ROW, values=8)], r"^attention: values of command 0 must be in 0\.\.7, not 8$"),
        ([replace(ROW, shift=48)], r"^attention: shift of command 0 must be in 0\.\.47, not 48$"),
        ([replace(ROW, head=4)], r"^attention: head of command 0 must be in 0\.\.3, not 4$"),
        (
            [replace(ROW, msb_bits=5)],
            r"^attention: msb_bits of command 0 must be 4, 6 or 8, not 5$",
        ),
        (
            [ResetCommand(6), ROW],
            r"^attention: n of command 1 must be at most the list's 6 tokens, not 7$",
        ),
        (
            [TokensCommand(20, 5), ROW],
            r"^attention: n of command 1 must be at most the list's 5 tokens, not 7$",
        ),
        ([TokensCommand(20, 21)], r"^attention: k of command 0 must be in 1\.\.20, not 21$"),
        (
            [TokensCommand(20, 5), TokensCommand(20, 6)],
            (
                r"^attention: k of command 1 must be at most the 5 tokens that are left, not 6; "
                r"keep fewer, or begin a pass with a ResetCommand$"
            ),
        ),
        (
            [ResetCommand(9), TokensCommand(20, 10)],
            r"^attention: k of command 1 must be at most the 9 tokens that are left, not 10; ",
        ),
        ([HeadsCommand(5, 1)], r"^attention: heads of command 0 must be in 1\.\.4, not 5$"),
        ([ROW, ROW], r"^attention: there must be a query for each of the 2 rows, not 1$"),
    ],
)
def test_what_the_engine_does_not_admit(commands: list[Command], message: str) -> None:
    """Each illegal command raises one line that says what is legal."""
    with pytest.raises(ValueError, match=message):
        check(SPEC, commands, operands(), power_up(SPEC))


def test_check_returns_the_fields_of_rows() -> None:
    """One line per row command, in order; NumPy's integers and booleans are as good as Python's."""
    other = replace(ROW, n=np.int16(5), add_importance=np.bool_(False), tag=2**32 - 1)
    fields = check(
        SPEC, [ResetCommand(9), ROW, HeadsCommand(4, 1), other], operands(2), power_up(SPEC)
    )
    assert fields.dtype == np.int64
    for line, row in zip(fields.tolist(), (ROW, other), strict=True):
        assert line == [int(getattr(row, name)) for name in ROW_FIELDS]


def test_wrong_operands_are_named() -> None:
    """Dtype, shape and range of operands are checked."""
    start = power_up(SPEC)
    message = r"^attention: operand value must be int8\[rows, 8\], not uint8\[0, 8\]$"
    with pytest.raises(TypeError, match=message):
        check(SPEC, [ROW], replace(operands(), value=np.zeros((0, 8), np.uint8)), start)
    with pytest.raises(ValueError, match=r"^attention: queries must be in -2048\.\.2047; "):
        check(SPEC, [ROW], replace(operands(), query=np.full((1, 8), 2048, np.int16)), start)
    with pytest.raises(TypeError, match=r"^attention: command 0 must be a RowCommand, "):
        check(SPEC, [None], operands(), start)  # pyright: ignore[reportArgumentType]
    check(SPEC, [ResetCommand(32), ROW, TokensCommand(32, 7), ROW], operands(2), start)


def test_wrong_states_are_named() -> None:
    """A state has the memories' sizes, sums of 48 bits and increasing ids."""
    start = power_up(SPEC)
    for tokens in ([], [3, 3], [4, 2], [-1, 2], [2, 32]):
        state = replace(start, tokens=np.array(tokens, dtype=np.int64))
        with pytest.raises(ValueError, match=r"^attention: tokens of the state must increase "):
            check(SPEC, [ResetCommand(1)], operands(), state)
    state = replace(start, importance=np.full(32, 2**48))
    with pytest.raises(ValueError, match=r"^attention: importance of the state must be in 0\.\.2"):
        check(SPEC, [ResetCommand(1)], operands(), state)
    state = replace(start, head_importance=np.zeros(5, dtype=np.int64))
    message = r"^attention: head_importance of the state must be int64\[4\], not int64\[5\]$"
    with pytest.raises(TypeError, match=message):
        check(SPEC, [ResetCommand(1)], operands(), state)
