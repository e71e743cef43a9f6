# SPDX-License-Identifier: Apache-2.0
"""Random and corner operands of the XNOR array, stream by stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_WIDE, Job, Operands
from cosil.packed import bits
from verif.lib.generate import fixed_point_columns

Bits = NDArray[np.uint8]

INT32_ENDS = (-(1 << 31), (1 << 31) - 1)


def weights(spec: XnorSpec, rng: np.random.Generator, job: Job) -> Bits:
    """Return weight bits uint8[n, planes, K]: a style for each output.

    Signs at random, all +1, all -1; with ternary weights also none but 0, few, or all but few.
    """
    signs = rng.integers(2, size=(job.n, job.k), dtype=np.uint8)
    style = rng.choice(["any", "any", "any", "plus", "minus"], job.n)
    signs[style == "plus"], signs[style == "minus"] = 1, 0
    if spec.weights == "binary":
        return signs[:, None]
    share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], (job.n, 1))
    nonzero = (rng.random((job.n, job.k)) < share).astype(np.uint8)
    return np.stack([signs & nonzero, nonzero], axis=1)


def activations(rng: np.random.Generator, job: Job, w: Bits) -> Bits:
    """Return activation bits uint8[M, K]: a style for each vector.

    At random, all +1, all -1, the signs of an output's weights, or their opposites.
    """
    x = rng.integers(2, size=(job.m, job.k), dtype=np.uint8)
    style = rng.choice(["any", "any", "plus", "minus", "matching", "opposite"], job.m)
    x[style == "plus"], x[style == "minus"] = 1, 0
    for flip, name in enumerate(("matching", "opposite")):
        rows = style == name
        x[rows] = w[rng.integers(job.n, size=int(rows.sum())), 0] ^ flip
    return x


def base(rng: np.random.Generator, job: Job, w: Bits) -> NDArray[np.uint16]:
    """Return base values uint16[classes, n]: a style for each class.

    Class 0 counts the non-zero weights; others add those of padded inputs, or are anything, or at
    the ends of what a base value may be.
    """
    signs, nonzero = w[:, 0].astype(np.int64), w[:, -1].astype(np.int64)
    if w.shape[1] == 1:
        nonzero = np.ones_like(signs)
    values = (2 * signs - 1) * nonzero
    rows = np.tile(nonzero.sum(axis=1), (job.classes, 1))
    for number in range(1, job.classes):
        style = rng.choice(["padded", "padded", "any", "least", "largest"])
        if style == "padded":
            rows[number] += values @ (rng.random(job.k) < rng.random())
        elif style == "any":
            rows[number] = rng.integers(2 * job.k, size=job.n, endpoint=True)
        else:
            rows[number] = 0 if style == "least" else 2 * job.k
    return rows.astype(np.uint16)


def sums(
    x: Bits, border: NDArray[np.uint8], w: Bits, rows: NDArray[np.uint16]
) -> NDArray[np.int64]:  # fmt: skip
    """Return s int64[M, n] (section 1)."""
    differ = (x[:, None] ^ w[None, :, 0]).astype(np.int64)
    if w.shape[1] == 2:
        differ &= w[None, :, 1]
    return rows[border].astype(np.int64) - 2 * differ.sum(axis=2)


def thresholds(
    spec: XnorSpec, rng: np.random.Generator, s: NDArray[np.int64]
) -> NDArray[np.uint64]:  # fmt: skip
    """Return columns uint64[n] of thresholds: ties and their neighbours, and ends of every width.

    s int64[M, n] are sums that the columns may meet. Multiplier and shift, which mean nothing, are
    anything.
    """
    m, n = s.shape
    near = s[rng.integers(m, size=n), np.arange(n)] + rng.integers(-1, 3, n)
    top = 1 << (spec.sum_bits - 1)
    ends = rng.choice([*INT32_ENDS, *INT32_ENDS, -top - 1, -top, top - 1, top, -2 * spec.max_inputs,
                       2 * spec.max_inputs, 2 * spec.max_inputs + 1], n)  # fmt: skip
    thr = np.where(rng.random(n) < 0.3, ends, near)
    anything = rng.integers(1 << 23, size=n, dtype=np.uint64)
    return (thr & 0xFFFFFFFF).astype(np.uint64) | anything << np.uint64(32)


def columns(
    spec: XnorSpec, rng: np.random.Generator, job: Job, s: NDArray[np.int64]
) -> NDArray[np.uint64]:  # fmt: skip
    """Return column parameters uint64[n] of a job whose sums are s int64[M, n]."""
    if spec.epilogue == "threshold":
        return thresholds(spec, rng, s)
    largest = 16 * max(1, int(abs(s).max()))
    return fixed_point_columns(rng, job.n, largest, wide=job.has(FLAG_WIDE), corners=True)


def packed_operands(
    x: Bits, border: NDArray[np.uint8], w: Bits, rows: NDArray[np.uint16], e: NDArray[np.uint64]
) -> Operands:
    """Return operands with bits packed in words."""
    return Operands(bits.pack(x), border, bits.pack(w), rows, e)
