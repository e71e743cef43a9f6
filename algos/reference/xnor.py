# SPDX-License-Identifier: Apache-2.0
"""The XNOR array's result, bit by bit, in torch.

Written from docs/engines/xnor.md, section 1, and from nothing else: sums are plain matrix products
of -1, 0 and +1, where the simulator and the hardware count mismatching bits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.reference.pim import NEGATE, rescale
from algos.reference.w4a8 import EXACT_FLOAT32, tensor_of
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_RELU, FLAG_WIDE, Job, Operands, check_job


def reference(spec: XnorSpec, job: Job, operands: Operands) -> Tensor:
    """Return the result of one job.

    Parameters
    ----------
    spec : XnorSpec
        The array; its folding has no influence on the result.
    job : Job
        Descriptor.
    operands : Operands
        What the array holds in the job.

    Returns
    -------
    int8[m / pool, n] or int16[m, n]
        ``threshold``: the bits, 0 or 1. ``fixed``: int16 where the job is `wide`.

    Raises
    ------
    ValueError, TypeError
        If the array cannot run the job (`cosil.lowering.xnor.check_job`).
    """
    check_job(spec, job, operands)
    x = 2 * _bits(operands.x, job.k) - 1
    signs = 2 * _bits(operands.w[:, 0], job.k) - 1
    nonzero = torch.ones_like(signs)
    if spec.weights == "ternary":
        nonzero = _bits(operands.w[:, 1], job.k)
    base = tensor_of(operands.base.astype(np.int64))
    # An input that mismatches adds -1 to the product and 0 to mm, one that matches +1 and 0.
    product = exact_matmul(x, signs * nonzero)
    twice_mismatches = nonzero.sum(dim=1).long() - product
    s = base[tensor_of(operands.border.astype(np.int64))] - twice_mismatches
    if spec.epilogue == "fixed":
        return rescale(s, operands.e, relu=job.has(FLAG_RELU), wide=job.has(FLAG_WIDE))
    ones = compare(s, operands.e).reshape(-1, job.pool, job.n)
    return ones.any(dim=1).to(torch.int8)


def exact_matmul(x: Tensor, w: Tensor) -> Tensor:
    """Return x w^T, int64[M, N], of float32[M, K] and float32[N, K] of -1, 0 and +1."""
    assert x.shape[1] <= EXACT_FLOAT32  # the largest sum, in whatever order BLAS adds
    return (x @ w.t()).long()


def compare(s: Tensor, columns: NDArray[np.uint64]) -> Tensor:
    """Return (s >= threshold) xor flip, bool[..., n], of integers [..., n].

    Parameters
    ----------
    columns : uint64[n]
        Threshold int32 in bits 0..31, flip in bit 54.
    """
    threshold = tensor_of(columns.astype(np.uint32).view(np.int32).astype(np.int64))
    return (s >= threshold) ^ tensor_of((columns & NEGATE) != 0)


def _bits(words: NDArray[np.uint64], k: int) -> Tensor:
    """Return float32[N, k] of words uint64[N, words]: bit k is bit k % 64 of word k // 64."""
    ones = (words[..., None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    return tensor_of(ones.reshape(words.shape[0], -1)[:, :k].astype(np.float32))
