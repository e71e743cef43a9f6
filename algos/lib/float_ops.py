# SPDX-License-Identifier: Apache-2.0
"""Float meaning of each operation of a network; `OPS` maps the op's name to its function.

Each function gets the node (attrs and tensors), the input values and the KV cache or None, and
returns the output value. Values are batch first: images (B, C, H, W), sequences (B, L, D), features
(B, D), token numbers (B, L).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class NodeLike(Protocol):
    """What an operation needs of its node."""

    @property
    def name(self) -> str:
        """Name of the node."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Parameters."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Constants."""
        ...


class KVCache:
    """Keys (after rotation) and values of the positions that earlier calls of `execute` saw.

    Attributes
    ----------
    length : int
        Number of positions held.
    keys, values : dict of str to Tensor
        Per attention node, (B, kv_heads, length, head_dim).
    cascade : object or None
        State of pruned attention after those calls, `algos.reference.attention_node.Cascade`.
    """

    def __init__(self) -> None:
        self.length = 0
        self.keys: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.cascade: object | None = None
        self._new: dict[str, tuple[Tensor, Tensor]] = {}

    def extend(self, name: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of attention node `name`, those of this call last."""
        if name in self.keys:
            key = torch.cat((self.keys[name], key), dim=2)
            value = torch.cat((self.values[name], value), dim=2)
        self._new[name] = (key, value)
        return key, value

    def commit(self, positions: int, cascade: object | None = None) -> None:
        """Keep what this call added: a call that fails half-way leaves the cache as it was."""
        self.cascade = cascade
        for name, (key, value) in self._new.items():
            self.keys[name] = key
            self.values[name] = value
        self._new.clear()
        self.length += positions


Op = Callable[[NodeLike, tuple[Tensor, ...], KVCache | None], Tensor]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
    """Apply a rotary embedding.

    Parameters
    ----------
    x : Tensor (..., L, d)
        Heads.
    cos, sin : Tensor (L, d / 2)
        Tables of these positions.
    style : {"interleaved", "half"}
        Pairs are (2i, 2i + 1), or (i, i + d / 2).

    Returns
    -------
    Tensor (..., L, d)
        Per pair (a, b): (a cos - b sin, a sin + b cos).
    """
    if style == "half":
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def _positions(node: NodeLike, table: Tensor, length: int, cache: KVCache | None) -> slice:
    start = 0 if cache is None else cache.length
    if start + length > table.shape[0]:
        raise ValueError(
            f"{node.name}: position {start + length - 1} is past the table of {table.shape[0]} "
            "positions; export with a longer example"
        )
    return slice(start, start + length)


def _linear(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return F.linear(x[0], node.tensors["weight"], node.tensors.get("bias"))


def _conv2d(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    return F.conv2d(
        x[0], node.tensors["weight"], node.tensors.get("bias"),
        tuple(at["stride"]), tuple(at["padding"]), tuple(at["dilation"]), at["groups"],
    )  # fmt: skip


def _add(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0] + x[1]


def _mul(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0] * x[1]


def _scale(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0] * float(node.attrs["factor"])


def _relu(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return F.relu(x[0])


def _gelu(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return F.gelu(x[0], approximate=node.attrs.get("approximate", "none"))


def _silu(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return F.silu(x[0])


def _layernorm(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    gamma, beta = node.tensors["gamma"], node.tensors["beta"]
    return F.layer_norm(x[0], gamma.shape, gamma, beta, node.attrs["eps"])


def _rmsnorm(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    gamma = node.tensors["gamma"]
    return F.rms_norm(x[0], gamma.shape, gamma, node.attrs["eps"])


def _attention(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    heads, kv_heads, dim = int(at["heads"]), int(at["kv_heads"]), int(at["head_dim"])
    batch, length = x[0].shape[:2]
    query = x[0].reshape(batch, length, heads, dim).transpose(1, 2)
    key = x[1].reshape(batch, -1, kv_heads, dim).transpose(1, 2)
    value = x[2].reshape(batch, -1, kv_heads, dim).transpose(1, 2)
    if at["rope"] != "none":
        rows = _positions(node, node.tensors["cos"], length, cache)
        cos, sin = node.tensors["cos"][rows], node.tensors["sin"][rows]
        query = rotate(query, cos, sin, at["rope"])
        key = rotate(key, cos, sin, at["rope"])
    if cache is not None:
        key, value = cache.extend(node.name, key, value)
    past = key.shape[2] - length
    mask: Tensor | None = None
    if at["causal"] and past:
        mask = torch.ones(length, key.shape[2], dtype=torch.bool).tril(past)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=bool(at["causal"]) and not past,
        scale=float(at["scale"]), enable_gqa=heads != kv_heads,
    )  # fmt: skip
    return out.transpose(1, 2).reshape(batch, length, heads * dim)


def _avgpool(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    return F.avg_pool2d(x[0], tuple(at["kernel"]), tuple(at["stride"]), tuple(at["padding"]))


def _maxpool(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    return F.max_pool2d(x[0], tuple(at["kernel"]), tuple(at["stride"]), tuple(at["padding"]))


def _embedding(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    table = node.tensors["table"]
    batch, length = x[0].shape[:2]
    if node.attrs.get("positions", False):
        rows = _positions(node, table, length, cache)
        return table[rows].expand(batch, length, table.shape[1])
    return F.embedding(x[0], table)


def _flatten(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].flatten(int(node.attrs["start_dim"]))


def _reshape(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].reshape(tuple(node.attrs["shape"]))


def _slice(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    index = [slice(None)] * x[0].ndim
    index[at["dim"]] = slice(at["start"], at["stop"], at["step"])
    return x[0][tuple(index)]


def _pad_channels(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    pad = [0, 0] * (x[0].ndim - 2) + [int(node.attrs["before"]), int(node.attrs["after"])]
    return F.pad(x[0], pad)


def _transpose(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].permute(tuple(node.attrs["perm"]))


def _concat(node: NodeLike, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return torch.cat(x, dim=int(node.attrs["dim"]))


OPS: dict[str, Op] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "add": _add,
    "mul": _mul,
    "scale": _scale,
    "relu": _relu,
    "gelu": _gelu,
    "silu": _silu,
    "layernorm": _layernorm,
    "rmsnorm": _rmsnorm,
    "attention": _attention,
    "avgpool": _avgpool,
    "maxpool": _maxpool,
    "embedding": _embedding,
    "flatten": _flatten,
    "reshape": _reshape,
    "slice": _slice,
    "pad_channels": _pad_channels,
    "transpose": _transpose,
    "concat": _concat,
}
"""Every operation of a float graph.

==================  =========================  ==============================  =====================
op                  inputs                     attrs                           tensors
==================  =========================  ==============================  =====================
linear              x (.., K)                                                  weight (N, K), bias?
conv2d              x (B, C, H, W)             stride, padding, dilation [2],  weight (N, C/groups,
                                               groups                          kh, kw), bias?
add, mul            a, b of equal shape
scale               x                          factor
relu, silu          x
gelu                x                          approximate "none" | "tanh"
layernorm           x (.., D)                  eps                             gamma (D), beta (D)
rmsnorm             x (.., D)                  eps                             gamma (D)
attention           q (B, L, heads d),         heads, kv_heads, head_dim,      cos, sin (Lmax, d/2),
                    k, v (B, L, kv_heads d)    causal, scale, rope "none" |    with a rope only
                                               "interleaved" | "half"
avgpool, maxpool    x (B, C, H, W)             kernel, stride, padding [2]
embedding           ids (B, L)                 positions: row by position,     table (V, D)
                                               not by id
flatten             x                          start_dim
reshape             x                          shape, -1 for the batch
slice               x                          dim, start, stop, step
pad_channels        x (B, C, ..)               before, after
transpose           x                          perm
concat              x...                       dim
==================  =========================  ==============================  =====================

bias? may be absent. avgpool counts its padding. slice follows Python.
"""
