# SPDX-License-Identifier: Apache-2.0
"""LLVM's vector operations, for the innermost loops that no loop in Python makes LLVM choose.

What is emitted is of no processor in particular: LLVM takes the instructions that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir as llvm_ir  # pyright: ignore[reportMissingTypeStubs]
from numba.core import cgutils
from numba.core.errors import TypingError

ir: Any = llvm_ir  # these have no types
_cgutils: Any = cgutils

INDEX, WORD, HALF, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.IntType(8)


def arrays(context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
    """Return the arrays' structures; all of them have to be C-contiguous."""
    if any(kind.layout != "C" for kind in kinds):
        raise TypingError("vectors: the arrays must be C-contiguous")
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(kinds, values, strict=True)
    ]


def shape_of(builder: Any, array: Any) -> Any:
    """Return an array structure's dimensions."""
    return _cgutils.unpack_tuple(builder, array.shape)


def load(builder: Any, base: Any, offset: Any, kind: Any, align: int) -> Any:
    """Return the value of a type that lies so many elements behind a pointer."""
    place = builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())
    return builder.load(place, align=align)


def prefetch(builder: Any, place: Any) -> None:
    """Fetch the line of a pointer, of any value, into the caches, sometime."""
    pointer = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, WORD, WORD, WORD])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    # To read, of highest locality, data.
    builder.call(function, [builder.bitcast(place, pointer), WORD(0), WORD(3), WORD(1)])


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector with the value in every lane."""
    kind = ir.VectorType(value.type, lanes)
    lane = builder.insert_element(kind(ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(lane, lane, ir.VectorType(WORD, lanes)([0] * lanes))


def ones(builder: Any, vector: Any) -> Any:
    """Return the number of ones in each lane; llvmlite names the intrinsic for scalars only."""
    kind = vector.type
    name = f"llvm.ctpop.v{kind.count}i{kind.element.width}"
    function = _cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
    return builder.call(function, [vector])


def loop(
    builder: Any,
    first: Any,
    stop: Any,
    step: int,
    before: list[Any],
    body: Callable[[Any, list[Any]], list[Any]],
) -> list[Any]:
    """Emit a loop from `first` while below `stop`, at least once; return the values after it.

    `body` gets the index and the values, `before` at first, and returns the next values.
    """
    entered = builder.block
    block, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(block)
    builder.position_at_end(block)
    index = builder.phi(INDEX)
    values = [builder.phi(value.type) for value in before]
    after = body(index, values)
    following = builder.add(index, INDEX(step))
    phis = (index, *values)
    for phi, start, last in zip(phis, (first, *before), (following, *after), strict=True):
        phi.add_incoming(start, entered)
        phi.add_incoming(last, block)
    builder.cbranch(builder.icmp_signed("<", following, stop), block, done)
    builder.position_at_end(done)
    return after
