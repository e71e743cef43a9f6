# SPDX-License-Identifier: Apache-2.0
"""One tensor as a memory holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class PackedTensor:
    """A logical tensor and its memory words.

    Attributes
    ----------
    codec : str
        ``int4``, ``int8``, ``bitplane``, ``binary``, ``ternary`` or ``raw``.
    version : int
        Version of the codec's layout.
    shape : tuple of int
        Logical shape, e.g. (N, K) of a weight.
    words : ndarray
        int4, int8: uint32[N, words per row], LSB first, padding decodes to zero. bitplane:
        uint64[N, planes, groups, words of a group]. binary: uint64[N, words per row]; ternary:
        uint64[N, 2, words per row]. raw: the array.
    params : mapping
        int4: ``encoding`` ("twos" or "offset"), ``group_size`` (0 = one scale per channel).
        bitplane: ``encoding`` ("twos" or "differential"), ``bits``, ``rows`` of a group. binary:
        ``polarity`` ("one_is_plus" or "one_is_minus").
    scales : mapping of str to ndarray
        ``channel``: float32[N]; ``group``: float16[G, N], G = ceil(K / group_size).
    """

    codec: str
    version: int
    shape: tuple[int, ...]
    words: NDArray[Any]
    params: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    scales: Mapping[str, NDArray[np.floating[Any]]] = field(
        default_factory=dict[str, NDArray[np.floating[Any]]]
    )
