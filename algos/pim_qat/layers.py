# SPDX-License-Identifier: Apache-2.0
"""A layer in training whose sums an array converts."""

from __future__ import annotations

from dataclasses import dataclass

from algos.lib.qat.layers import Trained
from algos.pim_qat.array import Array


@dataclass(slots=True, eq=False)
class ArrayLayer(Trained):
    """A linear or convolution layer.

    Attributes
    ----------
    array : Array or None
        What converts its sums, shared by copies; None is exact (digital).
    eta : float
        Factor of the array's output in the forward pass.
    """

    array: Array | None = None
    eta: float = 1.0
