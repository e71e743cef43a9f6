# SPDX-License-Identifier: Apache-2.0
"""Checks of a whole packed network: names, order, operations, tensors, shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed import codecs
from cosil.packed.errors import PackedFormatError
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.packed.ops import FLOAT32_TINY, Op, TensorRule, check_attrs, rules
from cosil.packed.shapes import MAX_RANK, ValueType, infer
from cosil.packed.tensor import PackedTensor

INPUT_DTYPES = ("f32", "ids", "i8")
NAME_MAX = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check(network: PackedNetwork, *, content: bool = True) -> dict[str, ValueType]:
    """Check a network and return the dtype and shape of each of its values.

    Parameters
    ----------
    network : PackedNetwork
        The network.
    content : bool
        Also check what needs the tensors' data: padding, finite floats, reserved bits.

    Returns
    -------
    dict of str to ValueType
        Inputs first, then nodes in order; shapes without the batch, 0 = variable.

    Raises
    ------
    PackedFormatError
        At the first rule that is broken; it names the node or tensor.
    """
    check_name("network", network.name)
    values: dict[str, ValueType] = {}
    if not network.inputs:
        raise PackedFormatError("network", "graph", "must have at least one input")
    for value in network.inputs:
        _new_name("input", value.name, values)
        values[value.name] = _input_type(value)
    for node in network.nodes:
        _new_name("node", node.name, values)
        values[node.name] = _check_node(node, values, content=content)
    _check_cascade(network)
    if not network.outputs or len(set(network.outputs)) != len(network.outputs):
        raise PackedFormatError("network", "graph", "outputs must be distinct and at least one")
    for name in network.outputs:
        if name not in values:
            raise PackedFormatError(
                "network", "graph", f"output {name!r} must be an input or a node"
            )
    return values


def _check_cascade(network: PackedNetwork) -> None:
    """Check that attention nodes which share importance agree on heads and recent tokens."""
    nodes = [node for node in network.nodes if node.engine == "attention"]
    for node in nodes[1:]:
        for name, default in (("heads", 0), ("causal", False), ("token_recent", 0)):
            first, found = (each.attrs.get(name, default) for each in (nodes[0], node))
            if first != found:
                raise PackedFormatError(
                    f"node {node.name!r}",
                    "attribute",
                    f"{name} must be that of {nodes[0].name!r}, {first}, not {found}: nodes on "
                    "engine 'attention' share importance",
                )


def check_name(subject: str, name: str) -> None:
    """Refuse names that are empty, long or path-like, or hold odd characters."""
    if len(name) > NAME_MAX or not _NAME.fullmatch(name) or ".." in name:
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise PackedFormatError(
            subject,
            "name",
            f"name must be up to {NAME_MAX} letters, digits, '_', '.' or '-', begin with none of "
            f"'.' and '-' and hold no '..', not {shown!r}",
        )


def _new_name(kind: str, name: str, values: Mapping[str, ValueType]) -> None:
    check_name(kind, name)
    if name in values:
        raise PackedFormatError(f"{kind} {name!r}", "graph", "the name must not occur twice")


def _input_type(value: Value) -> ValueType:
    subject = f"input {value.name!r}"
    if value.dtype not in INPUT_DTYPES:
        raise PackedFormatError(
            subject,
            "dtype",
            f"dtype must be one of {', '.join(INPUT_DTYPES)}, not {value.dtype!r}",
        )
    if len(value.shape) > MAX_RANK or not all(0 <= size < 2**31 for size in value.shape):
        raise PackedFormatError(
            subject,
            "shape",
            f"shape must have at most {MAX_RANK} sizes in 0..2^31-1, not {value.shape}",
        )
    return ValueType(value.dtype, value.shape)


def _check_node(node: Node, values: Mapping[str, ValueType], *, content: bool) -> ValueType:
    subject = f"node {node.name!r}"
    for name in node.inputs:
        if name not in values:
            raise PackedFormatError(
                subject, "graph", f"input {name!r} must be a network input or an earlier node"
            )
    inputs = [values[name] for name in node.inputs]
    entry = rules(subject, node.op, tuple(value.dtype for value in inputs), node.engine)
    check_attrs(subject, entry, node.attrs)
    _check_tensors(node, entry, content=content)
    return infer(node, entry, inputs)


def _check_tensors(node: Node, entry: Op, *, content: bool) -> None:
    subject = f"node {node.name!r}"
    for name, rule in entry.tensors.items():
        if rule.required and name not in node.tensors:
            raise PackedFormatError(subject, "tensors", f"{node.op} must have a tensor {name!r}")
    for name, tensor in node.tensors.items():
        if name not in entry.tensors:
            known = ", ".join(entry.tensors) or "none"
            raise PackedFormatError(
                subject, "tensors", f"unknown tensor {name!r}; {node.op} has {known}"
            )
        _check_tensor(f"tensor {node.name}:{name}", tensor, entry.tensors[name], content=content)
        if content:
            _check_words(f"tensor {node.name}:{name}", name, tensor.words, entry.tensors[name])


def _check_words(subject: str, name: str, words: NDArray[Any], rule: TensorRule) -> None:
    """Check what the words of a tensor stand for: reserved bits, shifts, scales."""
    width = 8 * words.dtype.itemsize
    if rule.bits and (words >> words.dtype.type(rule.bits)).any():
        raise PackedFormatError(
            subject, name, f"bits {rule.bits}..{width - 1} of each word must be 0"
        )
    if rule.bits == 22 and int((words >> 16).max()) > rule.shift_max:
        raise PackedFormatError(
            subject, name, f"bits 16..21, a shift, must be at most {rule.shift_max}"
        )
    if rule.positive and float(words.min()) < FLOAT32_TINY:
        raise PackedFormatError(subject, name, f"must be at least 2^-126, not {words.min()}")


def _check_tensor(subject: str, tensor: PackedTensor, rule: TensorRule, *, content: bool) -> None:
    legal = (rule.codec,) if isinstance(rule.codec, str) else rule.codec
    if tensor.codec not in legal:
        known = " or ".join(map(repr, legal))
        raise PackedFormatError(subject, "codec", f"codec must be {known}, not {tensor.codec!r}")
    if tensor.words.dtype != np.dtype(rule.dtype):
        raise PackedFormatError(
            subject, "dtype", f"dtype must be {rule.dtype}, not {tensor.words.dtype}"
        )
    codecs.check(subject, tensor, content=content)
    for name in rule.scales:
        if name not in tensor.scales:
            raise PackedFormatError(subject, "scales", f"must have {name!r} scales")
