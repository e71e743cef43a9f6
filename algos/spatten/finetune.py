# SPDX-License-Identifier: Apache-2.0
"""Training of a float network with pruned attention in its forward pass.

Source: SpAtten, section III-A: the pruned network is fine-tuned. Here without labels: the loss is
the Kullback-Leibler divergence from the unpruned network's outputs. Rounding is passed straight
through; what is pruned is a constant of each update.

All queries of a sequence run at once, as teacher-forced decoding would run them one by one: query t
sees the tokens that the cascade would have left it. Its importance is that of the queries before t
in all layers and of query t in the layers before. Of these the former come from a forward pass
without pruning, since a later layer's probabilities are not known yet when an earlier one runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from algos.lib.float_ops import OPS, rotate
from algos.lib.graph import FloatGraph, FloatNode, execute
from algos.lib.progress import progress_bar
from algos.spatten.schedule import Keep

WARM_UP = 20
TOKENS = 1024
"""Tokens of an update."""

LayerKeeps = tuple[Keep, int, Keep]
"""Tokens, heads and values that a layer keeps."""

MOST = 1e9
"""More importance than any token has."""

_Attention = Callable[[FloatNode, tuple[Tensor, ...]], Tensor]


def finetune(
    graph: FloatGraph,
    calibration: Sequence[Tensor],
    keeps: Sequence[LayerKeeps],
    *,
    recent: int,
    steps: int,
    rate: float,
    seed: int,
    key_bits: int,
    value_bits: int,
) -> FloatGraph:
    """Return the network trained with pruned attention.

    Parameters
    ----------
    graph : FloatGraph
        The network, which is also the teacher.
    calibration : sequence of Tensor
        Batches of token numbers, all sequences equally long.
    keeps : sequence of (Keep, int, Keep)
        Tokens, heads and values of each attention layer.
    recent : int
        Newest tokens, which are kept whatever their importance.
    steps, rate, seed
        Updates of Adam, its largest rate, and the seed of the samples' order.
    key_bits, value_bits : int
        Keys and values are rounded to so many bits.

    Returns
    -------
    FloatGraph
        Same nodes. On one machine and number of threads, equal arguments give equal bits.

    Raises
    ------
    ValueError
        If the sequences differ in length, or attention is not causal.
    """
    if not all(node.attrs["causal"] for node in graph.ops("attention")):
        raise ValueError("spatten: fine-tuning takes causal attention")
    if len({batch.shape[1:] for batch in calibration}) != 1:
        raise ValueError("spatten: fine-tuning takes sequences of one length")
    samples = torch.cat(list(calibration))
    student = _Student(graph, keeps, recent, (key_bits, value_bits))
    optimiser = torch.optim.Adam(student.parameters(), lr=rate, betas=(0.9, 0.99))
    generator = np.random.default_rng(seed)
    size = min(len(samples), max(1, TOKENS // samples.shape[1]))
    order: Iterable[int] = progress_bar(range(steps), "fine-tuning")
    for step in order:
        factor = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = factor * rate
        chosen = samples[torch.as_tensor(generator.permutation(len(samples))[:size])]
        wanted = execute(graph, chosen)[0].log_softmax(dim=-1)
        got = student.logits(chosen).log_softmax(dim=-1)
        loss = (wanted.exp() * (wanted - got)).sum(dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    return student.trained()


class _Student:
    """The network with trained tensors and pruned attention."""

    def __init__(
        self,
        graph: FloatGraph,
        keeps: Sequence[LayerKeeps],
        recent: int,
        bits: tuple[int, int],
    ) -> None:
        self.graph = graph
        self.keeps = dict(zip((n.name for n in graph.ops("attention")), keeps, strict=True))
        self.recent, self.bits = recent, bits
        self.tensors = {
            node.name: {key: x.clone().requires_grad_() for key, x in node.tensors.items()}
            for node in graph.ops("linear", "embedding", "layernorm", "rmsnorm")
        }

    def parameters(self) -> list[Tensor]:
        return [x for tensors in self.tensors.values() for x in tensors.values()]

    def trained(self) -> FloatGraph:
        nodes = [
            self.graph.node(name).with_tensors(**{key: x.detach() for key, x in tensors.items()})
            for name, tensors in self.tensors.items()
        ]
        return self.graph.replaced(*nodes)

    def logits(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            dense: dict[str, tuple[Tensor, Tensor]] = {}
            self._forward(ids, lambda node, x: _dense(node, x, dense))
        pruned = _Pruned(self.keeps, dense, self.recent, self.bits)
        return self._forward(ids, pruned)

    def _forward(self, ids: Tensor, attention: _Attention) -> Tensor:
        values = {self.graph.inputs[0].name: ids}
        for node in self.graph.nodes:
            inputs = tuple(values[name] for name in node.inputs)
            if node.op == "attention":
                values[node.name] = attention(node, inputs)
            else:
                run = node.with_tensors(**self.tensors.get(node.name, {}))
                values[node.name] = OPS[node.op](run, inputs, None)
        return values[self.graph.outputs[0]]


class _Pruned:
    """Attention as the cascade leaves it, layer after layer."""

    def __init__(
        self,
        keeps: dict[str, LayerKeeps],
        dense: dict[str, tuple[Tensor, Tensor]],
        recent: int,
        bits: tuple[int, int],
    ) -> None:
        self.keeps, self.bits = keeps, bits
        # Exclusive sums: what queries before t gave.
        tokens, heads = (torch.stack(x).sum(0) for x in zip(*dense.values(), strict=True))
        self.tokens = tokens.cumsum(1) - tokens
        self.heads = heads.cumsum(1) - heads
        length = tokens.shape[1]
        self.listed = torch.ones(length, length, dtype=torch.bool).tril().expand_as(tokens)
        self.protected = torch.ones(length, length, dtype=torch.bool).triu(1 - recent)
        self.running = torch.ones_like(heads, dtype=torch.bool)
        self.first = True

    def __call__(self, node: FloatNode, inputs: tuple[Tensor, ...]) -> Tensor:
        keep, heads_kept, values_kept = self.keeps[node.name]
        query, key, value = _heads(node, inputs)
        length = query.shape[2]
        totals = torch.arange(1, length + 1)
        counts = torch.tensor([keep.of(int(t)) for t in totals])
        ranks = torch.where(self.protected, MOST, self.tokens)
        self.listed = _best(ranks, self.listed, counts[None, :, None])
        kept = torch.full((length,), heads_kept)
        if self.first:
            kept[0] = self.running.shape[2]
        self.running = _best(self.heads, self.running, kept[None, :, None])
        self.first = False
        p = _softmax(node, query, _rounded(key, self.bits[0]), self.listed[:, None])
        n = self.listed.sum(-1)
        wanted = torch.tensor([values_kept.of(i) for i in range(length + 1)])[n]
        read = _best(p.detach(), self.listed[:, None], wanted[:, None, :, None])
        out = (p * read) @ _rounded(value, self.bits[1])
        out = out * self.running.transpose(1, 2)[..., None]
        with torch.no_grad():
            shown = p * self.running.transpose(1, 2)[..., None]
            self.tokens = self.tokens + shown.sum(1)
            self.heads = self.heads + out.abs().sum(-1).transpose(1, 2)
        return out.transpose(1, 2).flatten(2)


def _dense(
    node: FloatNode, inputs: tuple[Tensor, ...], seen: dict[str, tuple[Tensor, Tensor]]
) -> Tensor:
    """Run attention unpruned; note its token importance [B, L, L] and head importance [B, L, H]."""
    query, key, value = _heads(node, inputs)
    length = query.shape[2]
    p = _softmax(node, query, key, torch.ones(length, length, dtype=torch.bool).tril())
    out = p @ value
    seen[node.name] = (p.sum(1), out.abs().sum(-1).transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _heads(node: FloatNode, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated query, key and value, each [B, heads, L, d]."""
    at = node.attrs
    dim, shared = int(at["head_dim"]), int(at["heads"]) // int(at["kv_heads"])
    query, key, value = (x.reshape(*x.shape[:2], -1, dim).transpose(1, 2) for x in inputs)
    if at["rope"] != "none":
        cos, sin = (node.tensors[name][: query.shape[2]] for name in ("cos", "sin"))
        query, key = rotate(query, cos, sin, at["rope"]), rotate(key, cos, sin, at["rope"])
    return query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)


def _softmax(node: FloatNode, query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
    scores = (query @ key.transpose(-1, -2)) * float(node.attrs["scale"])
    return torch.where(visible, scores, -torch.inf).softmax(dim=-1)


def _best(keys: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Return the `count` largest of `among` on the last axis, ties to the first, as a mask."""
    order = torch.where(among, keys, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank.scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
    return (rank < count) & among


def _rounded(x: Tensor, bits: int) -> Tensor:
    """Round to `bits` bits by head; the gradient is passed straight through."""
    step = x.detach().abs().amax(dim=(0, 2, 3), keepdim=True).clamp(min=1e-12)
    step = step / ((1 << (bits - 1)) - 1)
    return x + (torch.round(x / step) * step - x).detach()
