# SPDX-License-Identifier: Apache-2.0
"""A whole network: nodes in topological order, each with its packed tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cosil.packed.tensor import PackedTensor


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A network input: name, dtype ("f32", "i8", "ids"), shape without the batch (0 = variable)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation. Its output value bears the node's name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tensors: Mapping[str, PackedTensor] = field(default_factory=dict[str, PackedTensor])
    engine: str = "vector"


@dataclass(frozen=True, slots=True, eq=False)
class PackedNetwork:
    """A compressed network as saved in one file (docs/packed-format.md)."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
