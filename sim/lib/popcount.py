# SPDX-License-Identifier: Apache-2.0
"""Ones of words, for kernels: one word, or the common ones of columns of words, four at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from sim.lib.vectors import INDEX, WORD, arrays, ir, load, ones, spread

_intrinsic: Any = intrinsic

Counts = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

LANES = 4
"""Columns to a step of `common_ones`."""


def popcount(word: np.uint64) -> np.uint64:
    """Return the number of ones."""
    return np.uint64(np.bitwise_count(word))


def common_ones(
    x0: NDArray[np.uint64], x1: NDArray[np.uint64], w0: np.uint64, w1: np.uint64, lane: np.uint64
) -> Counts:
    """Return the ones of (x0[i] & w0) and (x1[i] & w1) together for i = lane .. lane + 3.

    The four are counted in one vector, and each is then an index: a loop in Python over the same
    would be made one over vectors of indices too, which LLVM takes apart again. Arrays are
    C-contiguous and reach up to lane + 3.
    """
    first = int(lane)
    counts = [popcount(x0[i] & w0) + popcount(x1[i] & w1) for i in range(first, first + LANES)]
    return counts[0], counts[1], counts[2], counts[3]


@overload(popcount)
def _compiled_popcount(word: Any) -> Any:
    del word

    def compiled(word: Any) -> Any:
        return _popcount(word)

    return compiled


@overload(common_ones)
def _compiled_common_ones(x0: Any, x1: Any, w0: Any, w1: Any, lane: Any) -> Any:
    del x0, x1, w0, w1, lane

    def compiled(x0: Any, x1: Any, w0: Any, w1: Any, lane: Any) -> Any:
        return _common_ones(x0, x1, w0, w1, lane)

    return compiled


@_intrinsic
def _popcount(typing_context: Any, word: Any) -> Any:
    del typing_context, word
    return types.uint64(types.uint64), _emit_popcount


@_intrinsic
def _common_ones(typing_context: Any, x0: Any, x1: Any, w0: Any, w1: Any, lane: Any) -> Any:
    del typing_context, w0, w1, lane
    words = [types.uint64] * 3
    return types.UniTuple(types.uint64, LANES)(x0, x1, *words), _emit_common_ones


def _emit_popcount(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    del context, signature
    return builder.ctpop(arguments[0])


def _emit_common_ones(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = ir.VectorType(INDEX, LANES)
    total = kind([0] * LANES)
    columns = arrays(context, builder, signature.args[:2], arguments[:2])
    for array, word in zip(columns, arguments[2:4], strict=True):
        column = load(builder, array.data, arguments[4], kind, 8)
        common = builder.and_(column, spread(builder, word, LANES))
        total = builder.add(total, ones(builder, common))
    counts = [builder.extract_element(total, WORD(i)) for i in range(LANES)]
    return context.make_tuple(builder, signature.return_type, counts)
