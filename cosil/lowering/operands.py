# SPDX-License-Identifier: Apache-2.0
"""Checks that the operands of every engine's job share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_arrays(
    engine: str, operands: object, expected: Mapping[str, tuple[type[Any], tuple[int, ...]]]
) -> None:
    """Check dtype and shape of the operands that are named.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If it has the wrong shape.
    """
    for name, (dtype, shape) in expected.items():
        array: NDArray[Any] = getattr(operands, name)
        if array.dtype != dtype:
            raise TypeError(f"{engine}: {name} must be {np.dtype(dtype)}, not {array.dtype}")
        if array.shape != shape:
            raise ValueError(f"{engine}: {name} must have the shape {shape}, not {array.shape}")
