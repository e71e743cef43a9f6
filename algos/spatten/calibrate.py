# SPDX-License-Identifier: Apache-2.0
"""Scales of queries, keys and values, and the rows that the LSB rule is chosen on.

Linear symmetric quantisation with one scale a head, from the values that the packed network itself
gives on calibration data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.reference.attention_node import codes
from algos.reference.attention_rows import Factors, rows
from algos.reference.network import Reference
from algos.reference.vector import attention_heads
from algos.reference.w4a8 import tensor_of
from algos.spatten.rules import ALWAYS, NEVER, Observed
from cosil.lowering.attention_program import QUERY_BITS, Program, factors
from cosil.packed.network import Node, PackedNetwork

FRACTIONS = torch.linspace(1.0, 0.4, 25)
"""Ends of the grid that are tried, as fractions of the largest magnitude."""

SAMPLES = 2**18
"""Elements of a head that the search for its scale reads."""

ROWS = 4096
"""Rows of a node that the LSB rule is chosen on."""


@dataclass(slots=True)
class Heads:
    """Calibration values of one node, float32[B, heads, L, d] a batch."""

    query: list[Tensor] = field(default_factory=list[Tensor])
    key: list[Tensor] = field(default_factory=list[Tensor])
    value: list[Tensor] = field(default_factory=list[Tensor])


def collect(network: PackedNetwork, batches: Sequence[Tensor]) -> dict[str, Heads]:
    """Return what the attention nodes of a packed network read, by node."""
    nodes = [node for node in network.nodes if node.op == "attention"]
    found = {node.name: Heads() for node in nodes}
    wanted = {name for node in nodes for name in node.inputs}
    reference = Reference(network)
    for batch in batches:
        values: dict[str, Tensor] = {}

        def observe(name: str, value: Tensor, values: dict[str, Tensor] = values) -> None:
            if name in wanted:
                values[name] = value

        reference.run(batch, observe=observe)
        for node in nodes:
            heads = attention_heads(node, tuple(values[name] for name in node.inputs), None)
            into = found[node.name]
            for kept, x in zip((into.query, into.key, into.value), heads, strict=True):
                kept.append(x.float())
    return found


def scales(parts: Sequence[Tensor], bits: int, *, clip: bool) -> NDArray[np.float32]:
    """Return the real value of one code of `bits` bits for each head.

    Parameters
    ----------
    parts : sequence of float32[B, heads, L, d]
        Values.
    bits : int
        Width; the largest code is 2**(bits - 1) - 1.
    clip : bool
        Search the end of the grid for the least squared error, else take the largest magnitude.

    Returns
    -------
    float32[heads]
        A head that is zero throughout gets 1.
    """
    x = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=1)
    x = x[:, :: max(1, x.shape[1] // SAMPLES)]
    top = (1 << (bits - 1)) - 1
    ends = x.abs().amax(dim=1)
    if clip:
        errors: list[Tensor] = []
        for fraction in FRACTIONS:
            step = (ends * fraction / top).clamp(min=1e-30)[:, None]
            rounded = torch.round(x / step).clamp(-top - 1, top) * step
            errors.append(((x - rounded) ** 2).mean(dim=1))
        ends = ends * FRACTIONS[torch.stack(errors).argmin(dim=0)]
    return torch.where(ends > 0, ends / top, 1.0).numpy()


def observe_rows(node: Node, at: Program, heads: Heads) -> Observed:
    """Run rows of calibration data with MSBs and with whole keys; every key is in the list."""
    softmax, output = (factors(node.tensors[name].words) for name in ("softmax", "output"))
    mult, shift = tensor_of(softmax[0]), tensor_of(softmax[1])
    words = mult, shift, tensor_of(output[0]), tensor_of(output[1])
    unit = (mult.double() / 2.0 ** shift.double() / 256 * np.log(2))[:, None, None]
    logarithms: list[Tensor] = []
    errors: list[Tensor] = []
    squares, weight, seen = 0.0, 0.0, 0
    for query, key, value in zip(heads.query, heads.key, heads.value, strict=True):
        for one in range(query.shape[0]):
            if seen >= ROWS:
                break
            q = codes(query[one], node, "query", QUERY_BITS)
            k = codes(key[one], node, "key", at.key_bits) << at.key_shift
            v = codes(value[one], node, "value", at.value_bits)
            shared = at.heads // at.kv_heads
            k, v = k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)
            length = q.shape[1]
            visible = torch.ones(length, length, dtype=torch.bool)
            visible = visible.tril().expand(at.heads, -1, -1) if at.causal else visible[None]
            visible = visible.expand(at.heads, -1, -1)
            none = torch.zeros(at.heads, length, dtype=torch.int64)
            coarse = rows(q, k, v, visible, none, Factors(*words, *NEVER))
            whole = rows(q, k, v, visible, none, Factors(*words, *ALWAYS))
            p = whole.probability.double() / 2**22
            errors.append((coarse.probability.double() / 2**22 - p).abs().sum(-1).flatten())
            logarithms.append(coarse.logarithm.flatten())
            nats = (q.double() @ (k & 15).double().transpose(-1, -2)) * unit
            mean = (p * nats).sum(-1, keepdim=True)
            squares += float((p * (nats - mean) ** 2).sum())
            weight += float(p.sum())
            seen += length * at.heads
    return Observed(
        torch.cat(logarithms).numpy(), torch.cat(errors).numpy(), float(np.sqrt(squares / weight))
    )
