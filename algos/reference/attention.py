# SPDX-License-Identifier: Apache-2.0
"""The sparse attention engine's result for a sequence of commands, in exact integers.

Written from docs/engines/attention.md, sections 1 and 4: one command after the other. The rows'
mathematics is `algos.reference.attention_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from algos.reference.attention_rows import Factors, Rows, best, rows
from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    State,
    TokensCommand,
    check,
    power_up,
)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a sequence of commands gives.

    Attributes
    ----------
    output : int64[rows, D]
        Outputs of the row commands, in their order.
    kept : list of int64[k]
        Ids that each tokens and heads command keeps, in their order.
    redo : bool[rows]
        Rows whose LSBs were fetched.
    valued : list of int64[values]
        Tokens whose values each row reads, in the order of the list.
    state : State
        The list, I and H at the end.
    """

    output: Tensor
    kept: list[Tensor]
    redo: Tensor
    valued: list[Tensor]
    state: State


def reference(
    spec: AttentionSpec,
    commands: Sequence[Command],
    operands: Operands,
    *,
    state: State | None = None,
) -> Result:
    """Run commands.

    Parameters
    ----------
    spec : AttentionSpec
        The engine; only `head_dim`, `max_tokens` and `max_heads` have an influence.
    commands : sequence of commands
        In their order.
    operands : Operands
        Queries and memory images; what lies past a memory's end reads as 0.
    state : State, optional
        What the engine holds at first; without it what it holds at power-up.

    Returns
    -------
    Result

    Raises
    ------
    TypeError, ValueError
        If the engine does not admit a command, an operand or the state.
    """
    start = power_up(spec) if state is None else state
    check(spec, commands, operands, start)
    tokens = torch.as_tensor(start.tokens.copy())
    importance = torch.as_tensor(start.importance.copy())
    head_importance = torch.as_tensor(start.head_importance.copy())
    queries = torch.as_tensor(operands.query).long()
    outputs: list[Tensor] = []
    redo: list[Tensor] = []
    kept: list[Tensor] = []
    valued: list[Tensor] = []
    for command in commands:
        match command:
            case RowCommand():
                ids = tokens[: command.n]
                row = _row(command, queries[len(outputs)], ids, operands)
                if command.add_importance:
                    importance[ids] += row.probability[0, 0]
                head_importance[command.head] += row.output.abs().sum()
                outputs.append(row.output[0, 0])
                redo.append(row.redo[0, 0])
                valued.append(ids[row.kept[0, 0]])
            case TokensCommand():
                tokens = best(importance[: command.tokens], command.k, command.recent)
                kept.append(tokens)
            case HeadsCommand():
                kept.append(best(head_importance[: command.heads], command.k))
            case ResetCommand():
                tokens = torch.arange(command.tokens)
                importance *= int(not command.clear_tokens)
                head_importance *= int(not command.clear_heads)
    return Result(
        torch.stack(outputs) if outputs else torch.zeros((0, spec.head_dim), dtype=torch.int64),
        kept,
        torch.stack(redo) if redo else torch.zeros(0, dtype=torch.bool),
        valued,
        State(tokens.numpy(), importance.numpy(), head_importance.numpy()),
    )


def _row(command: RowCommand, query: Tensor, ids: Tensor, operands: Operands) -> Rows:
    """Compute one row as a group of its own."""
    msb = _signed(_read(operands.key_msb, command.key_msb, ids), command.msb_bits)
    lsb = _read(operands.key_lsb, command.key_lsb, ids) & 15
    value = _signed(_read(operands.value, command.value, ids), command.value_bits)
    factors = Factors(
        torch.tensor([command.mult]),
        torch.tensor([command.shift]),
        torch.tensor([command.out_mult]),
        torch.tensor([command.out_shift]),
        command.lsb_low,
        command.lsb_high,
    )
    visible = torch.ones((1, 1, ids.numel()), dtype=torch.bool)
    values = torch.tensor([[command.values]])
    key = (msb << 4) + lsb
    return rows(query[None, None], key[None], value[None], visible, values, factors)


def _read(memory: object, base: int, ids: Tensor) -> Tensor:
    """Return rows base + id modulo 2**32; 0 past the memory's end."""
    codes = torch.as_tensor(memory)
    address = (ids + base) % (1 << 32)
    found = torch.zeros((ids.numel(), codes.shape[1]), dtype=torch.int64)
    inside = address < len(codes)
    found[inside] = codes[address[inside]].long()
    return found


def _signed(codes: Tensor, bits: int) -> Tensor:
    """Return the low bits of codes as signed numbers."""
    top = 1 << (bits - 1)
    return ((codes & (2 * top - 1)) ^ top) - top
