# SPDX-License-Identifier: Apache-2.0
"""Logits of float graphs and of packed networks, in the form that tasks evaluate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from algos.lib.graph import FloatGraph, KVCache, execute
from algos.reference.network import Reference
from cosil.lowering.attention_program import is_pruned
from cosil.packed.network import PackedNetwork

CALIBRATION_BATCH = 32


def float_logits(graph: FloatGraph) -> Callable[[Tensor], Tensor]:
    """Return the function from a batch of inputs to the float network's logits."""
    return lambda inputs: execute(graph, inputs)[0]


def packed_logits(network: PackedNetwork) -> Callable[[Tensor], Tensor]:
    """Return the function from a batch of inputs to the packed network's logits.

    The reference executes the network exactly; integer logits are multiplied by the real value of
    one code. A network that prunes tokens or heads decodes its sequences: token by token, each
    seeing only those before it, and every token's query runs. Run whole, it would prune by what
    later tokens attend to.
    """
    reference = Reference(network)
    name = network.outputs[0]
    scale = next(
        (float(node.attrs["scale"]) for node in network.nodes if node.name == name
         and "scale" in node.attrs), 1.0,
    )  # fmt: skip

    decodes = is_pruned(network.nodes)

    def logits(inputs: Tensor) -> Tensor:
        if decodes:
            output = decode(reference, inputs)
        else:
            output = reference.run(inputs)[name]
        return output.float() if output.is_floating_point() else output.float() * scale

    return logits


def decode(
    reference: Reference, inputs: Tensor, after: Callable[[KVCache], None] | None = None
) -> Tensor:
    """Return the first output of sequences fed token by token, float16[B, L, ...].

    Parameters
    ----------
    reference : Reference
        A network of causal attention.
    inputs : int64[B, L]
        Token numbers.
    after : callable, optional
        Called with the cache after each token.
    """
    cache = KVCache()
    name = reference.network.outputs[0]
    parts: list[Tensor] = []
    for position in range(inputs.shape[1]):
        token = inputs[:, position : position + 1]
        parts.append(reference.run(token, cache=cache)[name])
        if after is not None:
            after(cache)
    return torch.cat(parts, dim=1)


def calibration_batches(samples: Tensor, size: int = CALIBRATION_BATCH) -> list[Tensor]:
    """Return the samples in batches."""
    return [samples[first : first + size] for first in range(0, len(samples), size)]
