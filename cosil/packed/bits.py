# SPDX-License-Identifier: Apache-2.0
"""Bits in 64-bit words: element k is bit k % 64 of word k // 64, LSB first; the rest is 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS_PER_WORD = 64


def words_of(size: int) -> int:
    """Return the words that hold so many bits."""
    return -(-size // BITS_PER_WORD)


def pack(ones: NDArray[Any]) -> NDArray[np.uint64]:
    """Pack the last axis.

    Parameters
    ----------
    ones : bool[..., K] or int[..., K]
        Every value but 0 gives a 1; K at least 1.

    Returns
    -------
    uint64[..., ceil(K / 64)]
    """
    octets = np.packbits(ones, axis=-1, bitorder="little")
    size = 8 * words_of(ones.shape[-1])
    padded = np.zeros((*octets.shape[:-1], size), dtype=np.uint8)
    padded[..., : octets.shape[-1]] = octets
    return padded.view("<u8").astype(np.uint64, copy=False)


def unpack(words: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
    """Return the first `size` bits of each row of words, uint8[..., size]."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=size, bitorder="little")


def mask(size: int, words: int) -> NDArray[np.uint64]:
    """Return so many words whose `size` low bits in all are set."""
    starts = range(0, BITS_PER_WORD * words, BITS_PER_WORD)
    counts = [min(max(size - start, 0), BITS_PER_WORD) for start in starts]
    return np.array([(1 << count) - 1 for count in counts], dtype=np.uint64)
