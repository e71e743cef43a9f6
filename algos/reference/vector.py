# SPDX-License-Identifier: Apache-2.0
"""What a packed network does besides matrix products, bit by bit, in torch.

The definitions are those of docs/packed-format.md; `sim.vector` implements them a second time.
Values are batch first: float32, int8, int16, float16, and integers for token numbers. Each
arithmetic step is one torch operation on float32 tensors, which rounds once, or exact integer
arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.float_ops import KVCache
from algos.reference.w4a8 import EXACT_FLOAT32, rne_shift, tensor_of, to_half
from cosil.lowering.tables import position_rows
from cosil.packed.network import Node

LOG2_E = 1.4426950408889634
BLOCK_ELEMENTS = 2**21
"""Products that attention holds at once, 8 MiB of float32, unless one block of rows has more."""
BLOCK_ROWS = 64
"""Queries that attention computes at once; keys after the last of them are not touched."""


def apply(node: Node, inputs: tuple[Tensor, ...], cache: KVCache | None = None) -> Tensor:
    """Run one node of the vector unit.

    Parameters
    ----------
    node : Node
        Any operation but `linear`, `conv2d`, and attention on an engine.
    inputs : tuple of Tensor
        The node's inputs.
    cache : KVCache, optional
        Read by attention, rotary and position embeddings, extended by attention.

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


def quantize(x: Tensor, scale: float) -> Tensor:
    """Return clamp(RNE(f32(x / f32(scale))), -128, 127), int8; refuse NaN."""
    if bool(torch.isnan(x).any()):
        raise ValueError("quantize: the input must not hold NaN")
    codes = torch.round(x / torch.full_like(x, scale))
    return codes.clamp(-128, 127).to(torch.int8)


def quantize_rows(x: Tensor, name: str = "linear") -> tuple[Tensor, Tensor]:
    """Quantise each row of float16[..., K] with a scale of its own.

    Returns
    -------
    codes : int8[M, K]
        clamp(RNE(f32(f32(x) / a_s)), -128, 127).
    scales : float32[M]
        a_s = f32(f16(f32(f32(amax) / f32(127)))), amax = max|x| of the row; where that is 0, 1 and
        all codes 0.

    Raises
    ------
    ValueError
        If a row holds an infinity or a NaN.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    finite = torch.isfinite(rows).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise ValueError(
            f"{name}: activations must be finite, but row {bad} holds an infinity or NaN"
        )
    amax = rows.abs().amax(dim=1)
    scales = to_half(amax / torch.full_like(amax, 127.0)).float()
    empty = scales == 0
    scales = torch.where(empty, 1.0, scales)
    codes = torch.round(rows / scales[:, None]).clamp(-128, 127)
    return torch.where(empty[:, None], 0.0, codes).to(torch.int8), scales


def add_codes(
    a: Tensor, b: Tensor, mul_a: int, mul_b: int, shift: int, *, relu: bool = False
) -> Tensor:
    """Return sat8(RNE((a * mul_a + b * mul_b) / 2**shift)), clamped at 0 before where `relu`."""
    # The sum is below 2**24, so float32 holds it exactly, and its quotient by a power of two too.
    assert 128 * (mul_a + mul_b) <= EXACT_FLOAT32
    y = a.float().mul_(mul_a).add_(b.float().mul_(mul_b)).mul_(2.0**-shift).round_()
    return y.clamp_(0 if relu else -128, 127).to(torch.int8)


def requantize(x: Tensor, mul: int, shift: int) -> Tensor:
    """Return sat8(RNE(x * mul / 2**shift)) of integer codes."""
    return rne_shift(x.long() * mul, shift).clamp(-128, 127).to(torch.int8)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return f16(f32(f32(a) + f32(b))), broadcast."""
    return to_half(a.float() + b.float())


def mul(a: Tensor, b: Tensor) -> Tensor:
    """Return f16(f32(f32(a) * f32(b))), broadcast."""
    return to_half(a.float() * b.float())


def scale(x: Tensor, factor: float) -> Tensor:
    """Return f16(f32(f32(x) * f32(factor)))."""
    return to_half(x.float() * torch.tensor(factor, dtype=torch.float32))


def relu(x: Tensor) -> Tensor:
    """Return x where x > 0, NaN where x is NaN, else +0."""
    zero = torch.zeros_like(x)
    if not x.is_floating_point():
        return torch.maximum(x, zero)
    return torch.where(torch.isnan(x), torch.full_like(x, torch.nan), torch.where(x > 0, x, zero))


def activation(x: Tensor, table: Tensor) -> Tensor:
    """Return the function of a Q3.12 table with 257 entries, linear between them."""
    wide = x.float()
    inside = wide.abs() < 8
    fixed = torch.round(torch.where(inside, wide, 0.0) * 4096).long()
    segment, fraction = (fixed >> 8) + 128, fixed & 255
    entries = table.long()
    left = entries[segment]
    result = rne_shift(left * 256 + (entries[segment + 1] - left) * fraction, 8)
    y = to_half(result.float() * 2.0**-12)
    y = torch.where(wide >= 8, x, y)
    y = torch.where(wide <= -8, torch.zeros_like(y), y)
    return torch.where(torch.isnan(wide), torch.full_like(y, torch.nan), y)


def tree_sum(x: Tensor) -> Tensor:
    """Return the sum over axis 0 in tree order.

    The axis is padded with +0 to a power of two; the upper half is added to the lower half until
    one element is left; +0 is added to it.
    """
    padded = x.new_zeros(_power_of_two(x.shape[0]), *x.shape[1:])
    padded[: x.shape[0]] = x
    return _fold(padded)


def _fold(x: Tensor) -> Tensor:
    """Return the tree sum over axis 0, a power of two; `x` is modified in place."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = x[:half].add_(x[half:])
    return x[0] + 0.0


def _power_of_two(n: int) -> int:
    """Return the least power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _tree_of_products(a: Tensor, b: Tensor, space: Tensor) -> Tensor:
    """Return the tree sum over axis 0 of a * b, broadcast; `space` is modified in place."""
    shape = [max(sizes) for sizes in zip(a.shape, b.shape, strict=True)]
    products = space[: math.prod(shape)].view(shape)
    torch.mul(a, b, out=products)
    padded = _power_of_two(shape[0])
    whole = space[: padded * math.prod(shape[1:])].view(padded, *shape[1:])
    whole[shape[0] :] = 0.0
    return _fold(whole)


def normalise(x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, *, centre: bool) -> Tensor:
    """Normalise the last axis: layernorm where `centre`, else rmsnorm.

    Every step is rounded to float32 and the result to float16: v = x - mean (or x), mean of v * v
    in tree order, plus eps, square root, v / root * gamma, plus beta.
    """
    values = x.float().movedim(-1, 0)
    size = torch.full_like(values[0], values.shape[0])
    if centre:
        values = values - tree_sum(values) / size
    variance = tree_sum(values * values) / size + torch.tensor(eps, dtype=torch.float32)
    # Rounding the float64 root gives float32's: 53 bits are at least 2 * 24 + 2.
    root = variance.double().sqrt().float()
    result = (values / root).movedim(0, -1) * gamma
    return to_half(result if beta is None else result + beta)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
    """Apply a rotary embedding to float16[..., L, d] with tables float32[L, d / 2].

    A pair (a, b), elements (2i, 2i + 1) of ``interleaved`` or (i, i + d / 2) of ``half``, becomes
    f16(f32(a cos) - f32(b sin)), f16(f32(a sin) + f32(b cos)).
    """
    half = x.shape[-1] // 2
    shape = (half, 2) if style == "interleaved" else (2, half)
    axis = -1 if style == "interleaved" else -2
    a, b = x.float().reshape(*x.shape[:-1], *shape).unbind(axis)
    pair = (to_half(a * cos - b * sin), to_half(a * sin + b * cos))
    return torch.stack(pair, dim=axis).flatten(-2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    exp: Tensor,
    scale: float,
    *,
    causal: bool,
    name: str = "attention",
) -> Tensor:
    """Return softmax(scale * Q.K^T).V.

    Parameters
    ----------
    query : float16[B, H, Lq, d]
    key, value : float16[B, Hkv, Lk, d]
        Head h reads kv head h // (H / Hkv).
    exp : uint16[1025]
        RNE(2**15 * 2**(-i / 1024)).
    causal : bool
        Query i sees keys 0 .. Lk - Lq + i; the others take no part.

    Returns
    -------
    float16[B, H, Lq, d]

    Raises
    ------
    ValueError
        If a score is infinite or NaN.
    """
    batch, heads, length, dim = query.shape
    total = key.shape[2]
    shared = heads // key.shape[1]
    # The axis of a tree sum goes first, so that its halves are contiguous; heads are one axis.
    q = query.float().flatten(0, 1).permute(2, 0, 1).contiguous()
    k = key.float().repeat_interleave(shared, 1).flatten(0, 1).permute(2, 0, 1).contiguous()
    v = value.float().repeat_interleave(shared, 1).flatten(0, 1).transpose(0, 1).contiguous()
    table = exp.long()
    factor = torch.tensor(scale, dtype=torch.float32)
    out = torch.empty(batch * heads, length, dim, dtype=torch.float16)
    rows = min(length, BLOCK_ROWS)
    per_head = rows * max(_power_of_two(dim) * total, _power_of_two(total) * dim)
    group = min(batch * heads, max(1, BLOCK_ELEMENTS // per_head))
    space = torch.empty(group * per_head)
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        seen = total - length + stop if causal else total
        mask = torch.ones(stop - start, seen, dtype=torch.bool)
        if causal:
            mask = mask.tril(total - length + start)
        for first in range(0, batch * heads, group):
            part = slice(first, first + group)
            dots = _tree_of_products(q[:, part, start:stop, None], k[:, part, None, :seen], space)
            scores = dots * factor
            if not bool((torch.isfinite(scores) | ~mask).all()):
                raise ValueError(f"{name}: attention scores must be finite")
            p = _probabilities(scores, mask, table).permute(2, 0, 1)[:, :, None, :].contiguous()
            seen_values = v[:seen, part, :, None]
            if not bool(torch.isfinite(seen_values).all()):
                # 0 * inf is NaN; a finite value with p = 0 adds a zero, whose sign no sum keeps.
                seen_values = torch.where(mask.t()[:, None, None, :], seen_values, 0.0)
            weighted = _tree_of_products(seen_values, p, space)
            out[part, start:stop] = to_half(weighted.transpose(1, 2))
    return out.reshape(batch, heads, length, dim)


def _probabilities(scores: Tensor, mask: Tensor, exp: Tensor) -> Tensor:
    """Return f32(f16(f32(e) / f32(sum e))) over the last axis, e the table's exponential."""
    visible = torch.where(mask, scores, -torch.inf)
    octaves = (visible.amax(-1, keepdim=True) - visible) * torch.tensor(LOG2_E) * 1024.0
    u = torch.round(octaves).clamp(max=32767).long()
    e = torch.where(mask, exp[u & 1023] >> (u >> 10), 0)
    total = e.sum(-1, keepdim=True)
    return to_half(e.float() / total.float()).float()


def _words(node: Node, name: str) -> Tensor:
    return tensor_of(node.tensors[name].words)


def _positions(node: Node, table: Tensor, length: int, cache: KVCache | None) -> Tensor:
    """Return the rows of a table that this run's positions use."""
    start = 0 if cache is None else cache.length
    return table[position_rows(node.name, table.shape[0], start, length)]


def _quantize(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return quantize(x[0], float(node.attrs["scale"]))


def _add(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    if x[0].dtype == torch.float16:
        return add(x[0], x[1])
    at = node.attrs
    fused = bool(at.get("relu", False))
    return add_codes(x[0], x[1], at["mul_a"], at["mul_b"], at["shift"], relu=fused)


def _mul(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return mul(x[0], x[1])


def _scale(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return scale(x[0], float(node.attrs["factor"]))


def _relu(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return relu(x[0])


def _activation(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return activation(x[0], _words(node, "table"))


def _norm(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    beta = _words(node, "beta") if "beta" in node.tensors else None
    eps, centre = float(node.attrs["eps"]), node.op == "layernorm"
    return normalise(x[0], _words(node, "gamma"), beta, eps, centre=centre)


def attention_heads(
    node: Node, x: tuple[Tensor, ...], cache: KVCache | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of an attention node as float16[B, heads, L, d], rotated."""
    at = node.attrs
    dim = int(at["head_dim"])
    query, key, value = (part.reshape(*part.shape[:2], -1, dim).transpose(1, 2) for part in x)
    style = at.get("rope", "none")
    if style != "none":
        length = query.shape[2]
        cos = _positions(node, _words(node, "cos"), length, cache)
        sin = _positions(node, _words(node, "sin"), length, cache)
        query, key = rotate(query, cos, sin, style), rotate(key, cos, sin, style)
    return query, key, value


def _attention(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    heads, dim = int(at["heads"]), int(at["head_dim"])
    query, key, value = attention_heads(node, x, cache)
    if cache is not None:
        key, value = cache.extend(node.name, key, value)
    exp = tensor_of(node.tensors["exp"].words.astype("int64"))
    causal = bool(at.get("causal", False))
    out = attend(query, key, value, exp, float(at["scale"]), causal=causal, name=node.name)
    return out.transpose(1, 2).reshape(*x[0].shape[:2], heads * dim)


def _window(node: Node) -> tuple[list[int], list[int], list[int]]:
    at = node.attrs
    return list(at["kernel"]), list(at.get("stride", (1, 1))), list(at.get("padding", (0, 0)))


def _windows(x: Tensor, node: Node, outside: int) -> Tensor:
    """Return int64[B, C, OH, OW, kh, kw], `outside` beyond the image."""
    kernel, stride, (ph, pw) = _window(node)
    padded = F.pad(x.long(), [pw, pw, ph, ph], value=outside)
    return padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])


def _avgpool(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    total = _windows(x[0], node, 0).sum((-2, -1))
    return requantize(total, node.attrs["mul"], node.attrs["shift"])


def _maxpool(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    # int8's least value outside: it never beats a real element.
    return _windows(x[0], node, -128).amax((-2, -1)).to(torch.int8)


def _requantize(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return requantize(x[0], node.attrs["mul"], node.attrs["shift"])


def _embedding(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    table = _words(node, "table")
    batch, length = x[0].shape
    if node.attrs.get("positions", False):
        return _positions(node, table, length, cache).expand(batch, -1, -1)
    ids = x[0].long()
    if ids.numel() and not bool(((ids >= 0) & (ids < table.shape[0])).all()):
        raise ValueError(
            f"{node.name}: token numbers must be in 0..{table.shape[0] - 1}, "
            f"not {int(ids.min())}..{int(ids.max())}"
        )
    return table[ids]


def _flatten(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].flatten(int(node.attrs["start_dim"]))


def _reshape(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].reshape(tuple(node.attrs["shape"]))


def _slice(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    at = node.attrs
    index = [slice(None)] * x[0].ndim
    index[at["dim"]] = slice(at["start"], at["stop"], at.get("step", 1))
    return x[0][tuple(index)]


def _pad_channels(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    sides = [int(node.attrs["before"]), int(node.attrs["after"])]
    return F.pad(x[0], [0, 0] * (x[0].ndim - 2) + sides)


def _transpose(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return x[0].permute(tuple(node.attrs["perm"]))


def _concat(node: Node, x: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
    return torch.cat(x, dim=int(node.attrs["dim"]))


Handler = Callable[[Node, tuple[Tensor, ...], "KVCache | None"], Tensor]

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
    "avgpool": _avgpool,
    "maxpool": _maxpool,
    "requantize": _requantize,
    "embedding": _embedding,
    "flatten": _flatten,
    "reshape": _reshape,
    "slice": _slice,
    "pad_channels": _pad_channels,
    "transpose": _transpose,
    "concat": _concat,
}


def operations() -> tuple[str, ...]:
    """Return the names of the operations of the vector unit."""
    return tuple(_HANDLERS)
