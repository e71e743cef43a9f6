# SPDX-License-Identifier: Apache-2.0
"""Handlers of recorded operators that work element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from algos.lib.builder import Builder, Handler, argument, scalar_value, scale_rows
from algos.lib.capture import Capture, op_name

# -- element-wise ----------------------------------------------------------------------------


def _binary(b: Builder, node: fx.Node) -> None:
    op = op_name(node).removesuffix("_").removeprefix("aten.")
    left, right = node.args[:2]
    if op == "rsub":
        op, left, right = "sub", right, left
    if argument(node, 2, "alpha", 1) != 1 or argument(node, 2, "rounding_mode") is not None:
        raise b.trace.refuse(node, "its option is not supported", "write it in two steps")
    if b.trace.is_data(left) and b.trace.is_data(right):
        _two_values(b, node, op, left, right)
    elif b.trace.is_data(left) or op in ("add", "mul"):
        data, constant = (left, right) if b.trace.is_data(left) else (right, left)
        _value_and_constant(b, node, op, data, constant)
    else:
        raise b.trace.refuse(node, "its first operand is a constant", "only x - c and x / c are")


def _two_values(b: Builder, node: fx.Node, op: str, left: Any, right: Any) -> None:
    if op == "div":
        raise b.trace.refuse(node, "it divides two values", "only constants divide")
    a, c = b.name(left), b.name(right)
    if op == "sub":
        c = b.add(node, "scale", (c,), {"factor": -1.0}, final=False)
    shapes = b.trace.shape(left), b.trace.shape(right)
    if shapes[0] != shapes[1]:
        raise b.trace.refuse(
            node, f"its operands have shapes {shapes[0]} and {shapes[1]}", "they must be equal"
        )
    b.add(node, "add" if op == "sub" else op, (a, c))


def _value_and_constant(b: Builder, node: fx.Node, op: str, data: Any, constant: Any) -> None:
    trace, scalar = b.trace, scalar_value(b.trace, constant)
    if scalar is not None and scalar == (0.0 if op in ("add", "sub") else 1.0):
        b.alias(node, data)
        return
    if scalar is not None and op in ("mul", "div"):
        factor = scalar if op == "mul" else 1.0 / scalar
        b.add(node, "scale", (b.name(data),), {"factor": factor})
        return
    vector = trace.value(constant)
    if op == "add" and _is_position_table(trace, node, data, vector):
        _position_embedding(b, node, data, constant)
        return
    layer = b.only_reader(data, node)
    shape = trace.shape(data)
    channels = shape[1] if len(shape) == 4 else shape[-1]
    axis = 1 if len(shape) == 4 else len(shape) - 1
    if layer is not None and layer.op in ("linear", "conv2d"):
        values = torch.as_tensor(vector).float()
        full = values.reshape(*[1] * (len(shape) - values.ndim), *values.shape)
        if all(full.shape[i] == 1 for i in range(len(shape)) if i != axis):
            per_channel = full.reshape(-1).expand(channels)
            ones, zeros = torch.ones(channels), torch.zeros(channels)
            gain = {"mul": per_channel, "div": 1 / per_channel}.get(op, ones)
            offset = {"add": per_channel, "sub": -per_channel}.get(op, zeros)
            b.rewrite(scale_rows(layer, gain, offset))
            b.alias(node, data)
            return
    raise trace.refuse(
        node, "its constant is neither a factor nor per output channel of the layer before it",
        "move it into the weights",
    )  # fmt: skip


def _is_position_table(trace: Capture, node: fx.Node, data: fx.Node, table: Any) -> bool:
    shape = trace.shape(data)
    return (
        isinstance(table, Tensor)
        and len(shape) == 3
        and trace.shape(node) == shape
        and table.shape[-2:] == shape[-2:]
        and (table.ndim == 2 or bool((table == table[:1]).all()))
        and trace.inputs[0].meta["val"].ndim == 2
        and not trace.example_inputs[0].is_floating_point()
    )


def _position_embedding(b: Builder, node: fx.Node, data: fx.Node, constant: Any) -> None:
    table = b.trace.value(constant).reshape(-1, *b.trace.shape(data)[-2:])[0]
    ids = b.name(b.trace.inputs[0])
    rows = b.add(
        constant if isinstance(constant, fx.Node) else node,
        "embedding", (ids,), {"positions": True}, {"table": table}, final=False,
    )  # fmt: skip
    b.add(node, "add", (b.name(data), rows))


def _unary(op: str) -> Handler:
    def handle(b: Builder, node: fx.Node) -> None:
        attrs = {"approximate": argument(node, 1, "approximate", "none")} if op == "gelu" else {}
        b.add(node, op, (b.name(node.args[0]),), attrs)

    return handle


def _neg(b: Builder, node: fx.Node) -> None:
    b.add(node, "scale", (b.name(node.args[0]),), {"factor": -1.0})


ELEMENTWISE: dict[str, Handler] = {
    **{f"aten.{name}": _binary for name in ("add", "sub", "mul", "div", "rsub")},
    **{f"aten.{name}": _unary(name) for name in ("relu", "gelu", "silu")},
    "aten.neg": _neg,
}
