# SPDX-License-Identifier: Apache-2.0
"""Attention workloads: what each row of a pass fetches, as CSV, and as commands of the engine.

The columns are those of SpAtten's released workload files (arXiv 2012.09852): one line for one head
of one layer of one pass, a pass being one new token. They hold counts and no values.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from cosil.engines.attention import LSB_BITS, AttentionSpec
from cosil.errors import CosilError
from cosil.lowering.attention import (
    LSB_ALWAYS,
    LSB_NEVER,
    Command,
    HeadsCommand,
    ResetCommand,
    RowCommand,
    TokensCommand,
)

COLUMNS = (
    "iteration_id", "layer_id", "head_id", "embedding_length_D", "sentence_length_L",
    "key_fetch_num", "quant_key_bit", "quant_query_bit", "auto_requant_thres", "if_requant",
    "auto_requant_incre", "value_fetch_num", "quant_value_bit", "if_accumulate_importance",
    "if_rescale_previous_importance", "if_topk", "topk",
)  # fmt: skip

LINES_MAX = 1_000_000
LINE_BYTES_MAX = 4096
GROUP = 8
"""Counts of keys and values are rounded up to so many: the published beats."""

_WHOLE = (-1, 10, 12)
"""Key bits that stand for 8 MSBs and a fetch of 4 LSBs; values of these bits have 8."""

_MSB_OF_WHOLE = 8

_LIMITS = {"iteration_id": 1 << 20, "layer_id": 4095, "head_id": 63, "sentence_length_L": 1 << 20}


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One line.

    Attributes
    ----------
    line : int
        In the file, from 1.
    iteration, layer, head : int
    head_dim, length : int
        Columns of a head, tokens of the pass.
    keys, values : int
        Fetched by the row.
    key_bits, value_bits : int
        MSBs of a key, bits of a value: 4, 6 or 8.
    lsb : bool
        The row fetches 4 LSBs of each key too.
    add_importance : bool
    """

    line: int
    iteration: int
    layer: int
    head: int
    head_dim: int
    length: int
    keys: int
    values: int
    key_bits: int = 8
    value_bits: int = 8
    lsb: bool = True
    add_importance: bool = True


@dataclass(frozen=True, slots=True)
class Totals:
    """What a workload asks for, whatever runs it; counts are rounded up to multiples of 8.

    Attributes
    ----------
    rows, length, keys, values : int
        Lines, and the sums of their columns, not rounded.
    flops : int
        2 D for each key and each value, not rounded, LSBs not counted again.
    bytes : int
        Keys and values.
    key_beats, value_beats : int
        Of 8 keys or values, an LSB pass by itself.
    """

    rows: int
    length: int
    keys: int
    values: int
    flops: int
    bytes: int
    key_beats: int
    value_beats: int


def read_workload(path: Path | str) -> list[WorkloadRow]:
    """Read a workload file.

    Lines go pass by pass, in a pass layer by layer; a last line with a name only is skipped.

    Raises
    ------
    CosilError
        If it is not such a file; the message names the line, what has to be there, and what is.
    """
    source = Path(path)
    rows: list[WorkloadRow] = []
    try:
        with source.open(encoding="utf-8", newline="") as stream:
            for number, cells in enumerate(csv.reader(_lines(stream, source)), start=1):
                if number == 1:
                    if tuple(cells) != COLUMNS:
                        raise _wrong(source, 1, f"the columns must be {','.join(COLUMNS)}")
                elif cells and any(cells[1:]):
                    rows.append(_row(source, number, cells))
                if number > LINES_MAX:
                    raise _wrong(source, number, f"there may be {LINES_MAX:,} lines")
    except (UnicodeDecodeError, csv.Error) as error:
        raise CosilError(f"{source} is no CSV file: {error}") from error
    if not rows:
        raise CosilError(f"{source}: there must be at least one row")
    _check_order(source, rows)
    return rows


def totals(rows: Iterable[WorkloadRow]) -> Totals:
    """Return what a workload asks for."""
    sums = [0] * 8
    for row in rows:
        keys, values = _round(row.keys), _round(row.values)
        code_bits = keys * (row.key_bits + LSB_BITS * row.lsb) + values * row.value_bits
        amounts = (
            1, row.length, row.keys, row.values, 2 * row.head_dim * (row.keys + row.values),
            row.head_dim * code_bits // 8, keys // GROUP * (1 + row.lsb), values // GROUP,
        )  # fmt: skip
        sums = [total + amount for total, amount in zip(sums, amounts, strict=True)]
    return Totals(*sums)


def check_workload(spec: AttentionSpec, rows: Iterable[WorkloadRow], source: str) -> None:
    """Refuse rows that an engine cannot run; the message names the line."""
    for row in rows:
        for name, got, most in (
            ("sentence_length_L", row.length, spec.max_tokens),
            ("head_id", row.head, spec.max_heads - 1),
        ):
            if got > most:
                raise CosilError(
                    f"{source}, line {row.line}: {name} may be {most} on this engine, not {got}"
                )
        if row.head_dim != spec.head_dim:
            raise CosilError(
                f"{source}, line {row.line}: embedding_length_D must be the engine's "
                f"{spec.head_dim}, not {row.head_dim}"
            )


def passes(rows: Iterable[WorkloadRow]) -> Iterator[list[WorkloadRow]]:
    """Yield the rows of each pass."""
    for _, group in groupby(rows, key=lambda row: row.iteration):
        yield list(group)


def commands(
    rows: list[WorkloadRow], template: RowCommand, *, clear: bool
) -> Iterator[tuple[int, list[Command]]]:
    """Yield the number and the commands of each layer of one pass; the first begins with a reset.

    A layer with fewer keys than the list is long prunes tokens first; one with fewer heads than the
    layer before, heads. Heads are numbered anew in the file, so that its numbers say no identity.

    Parameters
    ----------
    rows : list of WorkloadRow
        Of one pass.
    template : RowCommand
        Scales and memory bases.
    clear : bool
        Importance begins at 0: the first pass.
    """
    length = rows[0].length
    program: list[Command] = [ResetCommand(length, clear_tokens=clear, clear_heads=clear)]
    listed, before = length, 0
    for number, group in groupby(rows, key=lambda row: row.layer):
        layer = list(group)
        heads = len(layer)
        if before and heads < before:
            program.append(HeadsCommand(before, heads))
        before = heads
        for row in layer:
            if row.keys < listed:
                program.append(TokensCommand(length, row.keys))
                listed = row.keys
            low, high = LSB_ALWAYS if row.lsb else LSB_NEVER
            program.append(
                replace(
                    template, n=row.keys, values=row.values, head=row.head, msb_bits=row.key_bits,
                    value_bits=row.value_bits, lsb_low=low, lsb_high=high,
                    add_importance=row.add_importance,
                )
            )  # fmt: skip
        yield number, program
        program = []


def _lines(stream: Iterable[str], source: Path) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if len(line) > LINE_BYTES_MAX:
            raise _wrong(source, number, f"a line may have {LINE_BYTES_MAX} characters")
        yield line


def _row(source: Path, number: int, cells: list[str]) -> WorkloadRow:
    if len(cells) != len(COLUMNS):
        raise _wrong(source, number, f"there must be {len(COLUMNS)} cells, not {len(cells)}")
    named: dict[str, str] = dict(zip(COLUMNS, cells, strict=True))

    def integer(name: str, low: int, high: int) -> int:
        text = named[name]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (value == value // 1 and low <= value <= high):
            raise _wrong(
                source, number, f"{name} must be an integer in {low}..{high}, not {text!r}"
            )
        return int(value)

    def flag(name: str) -> bool:
        if named[name] not in ("True", "False"):
            raise _wrong(source, number, f"{name} must be True or False, not {named[name]!r}")
        return named[name] == "True"

    def bits(name: str) -> int:
        value = integer(name, -1, 12)
        if value not in (4, 6, 8, *_WHOLE):
            raise _wrong(source, number, f"{name} must be 4, 6, 8, 10, 12 or -1, not {value}")
        return value

    iteration, layer, head, length = (integer(name, 0, high) for name, high in _LIMITS.items())
    dim = integer("embedding_length_D", 8, 128)
    if dim & (dim - 1):
        raise _wrong(source, number, f"embedding_length_D must be a power of two, not {dim}")
    keys = integer("key_fetch_num", 1, length)
    key_bits, value_bits = bits("quant_key_bit"), bits("quant_value_bit")
    return WorkloadRow(
        number, iteration, layer, head, dim, length, keys, integer("value_fetch_num", 0, keys),
        _MSB_OF_WHOLE if key_bits in _WHOLE else key_bits,
        _MSB_OF_WHOLE if value_bits in _WHOLE else value_bits,
        key_bits in _WHOLE or flag("if_requant"), flag("if_accumulate_importance"),
    )  # fmt: skip


def _check_order(source: Path, rows: list[WorkloadRow]) -> None:
    """Refuse a pass whose order, length or list cannot be the engine's."""
    before = rows[0]
    for row in rows[1:]:
        place, last = ((each.iteration, each.layer, each.head) for each in (row, before))
        if place <= last:
            raise _wrong(
                source, row.line, f"iteration, layer, head must follow {last}, not {place}"
            )
        if row.iteration == before.iteration:
            if row.length != before.length:
                raise _wrong(
                    source, row.line,
                    f"sentence_length_L must be the pass's {before.length}, not {row.length}",
                )  # fmt: skip
            if row.keys > before.keys:
                raise _wrong(
                    source, row.line,
                    f"key_fetch_num may not grow in a pass: {before.keys}, then {row.keys}",
                )  # fmt: skip
        before = row


def _round(count: int) -> int:
    return -(-count // GROUP) * GROUP


def _wrong(source: Path, line: int, what: str) -> CosilError:
    return CosilError(f"{source}, line {line}: {what}")


# -- schedules -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a pruned network fetches: a prompt's last token, then one new token a pass.

    Attributes
    ----------
    heads : tuple of int
        Heads of each layer; never more than of the layer before.
    keys : tuple of int or float
        Keys of each layer: a count, at most the pass's tokens, or (below or at 1.0, float) a
        fraction of `context`, rounded down. The first pass prunes none: no importance is known.
    values : float
        Fraction of a row's keys whose values are read, rounded down, at least one.
    context : int
        Most tokens: what fractions refer to, and the length of the last pass.
    passes : int
        The first is of context - passes + 1 tokens.
    head_dim, key_bits, value_bits : int
        Columns of a head; bits of codes, 4, 6 or 8.
    requantised : float
        Fraction of rows that fetch LSBs, spread evenly.
    """

    heads: tuple[int, ...]
    keys: tuple[int | float, ...]
    values: float = 1.0
    context: int = 1024
    passes: int = 32
    head_dim: int = 64
    key_bits: int = 8
    value_bits: int = 8
    requantised: float = 1.0

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.keys) or not self.heads:
            raise CosilError(
                f"schedule: heads and keys must be given for each layer, not for "
                f"{len(self.heads)} and {len(self.keys)}"
            )
        if min(self.heads) < 1 or list(self.heads) != sorted(self.heads, reverse=True):
            raise CosilError(f"schedule: heads may not grow from layer to layer, not {self.heads}")
        kept = [self.kept(layer) for layer in range(len(self.keys))]
        if min(kept) < 1 or kept != sorted(kept, reverse=True):
            raise CosilError(f"schedule: keys may not grow from layer to layer, not {kept}")
        if not 0 <= self.values <= 1 or not 0 <= self.requantised <= 1:
            raise CosilError("schedule: values and requantised must be in 0..1")
        if not 1 <= self.passes <= self.context:
            raise CosilError(f"schedule: passes must be in 1..{self.context}, not {self.passes!r}")

    def kept(self, layer: int) -> int:
        """Return the keys of a layer, as a count."""
        asked = self.keys[layer]
        # Ratios are decimals: what is just below an integer for being binary is that integer.
        return int(asked * self.context + 1e-9) if isinstance(asked, float) else asked

    def rows(self) -> list[WorkloadRow]:
        """Return the rows, in order; line numbers are those of the file that holds them."""
        made: list[WorkloadRow] = []
        for number in range(self.passes):
            length = self.context - self.passes + 1 + number
            for layer, heads in enumerate(self.heads):
                keys = min(length, self.kept(layer)) if number else length
                values = max(1, int(keys * self.values + 1e-9))
                for head in range(heads):
                    row = len(made)
                    lsb = int((row + 1) * self.requantised) > int(row * self.requantised)
                    made.append(
                        WorkloadRow(
                            row + 2, number, layer, head, self.head_dim, length, keys, values,
                            self.key_bits, self.value_bits, lsb,
                        )
                    )  # fmt: skip
        return made


def workload_text(rows: Iterable[WorkloadRow]) -> str:
    """Return rows as the text of a workload file; `read_workload` gives them back."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        whole = row.lsb and row.key_bits == _MSB_OF_WHOLE
        key_bits = row.key_bits + LSB_BITS if whole else row.key_bits
        cells = (
            row.iteration, row.layer, row.head, row.head_dim, row.length, row.keys, key_bits, -1,
            -1, row.lsb and not whole, LSB_BITS, row.values, row.value_bits, row.add_importance,
            False, False, -1,
        )  # fmt: skip
        lines.append(",".join(map(str, cells)))
    return "\n".join(lines) + "\n"
