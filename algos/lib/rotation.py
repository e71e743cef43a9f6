# SPDX-License-Identifier: Apache-2.0
"""Rotation of a transformer's residual stream and of its value heads, folded into the weights.

The stream x becomes x Q with an orthogonal Q: what writes into it (embeddings, attention and MLP
outputs) is multiplied by Q, what reads it (through a normalisation) by Qᵀ. Outliers spread over all
channels; nothing is left to do at run time. Source: Ashkboos et al., "QuaRot", 2024; HandH1998/QQQ
`rotation/rotation.py`. The mean subtraction of a LayerNorm is folded as in Ashkboos et al.,
"SliceGPT", ICLR 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.hadamard import RotationKind, random_rotation

NORMS = ("layernorm", "rmsnorm")

_RowChange = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotated graph and what could not be rotated, in words."""

    graph: FloatGraph
    notes: tuple[str, ...]


class _RotationError(Exception):
    """The graph does not have the form that a rotation needs; the text says why."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """The residual stream: who writes it, who reads it."""

    width: int
    writers: tuple[FloatNode, ...]
    norms: tuple[FloatNode, ...]
    readers: tuple[FloatNode, ...]


def rotate(graph: FloatGraph, kind: RotationKind, generator: np.random.Generator) -> Rotated:
    """Rotate the residual stream and the value heads of a graph.

    Parameters
    ----------
    graph : FloatGraph
        A transformer; others come back unchanged, with a note.
    kind : {"hadamard", "orthogonal"}
        See `algos.lib.hadamard.random_rotation`.
    generator : numpy.random.Generator
        Source of the rotation.

    Returns
    -------
    Rotated
        A graph of the same function up to rounding, in which the scale of every normalisation on
        the stream is 1. What cannot be rotated stays as it is and is named in the notes.
    """
    notes: list[str] = []
    try:
        stream = _find_stream(graph)
        graph = _fold_norms(graph, stream)
        stream = _find_stream(graph)
        graph = _rotate_stream(graph, stream, random_rotation(stream.width, kind, generator))
    except _RotationError as error:
        notes.append(f"residual stream not rotated: {error}")
    for node in graph.ops("attention"):
        try:
            graph = _rotate_values(graph, node, kind, generator)
        except _RotationError as error:
            notes.append(f"values of {node.name} not rotated: {error}")
    return Rotated(graph, tuple(notes))


def _find_stream(graph: FloatGraph) -> _Stream:
    norms = graph.ops(*NORMS)
    if not norms:
        raise _RotationError("the network has no normalisation")
    pending = [norms[0].inputs[0]]
    values: set[str] = set()
    writers: dict[str, FloatNode] = {}
    direct: dict[str, FloatNode] = {}
    readers_of: dict[str, FloatNode] = {}
    while pending:
        name = pending.pop()
        if name in values:
            continue
        values.add(name)
        producer = graph.producer(name)
        if producer is None or name in graph.outputs:
            raise _RotationError(f"{name!r} is an input or an output of the network")
        if producer.op in ("linear", "embedding"):
            writers[name] = producer
        elif producer.op in ("add", "scale"):
            pending.extend(producer.inputs)
        else:
            raise _RotationError(f"{name!r} ({producer.op}) writes it")
        for reader in graph.consumers(name):
            if reader.op in ("add", "scale"):
                pending.append(reader.name)
            elif reader.op in NORMS:
                readers_of[reader.name] = reader
            elif reader.op == "linear":
                direct[reader.name] = reader
            else:
                raise _RotationError(f"{reader.name!r} ({reader.op}) reads it")
    missing = [norm.name for norm in norms if norm.name not in readers_of]
    if missing:
        raise _RotationError(f"{missing[0]!r} normalises another value")
    kinds = {norm.op for norm in norms}
    if "layernorm" in kinds and (kinds != {"layernorm"} or direct):
        raise _RotationError("a layernorm's mean cannot be folded where others read the stream")
    readers: dict[str, FloatNode] = dict(direct)
    for norm in norms:
        if norm.name in graph.outputs:
            raise _RotationError(f"{norm.name!r} is an output of the network")
        for reader in graph.consumers(norm.name):
            if reader.op != "linear":
                raise _RotationError(f"{reader.name!r} ({reader.op}) reads {norm.name!r}")
            readers[reader.name] = reader
    width = int(norms[0].tensors["gamma"].numel())
    return _Stream(width, tuple(writers.values()), norms, tuple(readers.values()))


def _with_bias(node: FloatNode, weight: Tensor, bias: Tensor | None) -> FloatNode:
    changed = node.with_tensors(weight=weight.float())
    return changed if bias is None else changed.with_tensors(bias=bias.float())


def _fold_norms(graph: FloatGraph, stream: _Stream) -> FloatGraph:
    """Fold scale and shift of each norm into its readers, the mean into the stream's writers."""
    changed: dict[str, FloatNode] = {}
    for norm in stream.norms:
        gamma = norm.tensors["gamma"].double()
        beta = norm.tensors.get("beta")
        for reader in graph.consumers(norm.name):
            weight = reader.tensors["weight"].double()
            bias = reader.tensors.get("bias")
            if beta is not None and bool(beta.any()):
                shift = weight @ beta.double()
                bias = shift if bias is None else bias.double() + shift
            changed[reader.name] = _with_bias(reader, weight * gamma, bias)
        changed[norm.name] = replace(
            norm, op="rmsnorm", tensors={"gamma": torch.ones_like(norm.tensors["gamma"])}
        )
    if stream.norms[0].op == "layernorm":
        for node in stream.writers:
            writer = changed.get(node.name, node)
            changed[node.name] = _write(writer, lambda x: x - x.mean(dim=-1, keepdim=True))
    return graph.replaced(*changed.values())


def _write(node: FloatNode, change: _RowChange) -> FloatNode:
    """Apply a linear map to what a node writes; `change` maps rows float64[..., D]."""
    if node.op == "embedding":
        return node.with_tensors(table=change(node.tensors["table"].double()).float())
    bias = node.tensors.get("bias")
    weight = change(node.tensors["weight"].double().t()).t().contiguous()
    return _with_bias(node, weight, None if bias is None else change(bias.double()))


def _rotate_stream(graph: FloatGraph, stream: _Stream, rotation: Tensor) -> FloatGraph:
    changed: dict[str, FloatNode] = {}
    for reader in stream.readers:
        changed[reader.name] = reader.with_tensors(
            weight=(reader.tensors["weight"].double() @ rotation).float()
        )
    for node in stream.writers:
        writer = changed.get(node.name, node)
        changed[node.name] = _write(writer, lambda x: x @ rotation)
    return graph.replaced(*changed.values())


def _rotate_values(
    graph: FloatGraph, node: FloatNode, kind: RotationKind, generator: np.random.Generator
) -> FloatGraph:
    """Rotate the value heads of one attention; its output projection rotates them back."""
    dim = int(node.attrs["head_dim"])
    value = graph.producer(node.inputs[2])
    if value is None or value.op != "linear" or graph.consumers(value.name) != (node,):
        raise _RotationError("they do not come straight from a linear layer of their own")
    readers = graph.consumers(node.name)
    if node.name in graph.outputs or any(reader.op != "linear" for reader in readers):
        raise _RotationError("something else than linear layers reads the output")
    rotation = random_rotation(dim, kind, generator)

    def by_head(rows: Tensor) -> Tensor:
        return (rows.reshape(*rows.shape[:-1], -1, dim) @ rotation).reshape(rows.shape)

    changed = [_write(value, by_head)]
    for reader in readers:
        weight = by_head(reader.tensors["weight"].double())
        changed.append(reader.with_tensors(weight=weight.float()))
    return graph.replaced(*changed)
