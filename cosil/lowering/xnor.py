# SPDX-License-Identifier: Apache-2.0
"""Jobs of the XNOR array: descriptor and contents (docs/engines/xnor.md, sections 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import POOL_MAX, XnorSpec

FLAG_WEIGHTS = 1
FLAG_BASE = 2
FLAG_COLUMNS = 4
FLAG_RELU = 8
FLAG_WIDE = 16

COLUMN_BITS = 55
"""Bits in use of a word of column parameters."""


@dataclass(frozen=True, slots=True)
class Job:
    """The 8-word descriptor (docs/engines/xnor.md, section 4); field order is word order."""

    m: int
    k: int
    n: int
    pool: int = 1
    classes: int = 1
    flags: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the descriptor, uint32[8]."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([*values, 0, 0], dtype=np.uint32)

    def has(self, flag: int) -> bool:
        """Return whether a flag is set."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """What a job computes with, whether it loads it or finds it in the array (the flags say).

    Attributes
    ----------
    x : uint64[M, ceil(K / 64)]
        Activation bits, 1 for +1: element k is bit k % 64 of word k // 64; bits past K are 0. The
        vectors of a pool window lie one after the other.
    border : uint8[M]
        Class of each vector, 0..classes - 1: the row of `base` that it takes.
    w : uint64[n, 1 or 2, ceil(K / 64)]
        Sign bits packed like x, 1 for +1; where the array has ternary weights then non-zero bits,
        and sign bits of weights 0 are 0.
    base : uint16[classes, n]
        0..2 K.
    e : uint64[n]
        Column parameters: threshold or bias int32 in bits 0..31, mult 32..47, shift 48..53,
        flip or negate 54.
    """

    x: NDArray[np.uint64]
    border: NDArray[np.uint8]
    w: NDArray[np.uint64]
    base: NDArray[np.uint16]
    e: NDArray[np.uint64]


def check_job(spec: XnorSpec, job: Job, operands: Operands) -> None:
    """Refuse a job that the array cannot run, or operands that are not what it says.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If a field of the job is out of range, an array has the wrong shape, or a value in it is
        impossible.
    """
    limits = (("m", job.m, 2**32 - 1), ("k", job.k, spec.max_inputs),
              ("n", job.n, spec.max_outputs),
              ("pool", job.pool, POOL_MAX if spec.epilogue == "threshold" else 1),
              ("classes", job.classes, spec.border_classes),
              ("flags", job.flags, 2 * FLAG_WIDE - 1))  # fmt: skip
    for name, value, high in limits:
        low = 0 if name == "flags" else 1
        if not low <= value <= high:
            raise ValueError(f"xnor: {name} of a job must be in {low}..{high}, not {value!r}")
    if job.m % job.pool:
        raise ValueError(f"xnor: m of a job must be a multiple of pool = {job.pool}, not {job.m}")
    words = -(-job.k // 64)
    shapes = {
        "x": (np.uint64, (job.m, words)),
        "border": (np.uint8, (job.m,)),
        "w": (np.uint64, (job.n, spec.weight_planes, words)),
        "base": (np.uint16, (job.classes, job.n)),
        "e": (np.uint64, (job.n,)),
    }
    for name, (dtype, shape) in shapes.items():
        array: NDArray[Any] = getattr(operands, name)
        if array.dtype != dtype:
            raise TypeError(f"xnor: {name} must be {np.dtype(dtype)}, not {array.dtype}")
        if array.shape != shape:
            raise ValueError(f"xnor: {name} must have the shape {shape}, not {array.shape}")
    _check_contents(spec, job, operands)


def _check_contents(spec: XnorSpec, job: Job, operands: Operands) -> None:
    if tail := job.k % 64:
        for name in ("x", "w"):
            if (getattr(operands, name)[..., -1] >> np.uint64(tail)).any():
                raise ValueError(f"xnor: bits of {name} at or above K = {job.k} must be 0")
    if spec.weights == "ternary" and (operands.w[:, 0] & ~operands.w[:, 1]).any():
        raise ValueError("xnor: the sign bit of a weight 0 must be 0")
    for name, low, high in (
        ("border", 0, job.classes - 1),
        ("base", 0, 2 * job.k),
        ("e", 0, (1 << COLUMN_BITS) - 1),
    ):
        largest = int(getattr(operands, name).max())
        if largest > high:
            raise ValueError(f"xnor: {name} must be in {low}..{high}, not {largest}")
