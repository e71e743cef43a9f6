# SPDX-License-Identifier: Apache-2.0
"""What a packed network holds, as `cosil info` prints it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cosil.packed import codecs, graph
from cosil.packed.network import Node, PackedNetwork
from cosil.packed.shapes import ValueType
from cosil.packed.tensor import PackedTensor


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """One node.

    Attributes
    ----------
    dtype, shape : str, tuple of int
        Of its output, without the batch; 0 = known only when the network runs.
    codecs : tuple of str
        Tensor by tensor, e.g. ``"weight int4 twos 16x27"``.
    weights : int
        Number of compressed weights.
    weight_bits, stored_bytes : int
        Bits of the weights with padding and scales; bytes of all tensors.
    """

    name: str
    op: str
    engine: str
    dtype: str
    shape: tuple[int, ...]
    codecs: tuple[str, ...]
    weights: int
    weight_bits: int
    stored_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, padding and scales included, of each weight; 0 without weights."""
        return self.weight_bits / self.weights if self.weights else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """A network: its values, nodes and totals."""

    name: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    nodes: tuple[NodeSummary, ...]
    provenance: Mapping[str, Any]

    @property
    def operations(self) -> dict[str, int]:
        """How often each operation occurs, most often first."""
        return dict(Counter(node.op for node in self.nodes).most_common())

    @property
    def weights(self) -> int:
        """Number of compressed weights."""
        return sum(node.weights for node in self.nodes)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of each compressed weight, padding and scales included."""
        return sum(node.weight_bits for node in self.nodes) / max(1, self.weights)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors, tables and norms included."""
        return sum(node.stored_bytes for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON has it."""
        return {
            **asdict(self),
            "operations": self.operations,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "stored_bytes": self.stored_bytes,
        }


def summarise(network: PackedNetwork) -> Summary:
    """Return what a network holds; raise `PackedFormatError` if it breaks a rule of the format."""
    values = graph.check(network)
    return Summary(
        name=network.name,
        inputs=tuple((value.name, value.dtype, value.shape) for value in network.inputs),
        outputs=network.outputs,
        nodes=tuple(_node(node, values[node.name]) for node in network.nodes),
        provenance=network.provenance,
    )


def _node(node: Node, value: ValueType) -> NodeSummary:
    compressed = [tensor for tensor in node.tensors.values() if tensor.codec != "raw"]
    return NodeSummary(
        name=node.name,
        op=node.op,
        engine=node.engine,
        dtype=value.dtype,
        shape=value.shape,
        codecs=tuple(_codec(name, tensor) for name, tensor in node.tensors.items()),
        weights=sum(math.prod(tensor.shape) for tensor in compressed),
        weight_bits=sum(codecs.stored_bits(tensor) for tensor in compressed),
        stored_bytes=sum(codecs.stored_bits(tensor) for tensor in node.tensors.values()) // 8,
    )


def _codec(name: str, tensor: PackedTensor) -> str:
    parts = [name, tensor.codec if tensor.codec != "raw" else tensor.words.dtype.name]
    if tensor.codec == "int4":
        size = tensor.params["group_size"]
        parts.append(f"{tensor.params['encoding']}{f' g{size}' if size else ''}")
    if tensor.codec == "bitplane":
        parts.append("{encoding} b{bits} r{rows}".format(**tensor.params))
    if tensor.codec == "binary":
        parts.append(str(tensor.params["polarity"]))
    parts.append("x".join(map(str, tensor.shape)))
    return " ".join(parts)
