# SPDX-License-Identifier: Apache-2.0
"""Recognise what modules write by hand, by what it computes instead of by how it is spelt.

A pattern has an anchor (say ``rsqrt``). The operations around it are taken as a function of one
value and probed: it is the operation whose outputs it reproduces. So every spelling of a norm or of
an activation is met, and nothing is taken for what it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from algos.lib.capture import Capture, ExportError, op_name

CASTS = {
    "aten.to", "aten._to_copy", "aten.type_as", "aten.float", "aten.contiguous", "aten.clone",
    "aten.alias", "aten.detach", "aten.dropout", "aten.lift_fresh_copy", "aten.detach_",
    "aten.dropout_", "aten.feature_dropout", "aten.alpha_dropout", "aten._assert_tensor_metadata",
}  # fmt: skip
"""Operations without effect in a float32 network that is evaluated."""

ELEMENTWISE = {"aten.mul", "aten.add", "aten.sub", "aten.div", "aten.pow", "aten.square",
               "aten.neg", "aten.rsub", "aten.reciprocal", "aten.mul_", "aten.add_"}  # fmt: skip
NORM_BODY = ELEMENTWISE | CASTS | {"aten.mean", "aten.sum", "aten.var", "aten.sqrt", "aten.rsqrt"}
NORM_ANCHORS = {"aten.rsqrt", "aten.sqrt", "aten.pow"}
ACTIVATION_ANCHORS = {"aten.sigmoid", "aten.tanh", "aten.erf", "aten.exp"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Some output rows of a linear layer, as a layer of its own.

    Attributes
    ----------
    source : fx.Node
        The linear layer.
    rows : int64[...]
        Rows of its weight.
    suffix : str
        Appended to its name.
    """

    source: fx.Node
    rows: Tensor
    suffix: str


@dataclass(frozen=True, slots=True)
class Match:
    """Recorded nodes that are one operation of a network.

    Attributes
    ----------
    output : fx.Node
        The node whose value the operation computes.
    op : str
        The operation.
    inputs : tuple of fx.Node or Rows
        What it reads.
    attrs, tensors : dict
        Of the operation.
    """

    output: fx.Node
    op: str
    inputs: tuple[fx.Node | Rows, ...]
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def find_norm(trace: Capture, anchor: fx.Node) -> Match | None:
    """Return the layer norm or RMS norm that a square root belongs to."""
    if not trace.is_data(anchor) or trace.shape(anchor)[-1:] != (1,):
        return None
    body = _backward(trace, anchor, NORM_BODY)
    return _first_match(trace, anchor, body, _as_norm)


def find_activation(trace: Capture, anchor: fx.Node) -> Match | None:
    """Return the SiLU or GELU that a sigmoid, tanh or erf belongs to."""
    if not trace.is_data(anchor):
        return None
    body = _backward(trace, anchor, ELEMENTWISE | CASTS)
    return _first_match(trace, anchor, body, _as_activation)


def _first_match(
    trace: Capture, anchor: fx.Node, body: list[fx.Node], recognise: Any
) -> Match | None:
    """Try outputs from the furthest on, inputs from the nearest on."""
    for output in reversed(_forward(trace, anchor, body)):
        for base in body:
            if trace.shape(base) != trace.shape(output):
                continue
            match = recognise(trace, base, output)
            if match is not None:
                return match
    return None


def _backward(trace: Capture, anchor: fx.Node, ops: set[str]) -> list[fx.Node]:
    """Return the data nodes reached from an anchor through `ops`, and where each way ends."""
    seen: dict[fx.Node, None] = {}
    queue = trace.data_args(anchor)
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen[node] = None
        if op_name(node) in ops:
            queue.extend(trace.data_args(node))
    return list(seen)


def _forward(trace: Capture, anchor: fx.Node, body: list[fx.Node]) -> list[fx.Node]:
    """Return the nodes after an anchor that read nothing but its body and constants."""
    known = {anchor, *body}
    found: list[fx.Node] = []
    node: fx.Node | None = anchor
    while node is not None:
        found.append(node)
        known.add(node)
        after = [
            user
            for user in node.users
            if op_name(user) in ELEMENTWISE | CASTS
            and all(_is_made_of(trace, a, known) for a in trace.data_args(user))
        ]
        node = min(after, key=lambda n: trace.order[n]) if after else None
    return found


def _is_made_of(trace: Capture, node: fx.Node, known: set[fx.Node], depth: int = 6) -> bool:
    """Whether a few operations make a node from known ones, as 0.5 x is made from x."""
    if node in known:
        return True
    return (
        depth > 0
        and op_name(node) in NORM_BODY
        and all(_is_made_of(trace, a, known, depth - 1) for a in trace.data_args(node))
    )


def _probe(trace: Capture, base: fx.Node, output: fx.Node, x: Tensor) -> Tensor | None:
    try:
        result = trace.run(output, {base: x})
    except KeyError:
        return None  # it depends on more than the base
    return result if result.shape == x.shape else None


def _as_norm(trace: Capture, base: fx.Node, output: fx.Node) -> Match | None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(trace.shape(base), generator=generator) * 100 + 50
    plus, minus = _probe(trace, base, output, x), _probe(trace, base, output, -x)
    if plus is None or minus is None or not bool(torch.isfinite(plus).all()):
        return None
    width = x.shape[-1]
    beta = ((plus + minus) / 2).reshape(-1, width).median(dim=0).values
    odd = (plus - minus) / 2
    for op in ("rmsnorm", "layernorm"):
        unit = _norm(op, x, 0.0)
        strong = unit.abs() > 0.1
        ratio = torch.where(strong, odd / unit, torch.nan).reshape(-1, width)
        gamma = ratio.nanmedian(dim=0).values
        if not bool(torch.isfinite(gamma).all()):
            continue
        if op == "rmsnorm" and bool(beta.abs().max() > 1e-4 * odd.abs().max()):
            continue
        shift = _exact(trace, output, beta) if op == "layernorm" else None
        found = _fit_eps(trace, base, output, op, _exact(trace, output, gamma), shift)
        if found is not None:
            return found
    return None


def _norm(op: str, x: Tensor, eps: float) -> Tensor:
    if op == "rmsnorm":
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _fit_eps(
    trace: Capture, base: fx.Node, output: fx.Node, op: str, gamma: Tensor, beta: Tensor | None
) -> Match | None:
    x = torch.randn(trace.shape(base), generator=torch.Generator().manual_seed(1))
    for eps in _scalars(trace, output):
        for scale in (1e-3, 1.0, 10.0):
            actual = _probe(trace, base, output, x * scale)
            expected = _norm(op, x * scale, eps) * gamma + (0.0 if beta is None else beta)
            if actual is None or not torch.allclose(actual, expected, rtol=1e-4, atol=1e-5):
                break
        else:
            tensors = {"gamma": gamma} if beta is None else {"gamma": gamma, "beta": beta}
            return Match(output, op, (base,), {"eps": eps}, tensors)
    return None


def _region(trace: Capture, output: fx.Node) -> Iterator[fx.Node]:
    yield output
    yield from _backward(trace, output, NORM_BODY)


def _scalars(trace: Capture, output: fx.Node) -> list[float]:
    """Return the candidates for eps that stand in a region, and zero."""
    found: list[float] = []
    for node in _region(trace, output):
        if op_name(node) in {"aten.add", "aten.add_"}:
            for argument in node.args:
                value = None if trace.is_data(argument) else trace.value(argument)
                if isinstance(value, Tensor) and value.numel() == 1:
                    value = value.item()
                if isinstance(value, float) and 0 < value < 0.1:
                    found.append(value)
    return [*dict.fromkeys(found), 0.0]


def _exact(trace: Capture, output: fx.Node, estimate: Tensor) -> Tensor:
    """Return the constant in a region that a probed vector is an estimate of, else the estimate."""
    for simple in (torch.zeros_like(estimate), torch.ones_like(estimate)):
        if torch.allclose(simple, estimate, atol=1e-5):
            return simple
    for node in _region(trace, output):
        for argument in node.all_input_nodes:
            value = None if trace.is_data(argument) else trace.value(argument)
            if isinstance(value, Tensor) and value.numel() == estimate.numel():
                vector = value.reshape(-1).float()
                if torch.allclose(vector, estimate, rtol=1e-3, atol=1e-5):
                    return vector.clone()
    return estimate


def _as_activation(trace: Capture, base: fx.Node, output: fx.Node) -> Match | None:
    shape = trace.shape(base)
    x = torch.linspace(-9, 9, max(2, torch.Size(shape).numel())).reshape(shape)
    actual = _probe(trace, base, output, x)
    if actual is None:
        return None
    known: tuple[tuple[str, dict[str, Any], Tensor], ...] = (
        ("silu", {}, F.silu(x)),
        ("gelu", {"approximate": "none"}, F.gelu(x)),
        ("gelu", {"approximate": "tanh"}, F.gelu(x, approximate="tanh")),
    )
    for op, attrs, expected in known:
        if torch.allclose(actual, expected, rtol=1e-5, atol=1e-5):
            return Match(output, op, (base,), attrs)
    return None


def find_patterns(trace: Capture) -> dict[fx.Node, Match]:
    """Return every norm and activation that is written by hand, by the node that it ends in."""
    found: dict[fx.Node, Match] = {}
    for node in trace.graph.nodes:
        name = op_name(node)
        match = None
        if name in NORM_ANCHORS:
            match = find_norm(trace, node)
        elif name in ACTIVATION_ANCHORS:
            match = find_activation(trace, node)
        if match is not None:
            found[match.output] = match
    return found


__all__ = ["CASTS", "ExportError", "Match", "Rows", "find_patterns"]
