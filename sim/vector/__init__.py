# SPDX-License-Identifier: Apache-2.0
"""The vector unit: every operation of a packed network that is not a matrix product of an engine.

docs/packed-format.md defines each operation bit by bit; `algos.reference.vector` is its counterpart
in torch. Values are NumPy arrays, batch first: float32, int8, int16, float16, and int32 for token
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.lowering.conv import pair
from cosil.lowering.tables import position_rows
from cosil.packed.network import Node
from sim.vector import half, integer
from sim.vector.attention import KVCache, attend, rotate
from sim.vector.half import add_bias, quantize_rows

__all__ = ["KVCache", "add_bias", "apply", "attention_heads", "quantize_rows"]

Array = NDArray[Any]
Handler = Callable[[Node, tuple[Array, ...], "KVCache | None"], Array]


def apply(node: Node, *inputs: Array, cache: KVCache | None = None) -> Array:
    """Run one node of the vector unit.

    Parameters
    ----------
    node : Node
        Any operation but `linear`, `conv2d`, and attention on an engine; the network has been
        checked on loading.
    *inputs : ndarray
        The node's inputs, batch first.
    cache : KVCache, optional
        Read by attention, rotary and position embeddings, extended by attention. The caller commits
        it after the last node.

    Returns
    -------
    ndarray
        The node's output. Movement operations may return a view.

    Raises
    ------
    ValueError
        If the operation is not one of the vector unit, a position is past its table, or a value is
        infinite or NaN where that is refused.
    """
    if node.op not in _HANDLERS:
        raise ValueError(
            f"vector: node {node.name!r} must be one of {', '.join(_HANDLERS)}, not {node.op!r}"
        )
    return _HANDLERS[node.op](node, inputs, cache)


def _rows(node: Node, table: Array, length: int, cache: KVCache | None) -> Array:
    """Return the rows of a table that this run's positions use."""
    start = 0 if cache is None else cache.length
    return table[position_rows(node.name, table.shape[0], start, length)]


def _quantize(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return integer.quantize(x[0], float(node.attrs["scale"]))


def _add(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    if x[0].dtype == np.float16:
        return half.add(x[0], x[1])
    at = node.attrs
    relu = bool(at.get("relu", False))
    return integer.add_codes(x[0], x[1], at["mul_a"], at["mul_b"], at["shift"], relu=relu)


def _mul(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return half.mul(x[0], x[1])


def _scale(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return half.scale(x[0], float(node.attrs["factor"]))


def _relu(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return integer.relu(x[0])


def _activation(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return half.activation(x[0], node.tensors["table"].words)


def _norm(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    beta = node.tensors.get("beta")
    function = half.layernorm if node.op == "layernorm" else half.rmsnorm
    return function(
        x[0],
        node.tensors["gamma"].words,
        None if beta is None else beta.words,
        float(node.attrs["eps"]),
    )


def attention_heads(
    node: Node, x: tuple[Array, ...], cache: KVCache | None
) -> tuple[Array, Array, Array]:
    """Return query, key and value of an attention node as float16[B, heads, L, d], rotated."""
    at = node.attrs
    heads, dim = int(at["heads"]), int(at["head_dim"])
    kv_heads = heads if at.get("kv_heads") is None else int(at["kv_heads"])
    length = x[0].shape[1]
    query = _split(x[0], heads, dim)
    key, value = _split(x[1], kv_heads, dim), _split(x[2], kv_heads, dim)
    style = at.get("rope", "none")
    if style != "none":
        cos = _rows(node, node.tensors["cos"].words, length, cache)
        sin = _rows(node, node.tensors["sin"].words, length, cache)
        query, key = rotate(query, cos, sin, style), rotate(key, cos, sin, style)
    return query, key, value


def _attention(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    at = node.attrs
    query, key, value = attention_heads(node, x, cache)
    if cache is not None:
        key, value = cache.extend(node.name, key, value)
    exp = node.tensors["exp"].words
    causal = bool(at.get("causal", False))
    out = attend(query, key, value, exp, float(at["scale"]), causal=causal)
    if out is None:
        raise ValueError(f"{node.name}: attention scores must be finite")
    return out.reshape(x[0].shape)


def _split(x: Array, heads: int, dim: int) -> Array:
    return x.reshape(x.shape[0], x.shape[1], heads, dim).transpose(0, 2, 1, 3)


def _pool(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    at = node.attrs
    window = (
        pair(at["kernel"]),
        pair(at.get("stride", (1, 1))),
        pair(at.get("padding", (0, 0))),
    )
    if node.op == "maxpool":
        return integer.maxpool(x[0], *window)
    return integer.avgpool(x[0], *window, at["mul"], at["shift"])


def _requantize(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return integer.requantize(x[0], node.attrs["mul"], node.attrs["shift"])


def _embedding(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    table = node.tensors["table"].words
    if node.attrs.get("positions", False):
        rows = _rows(node, table, x[0].shape[1], cache)
        return np.broadcast_to(rows, (x[0].shape[0], *rows.shape))
    ids = x[0]
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < table.shape[0]:
        raise ValueError(
            f"{node.name}: token numbers must be in 0..{table.shape[0] - 1}, "
            f"not {int(ids.min())}..{int(ids.max())}"
        )
    return table[ids]


def _flatten(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return x[0].reshape(*x[0].shape[: int(node.attrs["start_dim"])], -1)


def _reshape(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return x[0].reshape(tuple(node.attrs["shape"]))


def _slice(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    at = node.attrs
    index = [slice(None)] * x[0].ndim
    index[at["dim"]] = slice(at["start"], at["stop"], at.get("step", 1))
    return x[0][tuple(index)]


def _pad_channels(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    widths = [(0, 0)] * x[0].ndim
    widths[1] = (int(node.attrs["before"]), int(node.attrs["after"]))
    return np.pad(x[0], widths)


def _transpose(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return x[0].transpose(tuple(node.attrs["perm"]))


def _concat(node: Node, x: tuple[Array, ...], cache: KVCache | None) -> Array:
    return np.concatenate(x, axis=int(node.attrs["dim"]))


_HANDLERS: dict[str, Handler] = {
    "quantize": _quantize,
    "add": _add,
    "mul": _mul,
    "scale": _scale,
    "relu": _relu,
    "gelu": _activation,
    "silu": _activation,
    "layernorm": _norm,
    "rmsnorm": _norm,
    "attention": _attention,
    "avgpool": _pool,
    "maxpool": _pool,
    "requantize": _requantize,
    "embedding": _embedding,
    "flatten": _flatten,
    "reshape": _reshape,
    "slice": _slice,
    "pad_channels": _pad_channels,
    "transpose": _transpose,
    "concat": _concat,
}
