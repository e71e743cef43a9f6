# SPDX-License-Identifier: Apache-2.0
"""Attention nodes on engine `attention` in a whole network: codes, rows, cascade pruning.

docs/packed-format.md, "Attention programs". All heads and queries of a node run at once; which of
them the engine would not run is masked out, so that no value depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.lib.float_ops import KVCache
from algos.reference.attention_rows import Factors, Rows, best, rows
from algos.reference.vector import attention_heads
from algos.reference.w4a8 import tensor_of, to_half
from cosil.lowering.attention_program import QUERY_BITS, Program, factors, program
from cosil.packed.network import Node

BLOCK_ELEMENTS = 2**17
"""(Row, key) pairs that are computed at once, so that they stay in cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one node did in one pass.

    Attributes
    ----------
    name : str
        The node.
    ids : int64[B, k]
        Tokens of the list, increasing.
    heads : int64[B, h]
        Heads that ran, increasing.
    ran : bool[B, L]
        New tokens whose queries ran.
    keys : int64[B, H, L]
        Keys of each row, 0 where it did not run.
    values : int64[B, H, L]
        Values that it read.
    redo : bool[B, H, L]
        Rows that fetched their LSBs.
    logarithm : int64[B, H, L]
        L of the row's first pass, 0 where it did not run.
    added : int64[B]
        Importance that the node added.
    """

    name: str
    ids: Tensor
    heads: Tensor
    ran: Tensor
    keys: Tensor
    values: Tensor
    redo: Tensor
    logarithm: Tensor
    added: Tensor


@dataclass(slots=True, eq=False)
class Cascade:
    """Importance, and what is left of tokens and heads in a pass over the layers.

    Attributes
    ----------
    past : int
        Tokens of earlier passes.
    tokens : int64[B, T]
        Token importance I.
    heads : int64[B, H] or None
        Head importance H; None before the first node.
    ids, head_ids : int64[B, k], int64[B, h]
        The list, and the heads that run.
    steps : list of Step
        One for each node of the pass.
    """

    past: int
    tokens: Tensor
    heads: Tensor | None
    ids: Tensor
    head_ids: Tensor | None = None
    steps: list[Step] = field(default_factory=list[Step])

    @classmethod
    def begin(cls, batch: int, length: int, cache: KVCache | None) -> Cascade:
        """Start a pass over `length` new tokens: all tokens and heads are there, sums go on."""
        past = 0 if cache is None else cache.length
        earlier = None if cache is None else cache.cascade
        tokens = torch.zeros(batch, past + length, dtype=torch.int64)
        heads = None
        if isinstance(earlier, Cascade):
            tokens[:, :past] = earlier.tokens
            heads = None if earlier.heads is None else earlier.heads.clone()
        ids = torch.arange(past + length).expand(batch, -1)
        return cls(past, tokens, heads, ids)

    def prune(self, at: Program) -> tuple[Tensor, Tensor, Tensor]:
        """Prune before a node, but the first of a sequence; return H, the list and the heads."""
        batch, total = self.tokens.shape
        heads = self.heads
        if heads is None:
            heads = torch.zeros(batch, at.heads, dtype=torch.int64)
        head_ids = self.head_ids
        if head_ids is None:
            head_ids = torch.arange(at.heads).expand(batch, -1)
        if self.past or self.steps:
            if at.head_keep < head_ids.shape[1]:
                head_ids = best(heads, at.head_keep)
            count = at.tokens(total, self.ids.shape[1])
            if count < self.ids.shape[1]:
                self.ids = best(self.tokens, count, min(at.token_recent, count))
        self.heads, self.head_ids = heads, head_ids
        return heads, self.ids, head_ids


def attention(
    node: Node, inputs: tuple[Tensor, ...], cache: KVCache | None, cascade: Cascade
) -> Tensor:
    """Run one node.

    Parameters
    ----------
    node : Node
        An attention node on engine `attention`.
    inputs : tuple of Tensor
        Queries, keys and values, float16[B, L, heads * d].
    cache : KVCache, optional
        Codes of the keys and values of earlier passes; extended.
    cascade : Cascade
        State of the pass; modified in place.

    Returns
    -------
    float16[B, L, heads * d]
        +0 where a query or a head did not run.

    Raises
    ------
    ValueError
        If a query, key or value is NaN, or a position is past the rotation's table.
    """
    at = program(node)
    query, key, value = attention_heads(node, inputs, cache)
    batch, _, length, dim = query.shape
    q = codes(query, node, "query", QUERY_BITS)
    k = codes(key, node, "key", at.key_bits) << at.key_shift
    v = codes(value, node, "value", at.value_bits)
    if cache is not None:
        k, v = cache.extend(node.name, k.to(torch.int16), v.to(torch.int8))
    head_sums, ids, head_ids = cascade.prune(at)
    position = cascade.past + torch.arange(length)
    ran = (ids[:, None, :] == position[:, None]).any(-1)
    visible = torch.ones(batch, length, ids.shape[1], dtype=torch.bool)
    if at.causal:
        ran[:, -1] = True
        visible = ids[:, None, :] <= position[:, None]
    # A row that does not run may see nothing, which rows() does not take; its result is dropped.
    visible = visible | ~ran[..., None]
    n = visible.sum(-1)
    wanted = tensor_of(at.values(n.numpy()))
    kept_heads = torch.zeros(batch, at.heads, dtype=torch.bool).scatter_(1, head_ids, True)
    runs = kept_heads[:, :, None] & ran[:, None, :]
    where = ids[:, None, :, None].expand(-1, at.kv_heads, -1, dim)
    shared = at.heads // at.kv_heads
    result = _all_rows(
        q,
        k.long().gather(2, where).repeat_interleave(shared, 1),
        v.long().gather(2, where).repeat_interleave(shared, 1),
        visible,
        wanted,
        node,
        at,
    )
    output = torch.where(runs[..., None], result.output, 0)
    added = torch.where(runs[..., None], result.probability, 0).sum((1, 2))
    if at.importance:
        cascade.tokens.scatter_add_(1, ids, added)
    head_sums += output.abs().sum((2, 3))
    counts = torch.where(runs, n[:, None], 0)
    cascade.steps.append(
        Step(
            node.name, ids, head_ids, ran, counts, torch.where(runs, wanted[:, None], 0),
            result.redo & runs, torch.where(runs, result.logarithm, 0), added.sum(1),
        )
    )  # fmt: skip
    half = to_half(output.float() * torch.tensor(at.out_scale, dtype=torch.float32))
    return half.transpose(1, 2).reshape(batch, length, at.heads * dim)


def codes(x: Tensor, node: Node, role: str, bits: int) -> Tensor:
    """Return clamp(RNE(f32(x / scale[head])), -2**(bits-1), 2**(bits-1) - 1), int64[B, H, L, d]."""
    if bool(torch.isnan(x).any()):
        raise ValueError(f"{node.name}: the {role} must not hold NaN")
    scale = tensor_of(node.tensors[f"{role}_scale"].words)
    limit = 1 << (bits - 1)
    return torch.round(x.float() / scale[:, None, None]).clamp(-limit, limit - 1).long()


def _all_rows(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, values: Tensor, node: Node, at: Program
) -> Rows:
    """Return the rows of all heads as [B, H, L, ...], a bounded number at a time."""
    batch, heads, length, _ = q.shape
    groups = [x.flatten(0, 1) for x in (q, k, v)]
    mult, shift = (_per_group(x, batch) for x in factors(node.tensors["softmax"].words))
    out_mult, out_shift = (_per_group(x, batch) for x in factors(node.tensors["output"].words))
    owner = torch.arange(batch).repeat_interleave(heads)
    size = max(1, BLOCK_ELEMENTS // (length * visible.shape[2]))
    parts: list[Rows] = []
    for first in range(0, batch * heads, size):
        part = slice(first, first + size)
        one, two, three = (x[part] for x in groups)
        chosen = Factors(
            mult[part], shift[part], out_mult[part], out_shift[part], at.lsb_low, at.lsb_high
        )
        parts.append(rows(one, two, three, visible[owner[part]], values[owner[part]], chosen))

    def joined(each: list[Tensor]) -> Tensor:
        whole = torch.cat(each)
        return whole.reshape(batch, heads, *whole.shape[1:])

    return Rows(
        joined([part.output for part in parts]),
        joined([part.probability for part in parts]),
        joined([part.logarithm for part in parts]),
        joined([part.redo for part in parts]),
        joined([part.kept for part in parts]),
    )


def _per_group(numbers: NDArray[np.int64], batch: int) -> Tensor:
    return tensor_of(numbers).repeat(batch)
