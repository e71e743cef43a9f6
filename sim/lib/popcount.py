# SPDX-License-Identifier: Apache-2.0
"""Ones of a word, and a word that stays in a scalar register, for kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir as llvm_ir  # pyright: ignore[reportMissingTypeStubs]
from numba import types
from numba.extending import intrinsic, overload

_intrinsic: Any = intrinsic
ir: Any = llvm_ir  # these have no types


def popcount(word: np.uint64) -> np.uint64:
    """Return the number of ones."""
    return np.uint64(np.bitwise_count(word))


def scalar(word: np.uint64) -> np.uint64:
    """Return the word; a loop that calls this is not made one over vectors.

    A loop whose body looks a table up gains nothing by vectors: LLVM takes their lanes apart again.
    """
    return word


@overload(popcount)
def _compiled_popcount(word: Any) -> Any:
    del word

    def compiled(word: Any) -> Any:
        return _popcount(word)

    return compiled


@overload(scalar)
def _compiled_scalar(word: Any) -> Any:
    del word

    def compiled(word: Any) -> Any:
        return _scalar(word)

    return compiled


@_intrinsic
def _popcount(typing_context: Any, word: Any) -> Any:
    del typing_context, word
    return types.uint64(types.uint64), _emit_popcount


@_intrinsic
def _scalar(typing_context: Any, word: Any) -> Any:
    del typing_context, word
    return types.uint64(types.uint64), _emit_scalar


def _emit_popcount(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    del context, signature
    return builder.ctpop(arguments[0])


def _emit_scalar(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    del context, signature
    word = ir.IntType(64)
    # No instruction, but LLVM cannot look into it.
    return builder.asm(ir.FunctionType(word, [word]), "", "=r,0", arguments, False)
