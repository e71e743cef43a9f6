# SPDX-License-Identifier: Apache-2.0
"""Logits of float graphs and of packed networks, in the form that tasks evaluate."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from algos.lib.graph import FloatGraph, execute
from algos.reference.network import Reference
from cosil.packed.network import PackedNetwork

CALIBRATION_BATCH = 32


def float_logits(graph: FloatGraph) -> Callable[[Tensor], Tensor]:
    """Return the function from a batch of inputs to the float network's logits."""
    return lambda inputs: execute(graph, inputs)[0]


def packed_logits(network: PackedNetwork) -> Callable[[Tensor], Tensor]:
    """Return the function from a batch of inputs to the packed network's logits.

    The reference executes the network exactly; integer logits are multiplied by the real value of
    one code.
    """
    reference = Reference(network)
    name = network.outputs[0]
    scale = next(
        (float(node.attrs["scale"]) for node in network.nodes if node.name == name
         and "scale" in node.attrs), 1.0,
    )  # fmt: skip

    def logits(inputs: Tensor) -> Tensor:
        output = reference.run(inputs)[name]
        return output.float() if output.is_floating_point() else output.float() * scale

    return logits


def calibration_batches(samples: Tensor, size: int = CALIBRATION_BATCH) -> list[Tensor]:
    """Return the samples in batches."""
    return [samples[first : first + size] for first in range(0, len(samples), size)]
