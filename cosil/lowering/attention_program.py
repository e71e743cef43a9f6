# SPDX-License-Identifier: Apache-2.0
"""The attention program of a packed network: what a node on engine `attention` keeps and fetches.

docs/packed-format.md, "Attention programs", defines it; reference and machine both follow this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosil.packed.network import Node
from cosil.packed.ops import OPS, attr

MILLION = 1_000_000
"""token_keep and value_keep are millionths."""

LIMIT_NONE = 1 << 16
"""A count that no engine reaches."""

QUERY_BITS = 12
_ENTRY = next(entry for entry in OPS["attention"] if entry.engine == "attention")


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The attributes of one node, defaults filled in; docs/packed-format.md explains each."""

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    rope: Literal["none", "interleaved", "half"]
    msb_bits: int
    lsb_bits: int
    value_bits: int
    lsb_low: int
    lsb_high: int
    token_keep: int
    token_limit: int
    token_recent: int
    head_keep: int
    value_keep: int
    value_limit: int
    importance: bool
    out_scale: float

    @property
    def key_bits(self) -> int:
        """Bits of a stored key code."""
        return self.msb_bits + self.lsb_bits

    @property
    def key_shift(self) -> int:
        """Left shift that makes a stored key code the engine's msb * 16 + lsb."""
        return 4 - self.lsb_bits

    @property
    def prunes(self) -> bool:
        """Whether tokens or heads may be pruned before this node."""
        tokens = self.token_keep < MILLION or self.token_limit < LIMIT_NONE
        return tokens or self.head_keep < self.heads

    def tokens(self, total: int, length: int) -> int:
        """Return the tokens to keep of a list of `length`, in a pass over `total` tokens."""
        return min(length, self.token_limit, max(1, total * self.token_keep // MILLION))

    def values(self, n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the values that rows of `n` keys read."""
        part = np.maximum(1, n * self.value_keep // MILLION)
        return np.minimum(np.minimum(n, self.value_limit), part)


def program(node: Node) -> Program:
    """Return the program of an attention node on engine `attention`."""
    values = {name: attr(_ENTRY, node.attrs, name) for name in _ENTRY.attrs}
    if values["kv_heads"] is None:
        values["kv_heads"] = values["heads"]
    return Program(**values)


def is_pruned(nodes: tuple[Node, ...]) -> bool:
    """Return whether any of a network's nodes prunes tokens or heads."""
    return any(program(node).prunes for node in nodes if node.engine == "attention")


def factors(words: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return mult (bits 0..15) and shift (bits 16..21) of the tensors `softmax` and `output`."""
    wide = words.astype(np.int64)
    return wide & 0xFFFF, wide >> 16
