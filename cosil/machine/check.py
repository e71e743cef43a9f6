# SPDX-License-Identifier: Apache-2.0
"""Every layer of a machine's run against the PyTorch reference, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed.network import PackedNetwork

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of a comparison.

    Attributes
    ----------
    layers : int
        Nodes that were compared.
    elements : int
        Values that were compared.
    differences : tuple of str
        One line for each node that differs, in order; the first is where to look.
    """

    layers: int
    elements: int
    differences: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every bit of every node is equal, and at least one was compared."""
        return self.layers > 0 and self.elements > 0 and not self.differences


def check(
    network: PackedNetwork,
    inputs: Mapping[str, NDArray[Any]],
    values: Mapping[str, NDArray[Any]],
) -> Check:
    """Run the reference and compare the output of every node with the machine's.

    Parameters
    ----------
    values : mapping of str to ndarray
        What the machine's run observed, by node.

    Returns
    -------
    Check
    """
    from algos.reference.network import execute  # torch: only when a check is asked for

    elements: list[int] = []
    differences: list[str] = []
    nodes = {node.name: node.op for node in network.nodes}

    def observe(name: str, tensor: Tensor) -> None:
        if name in nodes:
            expected = tensor.contiguous().numpy()
            elements.append(expected.size)
            differences.extend(_difference(f"{name} ({nodes[name]})", expected, values.get(name)))

    execute(network, inputs, observe=observe)
    if len(elements) != len(nodes):
        differences.append(f"the reference ran {len(elements)} of {len(nodes)} nodes")
    return Check(len(elements), sum(elements), tuple(differences))


def _difference(name: str, expected: NDArray[Any], actual: NDArray[Any] | None) -> list[str]:
    if actual is None:
        return [f"{name}: the machine gave no output"]
    if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
        found = f"{actual.dtype}{list(actual.shape)}"
        return [f"{name}: {found} instead of {expected.dtype}{list(expected.shape)}"]
    differ = _bits(expected) != _bits(actual)
    count = int(differ.sum())
    if not count:
        return []
    at = tuple(int(i[0]) for i in np.nonzero(differ))
    where = f"{count} of {differ.size} values differ, first at {list(at)}"
    return [f"{name}: {where}: {actual[at]!s} instead of {expected[at]!s}"]


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
