# SPDX-License-Identifier: Apache-2.0
"""What the attention engine runs: its commands and memory images (docs/engines/attention.md, 4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import (
    CODE_WIDTHS,
    IMPORTANCE_BITS,
    LOG_BITS,
    OUT_SHIFT_MAX,
    SHIFT_MAX,
    AttentionSpec,
)

ROW, TOKENS, HEADS, RESET = range(4)
"""Operations, bits 0..3 of word 0."""

WORDS = 16

LSB_NEVER = (1, 0)
"""`lsb_low` and `lsb_high` with which no row is flat."""

LSB_ALWAYS = (0, 4095)
"""`lsb_low` and `lsb_high` with which every row is flat."""


@dataclass(frozen=True, slots=True)
class RowCommand:
    """One query of one head.

    Attributes
    ----------
    n : int
        Keys: the first n tokens of the list.
    values : int
        How many values are kept, 0..n.
    key_msb, key_lsb, value : int
        Rows of token 0 in the three memories; token i is i rows further.
    head : int
        Whose importance the output adds to.
    mult, shift : int
        Distance to the row's maximum: (difference * mult + half) >> shift, in 2**-8 of log2.
    lsb_low, lsb_high : int
        The row is flat if its logarithm L lies between, both included (UQ4.8).
    out_mult, out_shift : int
        Output = RNE(sum * out_mult / 2**out_shift), saturated to int16.
    msb_bits, value_bits : int
        Bits of the codes, 4, 6 or 8.
    add_importance : bool
        The row's probabilities are added to its tokens' importance.
    tag : int
        Comes back with the output.
    """

    n: int
    values: int
    key_msb: int
    key_lsb: int
    value: int
    head: int
    mult: int
    shift: int
    out_mult: int
    out_shift: int
    lsb_low: int = LSB_NEVER[0]
    lsb_high: int = LSB_NEVER[1]
    msb_bits: int = 8
    value_bits: int = 8
    add_importance: bool = True
    tag: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the command, uint32[16]."""
        flags = int(self.add_importance) << 4 | self.msb_bits << 8 | self.value_bits << 12
        return _words(
            ROW | flags,
            self.tag,
            self.n,
            self.values,
            self.key_msb,
            self.key_lsb,
            self.value,
            self.head,
            self.mult | self.shift << 16,
            self.lsb_low | self.lsb_high << 16,
            self.out_mult | self.out_shift << 16,
        )


ROW_FIELDS = (
    "n", "values", "tag", "add_importance", "msb_bits", "value_bits", "key_msb", "key_lsb",
    "value", "head", "mult", "shift", "lsb_low", "lsb_high", "out_mult", "out_shift",
)  # fmt: skip
"""Columns of the table that `check` returns."""


@dataclass(frozen=True, slots=True)
class TokensCommand:
    """Keep the k most important of tokens 0..tokens-1; they become the list.

    The last `recent` of them, 0..k, are kept whatever their importance. k is at most the list's
    length. Who asks for the tokens of the pass, and for the same `recent` throughout (or for k, if
    that is less), gets ids of the list only (docs/engines/attention.md, section 1).
    """

    tokens: int
    k: int
    recent: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the command, uint32[16]."""
        return _words(TOKENS, self.tokens, self.k, self.recent)


@dataclass(frozen=True, slots=True)
class HeadsCommand:
    """Name the k most important of heads 0..heads-1."""

    heads: int
    k: int

    def words(self) -> NDArray[np.uint32]:
        """Return the command, uint32[16]."""
        return _words(HEADS, self.heads, self.k)


@dataclass(frozen=True, slots=True)
class ResetCommand:
    """Start a pass: the list is 0..tokens-1; importance of tokens and heads is cleared if asked."""

    tokens: int
    clear_tokens: bool = True
    clear_heads: bool = True

    def words(self) -> NDArray[np.uint32]:
        """Return the command, uint32[16]."""
        return _words(RESET | int(self.clear_tokens) << 4 | int(self.clear_heads) << 5, self.tokens)


Command = RowCommand | TokensCommand | HeadsCommand | ResetCommand


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """Codes as the engine's ports see them, one to an element; rows past the end read as 0.

    Of each code the engine takes the low bits that the command says, sign-extended. A row of b-bit
    codes takes D * b / 8 bytes of memory: `packed` gives them.

    Attributes
    ----------
    query : int16[rows, D]
        Queries in the order of the row commands, 12 bits each.
    key_msb, value : int8[rows, D]
    key_lsb : uint8[rows, D]
        0..15. A key is msb * 16 + lsb.
    """

    query: NDArray[np.int16]
    key_msb: NDArray[np.int8]
    key_lsb: NDArray[np.uint8]
    value: NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What stays in the engine from run to run.

    Attributes
    ----------
    tokens : int64[...]
        Ids of the list, strictly increasing.
    importance : int64[max_tokens]
        I, summed over the lanes' copies; at power-up 0.
    head_importance : int64[max_heads]
        H.
    """

    tokens: NDArray[np.int64]
    importance: NDArray[np.int64]
    head_importance: NDArray[np.int64]


def power_up(spec: AttentionSpec) -> State:
    """Return the state that a run begins with unless told otherwise: all tokens, no importance."""
    return State(
        np.arange(spec.max_tokens),
        np.zeros(spec.max_tokens, dtype=np.int64),
        np.zeros(spec.max_heads, dtype=np.int64),
    )


def packed(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Return rows of codes as their bytes in memory.

    Parameters
    ----------
    codes : int8[rows, D] or uint8[rows, D]
        Of each code the low `bits` bits are stored.
    bits : {4, 6, 8}
        Width of a code.

    Returns
    -------
    uint8[rows, D * bits / 8]
        Code 0 in the lowest bits of byte 0, the others above it without gaps.
    """
    if bits not in CODE_WIDTHS:
        raise ValueError(f"attention: bits of a code must be 4, 6 or 8, not {bits!r}")
    rows, columns = codes.shape
    stored = codes.astype(np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
    return np.packbits(stored.reshape(rows, columns * bits), axis=1, bitorder="little")


def split_key(key: NDArray[np.integer]) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Return the two planes of keys of up to 12 bits: key = msb * 16 + lsb."""
    whole = key.astype(np.int16)
    return (whole >> 4).astype(np.int8), (whole & 15).astype(np.uint8)


def _words(*values: int) -> NDArray[np.uint32]:
    words = np.zeros(WORDS, dtype=np.uint32)
    words[: len(values)] = values
    return words


def check(
    spec: AttentionSpec, commands: Sequence[Command], operands: Operands, state: State
) -> NDArray[np.int64]:
    """Refuse what the engine does not admit (section 4).

    Returns
    -------
    int64[rows, fields]
        `ROW_FIELDS` of each row command.

    Raises
    ------
    TypeError
        If a command is of no known class, or an operand or the state has the wrong dtype or shape.
    ValueError
        If there is no command, a field is out of range, n or the tokens to keep exceed the list as
        the commands before leave it, a query is missing or has more than 12 bits, or the state is
        impossible.
    """
    if not commands:
        raise ValueError("attention: there must be at least one command, not an empty sequence")
    _check_state(spec, state)
    listed = state.tokens.size
    rows = [command for command in commands if isinstance(command, RowCommand)]
    others = [
        (number, command)
        for number, command in enumerate(commands)
        if not isinstance(command, RowCommand)
    ]
    longest = np.full(len(commands), listed)  # the list's length at each command
    for number, command in others:
        _check_fields(spec, number, command)
        if isinstance(command, TokensCommand):
            if command.k > listed:
                raise ValueError(
                    f"attention: k of command {number} must be at most the {listed} tokens that "
                    f"are left, not {command.k!r}; keep fewer, or begin a pass with a ResetCommand"
                )
            listed = command.k
        elif isinstance(command, ResetCommand):
            listed = command.tokens
        longest[number:] = listed
    numbers = np.delete(np.arange(len(commands)), [number for number, _ in others])
    fields = _check_rows(spec, rows, numbers, longest[numbers])
    for name, dtype in _DTYPES.items():
        array: NDArray[np.generic] = getattr(operands, name)
        if array.dtype != dtype or array.ndim != 2 or array.shape[1] != spec.head_dim:
            raise TypeError(
                f"attention: operand {name} must be {np.dtype(dtype)}[rows, {spec.head_dim}], "
                f"not {array.dtype}{list(array.shape)}"
            )
    if len(operands.query) < len(rows):
        raise ValueError(
            f"attention: there must be a query for each of the {len(rows)} rows, "
            f"not {len(operands.query)}"
        )
    if operands.query.size and not -2048 <= operands.query.min() <= operands.query.max() <= 2047:
        raise ValueError("attention: queries must be in -2048..2047; quantise them to 12 bits")
    return fields


def _check_rows(
    spec: AttentionSpec,
    rows: Sequence[RowCommand],
    numbers: NDArray[np.int64],
    longest: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the fields of numbered row commands, of at most so many keys each.

    All at once, in a fraction of the time that commands take one by one; those are looked at only
    where something is wrong, for what to say.
    """
    try:
        packed = b"".join([_pack(*_fields(row)) for row in rows])
        fields = np.frombuffer(packed, dtype=np.int64).reshape(-1, len(ROW_FIELDS))
        if _are_legal(spec, fields, longest):
            return fields
    except struct.error:  # not an integer, or too large for the field's eight bytes
        pass
    for row, number, listed in zip(rows, numbers.tolist(), longest.tolist(), strict=True):
        _check_fields(spec, number, row)
        if row.n > listed:
            raise ValueError(
                f"attention: n of command {number} must be at most the list's {listed} tokens, "
                f"not {row.n!r}"
            )
    return np.array([_fields(row) for row in rows], dtype=np.int64)


def _are_legal(spec: AttentionSpec, fields: NDArray[np.int64], longest: NDArray[np.int64]) -> bool:
    """Whether rows are admitted: what `_check_fields` says, in array operations."""
    ranges = _row_ranges(spec, spec.max_tokens) | dict.fromkeys(_WIDTHS, (4, 8))
    low, high = np.array([ranges.get(name, (0, 1)) for name in ROW_FIELDS]).T
    n, values = fields[:, ROW_FIELDS.index("n")], fields[:, ROW_FIELDS.index("values")]
    widths = fields[:, [ROW_FIELDS.index(name) for name in _WIDTHS]]
    return bool(
        np.all((low <= fields) & (fields <= high))
        and np.all((n <= longest) & (values <= n))
        and not np.any(widths & 1)
    )


def _row_ranges(spec: AttentionSpec, n: int) -> dict[str, tuple[int, int]]:
    """Return the least and the largest value of a row's fields, of n keys."""
    word, half, log = 2**32 - 1, 2**16 - 1, (1 << LOG_BITS) - 1
    return {
        "tag": (0, word),
        "n": (1, spec.max_tokens),
        "values": (0, n),
        "key_msb": (0, word),
        "key_lsb": (0, word),
        "value": (0, word),
        "head": (0, spec.max_heads - 1),
        "mult": (0, half),
        "shift": (0, SHIFT_MAX),
        "lsb_low": (0, log),
        "lsb_high": (0, log),
        "out_mult": (0, half),
        "out_shift": (0, OUT_SHIFT_MAX),
    }


def _check_fields(spec: AttentionSpec, number: int, command: Command) -> None:
    tokens = spec.max_tokens
    if isinstance(command, RowCommand):
        ranges = _row_ranges(spec, command.n)
        for name in _WIDTHS:
            value = getattr(command, name)
            if value not in CODE_WIDTHS:
                raise ValueError(
                    f"attention: {name} of command {number} must be 4, 6 or 8, not {value!r}"
                )
    elif isinstance(command, TokensCommand):
        ranges = {"tokens": (1, tokens), "k": (1, command.tokens), "recent": (0, command.k)}
    elif isinstance(command, HeadsCommand):
        ranges = {"heads": (1, spec.max_heads), "k": (1, command.heads)}
    elif isinstance(command, ResetCommand):  # pyright: ignore[reportUnnecessaryIsInstance]
        ranges = {"tokens": (1, tokens)}
    else:
        raise TypeError(
            f"attention: command {number} must be a RowCommand, TokensCommand, HeadsCommand or "
            f"ResetCommand, not {command!r}"
        )
    for name, (low, high) in ranges.items():
        value = getattr(command, name)
        if not low <= value <= high:
            raise ValueError(
                f"attention: {name} of command {number} must be in {low}..{high}, not {value!r}"
            )


def _check_state(spec: AttentionSpec, state: State) -> None:
    sizes = {"importance": spec.max_tokens, "head_importance": spec.max_heads}
    for name in ("tokens", *sizes):
        array: NDArray[np.int64] = getattr(state, name)
        size = sizes.get(name, array.size)
        if array.dtype != np.int64 or array.shape != (size,):
            raise TypeError(
                f"attention: {name} of the state must be int64[{size}], "
                f"not {array.dtype}{list(array.shape)}"
            )
        if name in sizes and not 0 <= array.min() <= array.max() < 1 << IMPORTANCE_BITS:
            raise ValueError(f"attention: {name} of the state must be in 0..{2**48 - 1}")
    ids = state.tokens
    if ids.size == 0 or ids[0] < 0 or ids[-1] >= spec.max_tokens or np.any(np.diff(ids) <= 0):
        raise ValueError(
            f"attention: tokens of the state must increase within 0..{spec.max_tokens - 1}, "
            f"not {ids!r}"
        )


_WIDTHS = ("msb_bits", "value_bits")

_fields = attrgetter(*ROW_FIELDS)
_pack = struct.Struct(f"{len(ROW_FIELDS)}q").pack

_DTYPES = {"query": np.int16, "key_msb": np.int8, "key_lsb": np.uint8, "value": np.int8}
