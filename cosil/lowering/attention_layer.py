# SPDX-License-Identifier: Apache-2.0
"""An attention node of a packed network, for one sequence, as commands of engine `attention`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosil.lowering.attention import (
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
    split_key,
)
from cosil.lowering.attention_program import Program, factors, program
from cosil.lowering.survivors import check_order
from cosil.packed.network import Node


@dataclass(slots=True, eq=False)
class Sequence:
    """Where one sequence is in its pass over the layers.

    Attributes
    ----------
    past, total : int
        Tokens of earlier passes, and of this one too.
    tokens : int64[k]
        The list.
    heads : int64[h] or None
        Heads that run; None before the pass's first node.
    """

    past: int
    total: int
    tokens: NDArray[np.int64]
    heads: NDArray[np.int64] | None = None

    @classmethod
    def begin(cls, past: int, length: int) -> Sequence:
        """Start a pass over `length` new tokens."""
        return cls(past, past + length, np.arange(past + length))


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The row commands of one node.

    Attributes
    ----------
    commands : list of RowCommand
        Head by head, query by query; tag = head * new tokens + query.
    operands : Operands
        Queries in that order, and the node's keys and values, kv head after kv head.
    """

    commands: list[RowCommand]
    operands: Operands


def prologue(node: Node, sequence: Sequence) -> list[Command]:
    """Return what comes before a node's rows: reset, then what is pruned.

    The list and the heads of `sequence` have to be updated from what the commands keep (`kept`).
    The first node of a sequence prunes nothing: no importance is known.
    """
    at = program(node)
    commands: list[Command] = []
    first = sequence.heads is None
    heads = at.heads if sequence.heads is None else len(sequence.heads)
    if first:
        clear = sequence.past == 0
        commands.append(ResetCommand(sequence.total, clear_tokens=clear, clear_heads=clear))
    if not first or sequence.past:
        if at.head_keep < heads:
            commands.append(HeadsCommand(at.heads, at.head_keep))
        count = at.tokens(sequence.total, len(sequence.tokens))
        if count < len(sequence.tokens):
            recent = min(at.token_recent, count)
            commands.append(TokensCommand(sequence.total, count, recent))
    return commands


def kept(
    node: Node, sequence: Sequence, commands: list[Command], ids: list[NDArray[np.int64]]
) -> None:
    """Note what the commands of `prologue` kept: `ids` of each tokens and heads command.

    Raises
    ------
    AssertionError
        If ids do not increase, or one had been pruned before.
    """
    if sequence.heads is None:
        sequence.heads = np.arange(program(node).heads)
    results: Iterator[NDArray[np.int64]] = iter(ids)
    for command in commands:
        if isinstance(command, HeadsCommand):
            sequence.heads = _survivors(node, "heads", next(results), sequence.heads)
        elif isinstance(command, TokensCommand):
            sequence.tokens = _survivors(node, "tokens", next(results), sequence.tokens)


def _survivors(
    node: Node, what: str, ids: NDArray[np.int64], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    check_order(ids)
    assert np.isin(ids, before).all(), f"{node.name}: no pruned {what} come back within a pass"
    return ids


def layer(
    node: Node,
    sequence: Sequence,
    query: NDArray[np.int64],
    key: NDArray[np.int64],
    value: NDArray[np.int64],
) -> Layer:
    """Return a node's row commands.

    Parameters
    ----------
    node : Node
        An attention node on engine `attention`.
    sequence : Sequence
        After `kept`.
    query : int64[heads, L, d]
        Codes of the new tokens' queries.
    key, value : int64[kv_heads, T, d]
        Codes of all tokens, keys as msb * 16 + lsb.
    """
    assert sequence.heads is not None
    at = program(node)
    mult, shift = factors(node.tensors["softmax"].words)
    out_mult, out_shift = factors(node.tensors["output"].words)
    length, total = query.shape[1], key.shape[1]
    running = queries(at, sequence, length)
    visible = np.full(len(running), len(sequence.tokens))
    if at.causal:
        visible = np.searchsorted(sequence.tokens, sequence.past + running, side="right")
    wanted = at.values(visible)
    commands: list[RowCommand] = []
    for head in map(int, sequence.heads):
        base = head // (at.heads // at.kv_heads) * total
        for index, n, values in zip(running, visible, wanted, strict=True):
            commands.append(
                RowCommand(
                    n=int(n), values=int(values), key_msb=base, key_lsb=base, value=base, head=head,
                    mult=int(mult[head]), shift=int(shift[head]),
                    out_mult=int(out_mult[head]), out_shift=int(out_shift[head]),
                    lsb_low=at.lsb_low, lsb_high=at.lsb_high,
                    msb_bits=at.msb_bits, value_bits=at.value_bits,
                    add_importance=at.importance, tag=head * length + int(index),
                )
            )  # fmt: skip
    msb, lsb = split_key(key.reshape(-1, at.head_dim))
    operands = Operands(
        query[sequence.heads][:, running].reshape(-1, at.head_dim).astype(np.int16),
        msb, lsb, value.reshape(-1, at.head_dim).astype(np.int8),
    )  # fmt: skip
    return Layer(commands, operands)


def queries(at: Program, sequence: Sequence, length: int) -> NDArray[np.int64]:
    """Return the new tokens whose queries run: those in the list, and, causal, the last one."""
    new = sequence.past + np.arange(length)
    runs = np.isin(new, sequence.tokens)
    if at.causal:
        runs[-1] = True
    return np.flatnonzero(runs)
