# SPDX-License-Identifier: Apache-2.0
"""Exact products of int16 matrices, and with int8 rows, at twice the rate of float32 BLAS.

A processor's multiply-add of int16 pairs (x86: vpmaddwd) does two products per 32-bit lane. No loop
in Python makes LLVM choose it, so the innermost tile is written in LLVM's vector operations, which
it compiles for any processor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from sim.lib.kernel import entry
from sim.lib.vectors import (
    BYTE,
    HALF,
    INDEX,
    WORD,
    arrays,
    ir,
    load,
    loop,
    prefetch,
    shape_of,
    spread,
)

_intrinsic: Any = intrinsic

TILE_ROWS, TILE_COLS = 4, 16
"""What one step of `multiply` computes: 8 vectors of sums, which stay in registers."""

DOTS = 8
"""Rows to a step of `dots`."""

CODES = 16
"""Codes that `dots` and `add_weighted` take at once: their rows are whole multiples."""

AHEAD = 16
"""Rows between the one that `add_weighted` asks the memory for and the one that it adds."""

_WIDE_CODES = 64  # of a row at once, their sums in 8 vectors
_LANES = 8  # int32 lanes of a vector
_BLOCK_PAIRS = 256  # of k: a panel's block, 16 KiB, stays in the first-level cache
_BLOCK_ROWS = 256  # a block of x, 256 KiB, stays in the second-level cache


@entry
def multiply(x: NDArray[np.int16], w: NDArray[np.int16], y: NDArray[np.int32]) -> None:
    """Set y to X.W^T; sums that leave int32 wrap.

    Parameters
    ----------
    x : int16[M, 2 * pairs], C-contiguous like the others
        M a multiple of TILE_ROWS.
    w : int16[panels, pairs, TILE_COLS, 2]
        W in panels of TILE_COLS rows: w[n // TILE_COLS, k // 2, n % TILE_COLS, k % 2] is W[n, k].
    y : int32[M, panels * TILE_COLS]
    """
    rows, panels, pairs = x.shape[0], w.shape[0], w.shape[1]
    for row in range(rows):
        for column in range(y.shape[1]):
            y[row, column] = 0
    for pair in range(0, pairs, _BLOCK_PAIRS):
        stop = min(pair + _BLOCK_PAIRS, pairs)
        for block in range(0, rows, _BLOCK_ROWS):
            for panel in range(panels):
                for row in range(block, min(block + _BLOCK_ROWS, rows), TILE_ROWS):
                    _add_tile(x, w, y, row, panel, pair, stop)


def _add_tile(
    x: NDArray[np.int16],
    w: NDArray[np.int16],
    y: NDArray[np.int32],
    row: int,
    panel: int,
    pair: int,
    stop: int,
) -> None:
    """Add the products of the pairs from `pair` up to `stop` to one tile of y."""
    left = x[row : row + TILE_ROWS, 2 * pair : 2 * stop].astype(np.int32)
    right = w[panel, pair:stop].swapaxes(1, 2).reshape(-1, TILE_COLS).astype(np.int32)
    column = panel * TILE_COLS
    y[row : row + TILE_ROWS, column : column + TILE_COLS] += left @ right


@overload(_add_tile)
def _compiled_add_tile(x: Any, w: Any, y: Any, row: Any, panel: Any, pair: Any, stop: Any) -> Any:
    del x, w, y, row, panel, pair, stop

    def add_tile(x: Any, w: Any, y: Any, row: Any, panel: Any, pair: Any, stop: Any) -> None:
        _vector_tile(x, w, y, row, panel, pair, stop)

    return add_tile


@_intrinsic
def _vector_tile(
    typing_context: Any, x: Any, w: Any, y: Any, row: Any, panel: Any, pair: Any, stop: Any
) -> Any:
    """`_add_tile` in LLVM's vector operations: a loop over pairs, its sums in registers."""
    del typing_context, row, panel, pair, stop
    return types.void(x, w, y, *[types.int64] * 4), _emit_tile


_SUMS, _HALVES = ir.VectorType(WORD, _LANES), ir.VectorType(HALF, 2 * _LANES)


def _emit_tile(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, w, y = arrays(context, builder, signature.args[:3], arguments[:3])
    row, panel, pair, stop = arguments[3:]

    def times(value: Any, factor: int) -> Any:
        return builder.mul(value, INDEX(factor))

    pairs = shape_of(builder, w)[1]
    x_stride = times(pairs, 2)
    w_panel = builder.gep(w.data, [times(builder.mul(panel, pairs), 2 * TILE_COLS)])
    y_stride = shape_of(builder, y)[1]
    x_row = builder.mul(row, x_stride)
    y_row = builder.add(builder.mul(row, y_stride), times(panel, TILE_COLS))
    x_rows: list[Any] = []
    places: list[Any] = []
    for _ in range(TILE_ROWS):
        x_rows.append(builder.gep(x.data, [x_row]))
        x_row = builder.add(x_row, x_stride)
        for column in range(0, TILE_COLS, _LANES):
            place = builder.gep(y.data, [builder.add(y_row, INDEX(column))])
            places.append(builder.bitcast(place, _SUMS.as_pointer()))
        y_row = builder.add(y_row, y_stride)

    def add_pair(k: Any, sums: list[Any]) -> list[Any]:
        at = times(k, 2 * TILE_COLS)
        columns = [
            load(builder, w_panel, builder.add(at, INDEX(2 * first)), _HALVES, 2)
            for first in range(0, TILE_COLS, _LANES)
        ]
        after: list[Any] = []
        for x_codes in x_rows:
            both = spread(builder, load(builder, x_codes, times(k, 2), WORD, 2), _LANES)
            lanes = builder.bitcast(both, _HALVES)
            for column in columns:
                after.append(builder.add(sums[len(after)], _pair_products(builder, lanes, column)))
        return after

    before = [builder.load(place, align=4) for place in places]
    after = loop(builder, pair, stop, 1, before, add_pair)
    for place, value in zip(places, after, strict=True):
        builder.store(value, place, align=4)
    return context.get_dummy_value()


def _pair_products(builder: Any, a: Any, b: Any) -> Any:
    """Return a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1] per lane i, in the form that LLVM recognises."""
    wide = ir.VectorType(WORD, 2 * _LANES)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide), flags=["nsw"])
    even = builder.shuffle_vector(products, products, _SUMS(list(range(0, 2 * _LANES, 2))))
    odd = builder.shuffle_vector(products, products, _SUMS(list(range(1, 2 * _LANES, 2))))
    return builder.add(even, odd)


# -- rows of int8 codes that lie apart -------------------------------------------------------------


def dots(
    x: NDArray[np.int16],
    rows: NDArray[np.int8],
    address: NDArray[np.int64],
    y: NDArray[np.int32],
    first: int,
) -> None:
    """Set y[first..first + DOTS - 1] to x . rows[address[...]], all of which lie within `rows`.

    For kernels; arrays are C-contiguous, x.size a multiple of CODES.
    """
    chosen = rows[address[first : first + DOTS]].astype(np.int32)
    y[first : first + DOTS] = chosen @ x.astype(np.int32)


def add_weighted(
    weight: NDArray[np.int32],
    rows: NDArray[np.int8],
    address: NDArray[np.int64],
    count: int,
    y: NDArray[np.int32],
) -> None:
    """Add to y the sum of weight[j] rows[address[j]], j below `count`; see `dots`.

    `address` has AHEAD more entries, of any value: a row is fetched into the caches so many rows
    before it is added. What is asked for longer ahead, or all at once, the processor drops. Rows
    should begin with a line of the caches.
    """
    y += weight[:count] @ rows[address[:count]].astype(np.int32)


@overload(dots)
def _compiled_dots(x: Any, rows: Any, address: Any, y: Any, first: Any) -> Any:
    del x, rows, address, y, first

    def compiled(x: Any, rows: Any, address: Any, y: Any, first: Any) -> None:
        _vector_dots(x, rows, address, y, first)

    return compiled


@overload(add_weighted)
def _compiled_add_weighted(weight: Any, rows: Any, address: Any, count: Any, y: Any) -> Any:
    del weight, rows, address, count, y

    def compiled(weight: Any, rows: Any, address: Any, count: Any, y: Any) -> None:
        if count == 0:
            return
        wide = y.size // _WIDE_CODES * _WIDE_CODES
        for column in range(0, wide, _WIDE_CODES):
            _add_wide(weight, rows, address, count, y, column)
        for column in range(wide, y.size, CODES):
            _add_narrow(weight, rows, address, count, y, column)

    return compiled


@_intrinsic
def _vector_dots(typing_context: Any, x: Any, rows: Any, address: Any, y: Any, first: Any) -> Any:
    del typing_context, first
    return types.void(x, rows, address, y, types.int64), _emit_dots


def _weighted_adder(codes: int) -> Any:
    """Return `add_weighted` of so many codes from a column on, in LLVM's vector operations."""

    def typed(
        typing_context: Any,
        weight: Any,
        rows: Any,
        address: Any,
        count: Any,
        y: Any,
        column: Any,
    ) -> Any:
        del typing_context, count, column
        signature = types.void(weight, rows, address, types.int64, y, types.int64)
        return signature, partial(_emit_add_weighted, codes)

    return _intrinsic(typed)


def _emit_dots(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, rows, address, y = arrays(context, builder, signature.args[:4], arguments[:4])
    first = arguments[4]
    size = shape_of(builder, x)[0]
    starts: list[Any] = []
    for row in range(DOTS):
        number = builder.load(builder.gep(address.data, [builder.add(first, INDEX(row))]))
        starts.append(builder.gep(rows.data, [builder.mul(number, size)]))

    def add_codes(d: Any, sums: list[Any]) -> list[Any]:
        factors = load(builder, x.data, d, _HALVES, 2)
        after: list[Any] = []
        for sum_, start in zip(sums, starts, strict=True):
            codes = load(builder, start, d, ir.VectorType(BYTE, CODES), 1)
            products = _pair_products(builder, factors, builder.sext(codes, _HALVES))
            after.append(builder.add(sum_, products))
        return after

    after = loop(builder, INDEX(0), size, CODES, [_SUMS(None)] * DOTS, add_codes)
    # Sums of each four rows in one vector, a part of them in each half.
    while len(after) > 2:
        after = [_fold(builder, *after[pair : pair + 2]) for pair in range(0, len(after), 2)]
    low, high = (
        builder.shuffle_vector(*after, _SUMS([half + lane for lane in (0, 1, 2, 3, 8, 9, 10, 11)]))
        for half in (0, 4)
    )
    place = builder.bitcast(builder.gep(y.data, [first]), _SUMS.as_pointer())
    builder.store(builder.add(low, high), place, align=4)
    return context.get_dummy_value()


def _fold(builder: Any, a: Any, b: Any) -> Any:
    """Return sums of neighbours, in each half of the vectors first those of a, then of b."""
    lanes = [0, 2, 8, 10, 4, 6, 12, 14]
    even = builder.shuffle_vector(a, b, _SUMS(lanes))
    odd = builder.shuffle_vector(a, b, _SUMS([lane + 1 for lane in lanes]))
    return builder.add(even, odd)


def _emit_add_weighted(
    width: int, context: Any, builder: Any, signature: Any, arguments: Any
) -> Any:
    kinds, count, column = signature.args, arguments[3], arguments[5]
    chosen = (0, 1, 2, 4)
    weight, rows, address, y = arrays(
        context, builder, [kinds[n] for n in chosen], [arguments[n] for n in chosen]
    )
    size = shape_of(builder, y)[0]
    base = builder.gep(rows.data, [column])
    halves = [builder.add(column, INDEX(offset)) for offset in range(0, width, _LANES)]
    places = [builder.bitcast(builder.gep(y.data, [half]), _SUMS.as_pointer()) for half in halves]

    def row(j: Any) -> Any:
        return builder.gep(base, [builder.mul(builder.load(builder.gep(address.data, [j])), size)])

    def add_row(j: Any, sums: list[Any]) -> list[Any]:
        prefetch(builder, row(builder.add(j, INDEX(AHEAD))))
        start = row(j)
        factors = spread(builder, builder.load(builder.gep(weight.data, [j])), _LANES)
        after: list[Any] = []
        for half, sum_ in enumerate(sums):
            codes = load(builder, start, INDEX(half * _LANES), ir.VectorType(BYTE, _LANES), 1)
            after.append(builder.add(sum_, builder.mul(factors, builder.sext(codes, _SUMS))))
        return after

    before = [builder.load(place, align=4) for place in places]
    after = loop(builder, INDEX(0), count, 1, before, add_row)
    for place, value in zip(places, after, strict=True):
        builder.store(value, place, align=4)
    return context.get_dummy_value()


_add_narrow, _add_wide = _weighted_adder(CODES), _weighted_adder(_WIDE_CODES)
