# SPDX-License-Identifier: Apache-2.0
"""Cycles of the vector unit: a model, not verified against hardware.

An operation takes `start_cycles`, then the greater of its lane operations over the lanes and its
bytes over the memory's bandwidth. A lane does one of these per cycle: add or multiply (float32 or
integer), compare, convert or round, table look-up, divide or square root. What only renames
addresses is free.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.machine.spec import Machine
from cosil.packed.network import Node

Array = NDArray[Any]

OPERATIONS = {
    "quantize": 2,  # divide, round
    "scale": 2,  # multiply, round
    "relu": 1,
    "gelu": 5,  # convert, look up, subtract, multiply, round
    "silu": 5,
    "layernorm": 10,  # sum; subtract, square, sum; subtract, divide, two for gamma and beta, round
    "rmsnorm": 5,  # square, sum, divide, gamma, round
    "requantize": 2,  # multiply, round
}
"""Lane operations per element of the output, for operations with a fixed number."""

RENAMES = ("flatten", "reshape")
QUANTIZE_ROWS = 3  # magnitude, divide, round
ADD_BIAS = 2  # add, round
CLAMP = 2  # compare with both ends
SIGNS = 1  # take the sign
CODES = 2  # divide, round
REAL = 2  # multiply, round


def cycles(machine: Machine, operations: int, moved_bytes: int) -> dict[str, int]:
    """Return cycles by cause: ``vector``, and ``memory`` where the bytes take longer."""
    if not operations and not moved_bytes:
        return {"vector": 0, "memory": 0}
    compute = -(-operations // machine.vector.lanes)
    rate = machine.memory.bytes_per_cycle
    memory = math.ceil(moved_bytes / rate) if rate else 0
    return {
        "vector": machine.vector.start_cycles + compute,
        "memory": max(0, memory - compute),
    }


def operations(node: Node, inputs: tuple[Array, ...], output: Array, cached: int = 0) -> int:
    """Return the lane operations of a node.

    Parameters
    ----------
    cached : int
        Positions of the KV cache that attention reads besides its own inputs.
    """
    match node.op:
        case "add" | "mul":
            if output.dtype == np.float16:
                return 2 * output.size
            return (5 + bool(node.attrs.get("relu", False))) * output.size
        case "avgpool" | "maxpool":
            kh, kw = node.attrs["kernel"]
            return (kh * kw + 2 * (node.op == "avgpool")) * output.size
        case "attention":
            heads, dim = _heads(node)
            pairs = visible_pairs(node, inputs[0], cached)
            rotated = inputs[0].size + inputs[1].size if _rope(node) else 0
            # Per score: scale, subtract, convert, look up, sum, divide, round, maximum.
            return pairs * heads * (2 * dim + 8) + 3 * rotated + output.size
        case _:
            return OPERATIONS.get(node.op, 0) * output.size


def codes_operations(node: Node, inputs: tuple[Array, ...]) -> int:
    """Return the lane operations that turn queries, keys and values into codes of an engine."""
    rotated = inputs[0].size + inputs[1].size if _rope(node) else 0
    return 3 * rotated + CODES * sum(value.size for value in inputs)


def macs(node: Node, inputs: tuple[Array, ...], cached: int = 0) -> int:
    """Return the multiply-accumulates of Q.K and P.V; 0 for any other operation."""
    if node.op != "attention":
        return 0
    heads, dim = _heads(node)
    return visible_pairs(node, inputs[0], cached) * heads * 2 * dim


def visible_pairs(node: Node, query: Array, cached: int) -> int:
    """Return the (query, key) pairs of all sequences that the mask lets through."""
    batch, length = query.shape[:2]
    if node.attrs.get("causal", False):
        return batch * (length * cached + length * (length + 1) // 2)
    return batch * length * (length + cached)


def moved_bytes(node: Node, inputs: tuple[Array, ...], output: Array, cached: int = 0) -> int:
    """Return the bytes that a node reads and writes, its tables included."""
    if node.op in RENAMES:
        return 0
    tables = sum(tensor.words.nbytes for tensor in node.tensors.values())
    if node.op == "embedding":  # reads the rows that it copies
        return inputs[0].size * 4 + 2 * output.nbytes
    if node.op == "attention" and cached:
        kept = inputs[1].nbytes + inputs[2].nbytes
        tables += kept // inputs[1].shape[1] * cached
    return sum(value.nbytes for value in inputs) + output.nbytes + tables


def _heads(node: Node) -> tuple[int, int]:
    return int(node.attrs["heads"]), int(node.attrs["head_dim"])


def _rope(node: Node) -> bool:
    return node.attrs.get("rope", "none") != "none"
