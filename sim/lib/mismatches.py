# SPDX-License-Identifier: Apache-2.0
"""Products of packed signs: in how many of their bits rows of activations and of weights differ.

A loop in Python over words of a row counts one word at a time. Here a vector holds the same eight
inputs of `COLUMNS` outputs, a byte each; XOR and the count of ones go over all of them, and the
sums of `ROWS` rows stay in registers until a byte may be full.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from sim.lib.kernel import entry
from sim.lib.vectors import BYTE, HALF, INDEX, WORD, arrays, ir, load, loop, ones, shape_of, spread

_intrinsic: Any = intrinsic
_cgutils: Any = cgutils

ROWS, COLUMNS = 4, 64
"""What one step computes: activations and outputs."""

_FULL = 31
"""Bytes of ones that a byte can count: 31 * 8 <= 255."""

_BLOCK_BYTES = 8 * _FULL  # of a panel at once: 16 KiB a plane stay in the first-level cache
_BLOCK_ROWS = 64


def panels(w: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Lay out weights for `count`.

    Parameters
    ----------
    w : uint64[N, planes, words]
        Sign bits and, with two planes, non-zero bits.

    Returns
    -------
    uint8[ceil(N / COLUMNS), 8 * words, planes, COLUMNS]
        Byte b of output n is at [n // COLUMNS, b, :, n % COLUMNS]; outputs past N are 0.
    """
    outputs, planes, words = w.shape
    octets = np.ascontiguousarray(w, dtype="<u8").view(np.uint8)
    found = np.zeros((-(-outputs // COLUMNS), COLUMNS, planes, 8 * words), dtype=np.uint8)
    found.reshape(-1, planes, 8 * words)[:outputs] = octets
    return np.ascontiguousarray(found.transpose(0, 3, 2, 1))


def octets_of(x: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Lay out activations, uint64[M, words], for `count`: uint8[whole steps of ROWS, 8 * words]."""
    octets = np.ascontiguousarray(x, dtype="<u8").view(np.uint8)
    if rest := -octets.shape[0] % ROWS:
        octets = np.pad(octets, ((0, rest), (0, 0)))
    return octets


@entry
def count(x: NDArray[np.uint8], w: NDArray[np.uint8], y: NDArray[np.int16]) -> None:
    """Set y to the number of bits in which each row of x differs from each output's weight.

    Parameters
    ----------
    x : uint8[M, bytes], C-contiguous like the others
        Of `octets_of`: M a multiple of ROWS.
    w : uint8[panels, bytes, planes, COLUMNS]
        Of `panels`. With two planes only bits that are set in the second count.
    y : int16[M, panels * COLUMNS]
    """
    for block in range(0, x.shape[0], _BLOCK_ROWS):
        rows = min(block + _BLOCK_ROWS, x.shape[0])
        for row in range(block, rows):
            for column in range(y.shape[1]):
                y[row, column] = 0
        for panel in range(w.shape[0]):
            for part in range(0, x.shape[1], _BLOCK_BYTES):
                end = min(part + _BLOCK_BYTES, x.shape[1])
                for row in range(block, rows, ROWS):
                    for first in range(part, end, _FULL):
                        _add_tile(x, w, y, row, panel, first, min(first + _FULL, end))


def _add_tile(
    x: NDArray[np.uint8],
    w: NDArray[np.uint8],
    y: NDArray[np.int16],
    row: int,
    panel: int,
    first: int,
    stop: int,
) -> None:
    """Add to one tile of y what differs in the bytes from `first` up to `stop`, at most 31."""
    differ = x[row : row + ROWS, first:stop, None] ^ w[panel, first:stop, 0]
    if w.shape[2] == 2:
        differ &= w[panel, first:stop, 1]
    column = panel * COLUMNS
    y[row : row + ROWS, column : column + COLUMNS] += np.bitwise_count(differ).sum(
        axis=1, dtype=np.int16
    )


@overload(_add_tile)
def _compiled_add_tile(x: Any, w: Any, y: Any, row: Any, panel: Any, first: Any, stop: Any) -> Any:
    del x, w, y, row, panel, first, stop

    def add_tile(x: Any, w: Any, y: Any, row: Any, panel: Any, first: Any, stop: Any) -> None:
        if w.shape[2] == 1:
            _add_binary(x, w, y, row, panel, first, stop)
        else:
            _add_ternary(x, w, y, row, panel, first, stop)

    return add_tile


def _adder(planes: int) -> Any:
    """Return `_add_tile` for so many planes, in LLVM's vector operations."""

    def typed(
        typing_context: Any,
        x: Any,
        w: Any,
        y: Any,
        row: Any,
        panel: Any,
        first: Any,
        stop: Any,
    ) -> Any:
        del typing_context, row, panel, first, stop
        return types.void(x, w, y, *[types.int64] * 4), partial(_emit_tile, planes)

    return _intrinsic(typed)


_add_binary, _add_ternary = _adder(1), _adder(2)

_OCTETS, _SUMS = ir.VectorType(BYTE, COLUMNS), ir.VectorType(HALF, COLUMNS)


def _emit_tile(planes: int, context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, w, y = arrays(context, builder, signature.args[:3], arguments[:3])
    row, panel, first, stop = arguments[3:]
    size, width = shape_of(builder, x)[1], shape_of(builder, y)[1]
    numbers = [builder.add(row, INDEX(i)) for i in range(ROWS)]
    rows = [builder.gep(x.data, [builder.mul(number, size)]) for number in numbers]
    stride = INDEX(planes * COLUMNS)
    weights_at = builder.mul(builder.mul(panel, size), stride)

    difference = _look_up if planes == 1 and _looks_up(context) else _count_ones

    def add_byte(at: Any, sums: list[Any]) -> list[Any]:
        place = builder.add(weights_at, builder.mul(at, stride))
        bits = [
            load(builder, w.data, builder.add(place, INDEX(plane * COLUMNS)), _OCTETS, 1)
            for plane in range(planes)
        ]
        octets = [builder.load(builder.gep(codes, [at])) for codes in rows]
        found = difference(builder, bits, octets)
        return [builder.add(*pair) for pair in zip(sums, found, strict=True)]

    sums = loop(builder, first, stop, 1, [_OCTETS([0] * COLUMNS)] * ROWS, add_byte)
    column = builder.mul(panel, INDEX(COLUMNS))
    for number, sum_ in zip(numbers, sums, strict=True):
        place = builder.gep(y.data, [builder.add(builder.mul(number, width), column)])
        place = builder.bitcast(place, _SUMS.as_pointer())
        total = builder.add(builder.load(place, align=2), builder.zext(sum_, _SUMS))
        builder.store(total, place, align=2)
    return context.get_dummy_value()


def _count_ones(builder: Any, bits: list[Any], octets: list[Any]) -> list[Any]:
    """Return the ones in what differs between weights and each row's octet."""
    found: list[Any] = []
    for octet in octets:
        differ = builder.xor(spread(builder, octet, COLUMNS), bits[0])
        for nonzero in bits[1:]:
            differ = builder.and_(differ, nonzero)
        found.append(ones(builder, differ))
    return found


def _looks_up(context: Any) -> bool:
    """Whether bytes are looked up (AVX2) and not their ones counted (AVX-512 BITALG) at once."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx2" in features and "+avx512bitalg" not in features


_LOW, _ENTRIES, _LANES = 4, 16, 32
"""Bits of half an octet; entries of a table, and bytes of a vector of indices into it."""

_TABLES = np.bitwise_count(
    (np.arange(256)[:, None, None] >> np.array([0, _LOW])[:, None] & 15) ^ np.arange(_ENTRIES)
).astype(np.uint8)
"""uint8[256, 2, 16]: in how many bits a half of an octet differs from each that there is."""


def _look_up(builder: Any, bits: list[Any], octets: list[Any]) -> list[Any]:
    """Return what `_count_ones` does, for binary weights.

    Where there is no instruction for it, counting ones is a look-up of halves too, but after the
    XOR: they are split for each row. Here those of weights are, once, and index a row's table.
    """
    indices, entries = ir.VectorType(BYTE, _LANES), ir.VectorType(BYTE, _ENTRIES)
    kind = ir.FunctionType(indices, [indices, indices])
    shuffle = _cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pshuf.b")
    constant = ir.Constant(ir.ArrayType(BYTE, _TABLES.size), bytearray(_TABLES.tobytes()))
    tables = _cgutils.global_constant(builder, "differences", constant)
    tables = builder.bitcast(tables, BYTE.as_pointer())
    low = builder.and_(bits[0], _OCTETS([15] * COLUMNS))
    high = builder.lshr(bits[0], _OCTETS([_LOW] * COLUMNS))
    parts = range(0, COLUMNS, _LANES)
    found: list[Any] = []
    for octet in octets:
        at = builder.mul(builder.zext(octet, INDEX), INDEX(2 * _ENTRIES))
        sums = [indices([0] * _LANES) for _ in parts]
        for half in (low, high):
            row = load(builder, tables, at, entries, 1)
            table = _chosen(builder, [row, row], [*range(_ENTRIES)] * 2)
            for number, first in enumerate(parts):
                index = _chosen(builder, [half, half], [*range(first, first + _LANES)])
                ones_ = builder.call(shuffle, [table, index])
                sums[number] = builder.add(sums[number], ones_)
            at = builder.add(at, INDEX(_ENTRIES))
        found.append(_chosen(builder, sums, [*range(COLUMNS)]))
    return found


def _chosen(builder: Any, pair: list[Any], lanes: list[int]) -> Any:
    """Return a vector of some lanes of two."""
    return builder.shuffle_vector(*pair, ir.VectorType(WORD, len(lanes))(lanes))
