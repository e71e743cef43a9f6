# SPDX-License-Identifier: Apache-2.0
"""Recognise softmax attention: heads, grouped-query heads, rotary embedding, scale and mask.

The anchor is ``scaled_dot_product_attention`` or a softmax between two products. Between the flat
projections (B, L, heads d) and the product's operands (B, heads, L, d) a model may split, permute,
repeat and rotate as it likes: that part is linear in the projection, so probing it with a few
inputs tells which element goes where and by which angles it is turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from algos.lib.capture import Capture, op_name
from algos.lib.float_ops import rotate
from algos.lib.patterns import CASTS, Match, Rows

MOVES = CASTS | {
    "aten.view", "aten.reshape", "aten.unflatten", "aten.flatten", "aten.permute", "aten.transpose",
    "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.expand_as", "aten.repeat",
    "aten.repeat_interleave", "aten.slice", "aten.select", "aten.split", "aten.chunk",
    "aten.split_with_sizes", "aten.unbind", "getitem", "aten.t", "aten.mT", "aten.cat",
    "aten.numpy_T", "aten.swapaxes", "aten.movedim", "aten.index_select", "aten.roll",
}  # fmt: skip
LINEAR_MAPS = MOVES | {
    "aten.mul", "aten.div", "aten.add", "aten.sub", "aten.neg", "aten.stack", "aten.mul_",
    "aten.div_", "aten.add_", "aten.complex", "aten.view_as_complex", "aten.view_as_real",
    "aten.real", "aten.imag", "aten.einsum",
}  # fmt: skip
SCORE_OPS = CASTS | {
    "aten.mul", "aten.div", "aten.add", "aten.masked_fill", "aten.where", "aten.mul_", "aten.div_",
    "aten.add_", "aten.masked_fill_", "aten.view", "aten.reshape", "aten.sub", "aten.expand",
}  # fmt: skip
PRODUCTS = {"aten.matmul", "aten.bmm"}
SOFTMAX = {"aten.softmax", "aten._softmax", "aten._safe_softmax"}
SDPA = "aten.scaled_dot_product_attention"
HINT = (
    "attention is taken as softmax(scale q k + causal mask) v between linear projections of "
    "(B, L, D), with or without rotary embedding"
)


@dataclass(frozen=True, slots=True)
class Operand:
    """Where an operand (B, heads, L, d) of a product comes from.

    Attributes
    ----------
    base : fx.Node
        The flat value (B, L, W).
    columns : int64[heads, d]
        Column of `base` of each element.
    factor : float
        Every element is multiplied by it.
    rope : str
        "none", "interleaved" or "half".
    cos, sin : float32[L, d/2] or None
        Tables of the rotation.
    """

    base: fx.Node
    columns: Tensor
    factor: float
    rope: str = "none"
    cos: Tensor | None = None
    sin: Tensor | None = None


def find_attention(trace: Capture) -> dict[fx.Node, Match]:
    """Return every attention of a recorded module, by the node that it ends in.

    Raises
    ------
    ExportError
        If an attention has a mask, a rotation or heads that a network does not know.
    """
    found: dict[fx.Node, Match] = {}
    for node in trace.graph.nodes:
        match = None
        if op_name(node) == SDPA:
            match = _from_sdpa(trace, node)
        elif op_name(node) in SOFTMAX and trace.is_data(node):
            match = _from_softmax(trace, node)
        if match is not None:
            found[match.output] = match
    return found


def _from_sdpa(trace: Capture, node: fx.Node) -> Match:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    bound = dict(zip(names, node.args, strict=False)) | node.kwargs
    query, key, value = (bound[name] for name in names[:3])
    assert isinstance(query, fx.Node)
    assert isinstance(key, fx.Node)
    assert isinstance(value, fx.Node)
    causal = bool(bound.get("is_causal", False))
    mask = bound.get("attn_mask")
    if mask is not None:
        if trace.is_data(mask):
            raise trace.refuse(node, "its mask depends on the network's inputs", HINT)
        keep = trace.value(mask)
        causal = _mask_kind(trace, node, keep)
    scale = bound.get("scale")
    head_dim = trace.shape(query)[-1]
    factor = float(head_dim**-0.5 if scale is None else trace.value(scale))
    return _build(trace, node, node, query, key, value, causal, factor)


def _from_softmax(trace: Capture, node: fx.Node) -> Match | None:
    scores = node.args[0]
    assert isinstance(scores, fx.Node)
    rank = len(trace.shape(node))
    if node.args[1] not in (-1, rank - 1):
        raise trace.refuse(node, "its axis is not the last one", HINT)
    product = _walk_back(trace, scores, SCORE_OPS)
    weighted = _walk_on(trace, node, CASTS | {"aten.view", "aten.reshape", "aten.expand"})
    if product is None or op_name(product) not in PRODUCTS or op_name(weighted) not in PRODUCTS:
        raise trace.refuse(node, "it does not stand between two products", HINT)
    query, key = product.args[:2]
    value = weighted.args[1]
    assert isinstance(query, fx.Node)
    assert isinstance(key, fx.Node)
    assert isinstance(value, fx.Node)
    if not all(map(trace.is_data, (query, key, value))):
        raise trace.refuse(node, "an operand of its products is a constant", HINT)
    factor, causal = _probe_scores(trace, node, scores, product)
    return _build(trace, node, weighted, query, key, value, causal, factor, transposed=True)


def _build(
    trace: Capture, node: fx.Node, last: fx.Node, query: fx.Node, key: fx.Node, value: fx.Node,
    causal: bool, factor: float, transposed: bool = False,
) -> Match:  # fmt: skip
    q = _operand(trace, node, query, "query")
    k = _operand(trace, node, key, "key", transposed)
    v = _operand(trace, node, value, "value")
    heads, head_dim = q.columns.shape
    k_columns, v_columns = _ungroup(trace, node, k, heads), _ungroup(trace, node, v, heads)
    kv_heads = k_columns.shape[0]
    if v_columns.shape[0] != kv_heads or q.rope != k.rope or v.rope != "none":
        raise trace.refuse(node, "query, key and value have different heads or rotations", HINT)
    if abs(v.factor - 1) > 1e-6:
        raise trace.refuse(node, "the value is scaled", HINT)
    tensors: dict[str, Tensor] = {}
    if q.cos is not None and q.sin is not None and k.cos is not None and k.sin is not None:
        if not (
            torch.allclose(q.cos, k.cos, atol=1e-5) and torch.allclose(q.sin, k.sin, atol=1e-5)
        ):
            raise trace.refuse(node, "query and key are rotated by different angles", HINT)
        tensors = {"cos": q.cos, "sin": q.sin}
    attrs = {
        "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "causal": causal,
        "scale": float(torch.tensor(factor * q.factor * k.factor)), "rope": q.rope,
    }  # fmt: skip
    inputs = (
        _input(trace, node, q.base, q.columns, "q"),
        _input(trace, node, k.base, k_columns, "k"),
        _input(trace, node, v.base, v_columns, "v"),
    )
    output = _flat_output(trace, node, last, heads, head_dim)
    return Match(output, "attention", inputs, attrs, tensors)


def _input(
    trace: Capture, node: fx.Node, base: fx.Node, columns: Tensor, suffix: str
) -> fx.Node | Rows:
    """Return a projection as it is, or the rows of a fused projection that are wanted."""
    rows = columns.reshape(-1)
    if rows.numel() == trace.shape(base)[-1] and bool((rows == torch.arange(len(rows))).all()):
        return base
    if op_name(base) != "aten.linear":
        raise trace.refuse(
            node, f"its {suffix} is a part of {op_name(base)}, not of a linear", HINT
        )
    return Rows(base, rows, suffix)


# -- masks and scores ------------------------------------------------------------------------


def _mask_kind(trace: Capture, node: fx.Node, mask: Tensor) -> bool:
    """Return True for a causal mask, False for one that keeps all."""
    keep = mask if mask.dtype == torch.bool else mask > -1e4
    clean = mask.dtype == torch.bool or bool((mask[keep] == 0).all())
    length = keep.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    if clean and keep.ndim >= 2 and keep.shape[-2] == length and bool((keep == causal).all()):
        return True
    if clean and bool(keep.all()):
        return False
    raise trace.refuse(node, "its mask is neither causal nor empty", HINT)


def _probe_scores(
    trace: Capture, node: fx.Node, scores: fx.Node, product: fx.Node
) -> tuple[float, bool]:
    """Return the scale and whether the mask is causal, of what lies between product and softmax."""
    zeros = torch.zeros(trace.shape(product))
    try:
        mask = trace.run(scores, {product: zeros})
    except KeyError as error:
        raise trace.refuse(node, f"its mask depends on {error.args[0]}", HINT) from error
    causal = _mask_kind(trace, node, mask)
    # Element (0, 0) is never masked.
    factor = float(trace.run(scores, {product: zeros + 1}).reshape(-1)[0])
    x = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(2))
    actual, kept = trace.run(scores, {product: x}), mask > -1e4
    if not torch.allclose(actual[kept], (x.reshape(mask.shape) * factor)[kept], atol=1e-5):
        raise trace.refuse(node, "its scores are not a scaled product", HINT)
    return factor, causal


def _walk_back(trace: Capture, node: fx.Node, ops: set[str]) -> fx.Node | None:
    """Follow the only data argument backwards through `ops`."""
    while op_name(node) in ops:
        data = trace.data_args(node)
        if len(data) != 1:
            return None
        node = data[0]
    return node


def _walk_on(trace: Capture, node: fx.Node, ops: set[str]) -> fx.Node:
    """Follow the only user forwards through `ops`, and one more."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if op_name(node) not in ops:
            break
    return node


# -- operands --------------------------------------------------------------------------------


def _operand(
    trace: Capture, node: fx.Node, operand: fx.Node, role: str, transposed: bool = False
) -> Operand:
    length = trace.shape(operand)[-1 if transposed else -2]
    base = _base(trace, node, operand, role, length)
    shape = trace.shape(base)
    batch, width = shape[0], shape[2]

    def probe(x: Tensor) -> Tensor:
        result = trace.run(operand, {base: x})
        if transposed:
            result = result.transpose(-1, -2)
        return result.reshape(batch, -1, length, result.shape[-1])

    # At position 0 no angle turns anything, so the labels of the columns arrive as they are.
    factor = float(probe(torch.ones(shape))[0, 0, 0, 0])
    labels = probe(torch.arange(1, width + 1).float().expand(shape))[0, :, 0] / (factor or 1.0)
    columns = labels.round().long() - 1
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if bool(((columns >= 0) & (columns < width)).all()):
        expected = x[..., columns].transpose(1, 2)
        for rope, cos, sin in _ropes(probe, shape, columns, factor):
            turned = expected if cos is None or sin is None else rotate(expected, cos, sin, rope)
            if torch.allclose(probe(x), turned * factor, rtol=1e-4, atol=1e-5 * abs(factor)):
                return Operand(base, columns, factor, rope, cos, sin)
    raise trace.refuse(node, f"its {role} is not a rotated split into heads", HINT)


def _ropes(
    probe: Callable[[Tensor], Tensor], shape: tuple[int, ...], columns: Tensor, factor: float
) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """Yield the styles with the tables that they would have."""
    yield "none", None, None
    head_dim = columns.shape[1]
    if head_dim % 2:
        return
    pairs = torch.arange(head_dim)
    for rope, first in (("interleaved", pairs[0::2]), ("half", pairs[: head_dim // 2])):
        second = first + (1 if rope == "interleaved" else head_dim // 2)
        x = torch.zeros(shape)
        x[..., columns[:, first].reshape(-1)] = 1.0
        turned = probe(x)[0, 0] / factor
        yield rope, turned[:, first].contiguous(), turned[:, second].contiguous()


def _base(trace: Capture, node: fx.Node, operand: fx.Node, role: str, length: int) -> fx.Node:
    """Return the one flat value (B, L, W) that an operand is made from."""
    batch_length = (trace.example_inputs[0].shape[0], length)
    found: dict[fx.Node, None] = {}
    stack, seen = [operand], {operand}
    while stack:
        at = stack.pop()
        shape = trace.shape(at)
        if len(shape) == 3 and shape[:2] == batch_length and op_name(at) not in _TURNS:
            found[_through_parts(trace, at)] = None
            continue
        if op_name(at) not in LINEAR_MAPS:
            raise trace.refuse(at, f"it stands between a projection and the {role}", HINT)
        for argument in trace.data_args(at):
            if argument not in seen:
                seen.add(argument)
                stack.append(argument)
    if len(found) != 1:
        raise trace.refuse(node, f"its {role} is made from {len(found)} values", HINT)
    return next(iter(found))


_LISTS = {"aten.split", "aten.chunk", "aten.split_with_sizes", "aten.unbind"}
_TURNS = {"aten.transpose", "aten.permute", "aten.t", "aten.mT", "aten.swapaxes"}
_PARTS = _LISTS | CASTS | {"getitem", "aten.slice"}


def _through_parts(trace: Capture, node: fx.Node) -> fx.Node:
    """Step from a part of a fused projection to the projection."""
    while op_name(node) in _PARTS:
        node = trace.data_args(node)[0]
    return node


def _ungroup(trace: Capture, node: fx.Node, operand: Operand, heads: int) -> Tensor:
    """Return the columns of the distinct heads; head h must read number h // (heads / distinct)."""
    columns = operand.columns
    rows = [tuple(int(column) for column in row) for row in columns]
    distinct = list(dict.fromkeys(rows))
    if heads % len(distinct) == 0 and len(columns) in (len(distinct), heads):
        unique = torch.tensor(distinct)
        if bool((unique.repeat_interleave(len(columns) // len(distinct), 0) == columns).all()):
            return unique
    raise trace.refuse(node, "its grouped heads are not in runs of equal length", HINT)


def _flat_output(
    trace: Capture, node: fx.Node, last: fx.Node, heads: int, head_dim: int
) -> fx.Node:
    """Return the node at which the heads are side by side again."""
    shape = trace.shape(last)
    batch, length = trace.example_inputs[0].shape[0], shape[-2]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    flat = x.reshape(batch, heads, length, head_dim).transpose(1, 2).reshape(batch, length, -1)
    at = last
    while op_name(at) in MOVES or at is last:
        if trace.shape(at) == flat.shape and torch.equal(trace.run(at, {last: x}), flat):
            return at
        if len(at.users) != 1:
            break
        at = next(iter(at.users))
    raise trace.refuse(node, "its heads are not joined to (B, L, heads d)", HINT)
