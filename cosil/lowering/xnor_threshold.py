# SPDX-License-Identifier: Apache-2.0
"""A batch norm and the sign after it as one integer comparison, exactly.

    y(s) = gamma (alpha s + bias - mean) / sqrt(var + eps) + beta          s an integer in -K..K

has the sign of p s + q + beta sqrt(v) with p = gamma alpha, q = gamma (bias - mean) and
v = var + eps. The parameters are binary fractions, so that p, q, beta and v are rational; a square
root is compared with an integer through its integer part. Nothing is rounded.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosil.packed.binary_layers import NEVER_BELOW, threshold_words


def fold_batch_norm(
    gamma: ArrayLike,
    beta: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    *,
    k: int,
    eps: float = 1e-5,
    alpha: ArrayLike = 1.0,
    bias: ArrayLike = 0.0,
    strict: bool = False,
) -> NDArray[np.uint64]:
    """Return the column parameters of a layer of mode `threshold`.

    Parameters
    ----------
    gamma, beta, mean, var : float[n]
        Of the batch norm; float32 or float64, taken as the exact numbers that they are.
    k : int
        Inputs of an output: s is in -k..k.
    eps : float
        Added to the variance, exactly.
    alpha, bias : float or float[n]
        Scale of the weights, and bias, before the batch norm.
    strict : bool
        The bit is y > 0 instead of y >= 0: BNN-PYNQ's convention.

    Returns
    -------
    uint64[n]
        Threshold int32 in bits 0..31, flip in bit 54: bit = (s >= threshold) xor flip. With
        gamma alpha > 0 the threshold is the least s whose bit is 1; < 0: the least s whose bit
        is 0, and flip; clamped to -k..k + 1. 0: -2**31, and flip where the bit is always 0.

    Raises
    ------
    ValueError
        If a parameter is not finite, a variance plus eps is not positive, or shapes disagree.
    """
    names = ("gamma", "beta", "mean", "var", "alpha", "bias")
    given = [np.asarray(values, dtype=np.float64) for values in
             (gamma, beta, mean, var, alpha, bias)]  # fmt: skip
    shape = np.shape(given[0])
    if len(shape) != 1:
        raise ValueError(f"xnor: gamma must have one axis, not shape {shape}")
    for name, values in zip(names, given, strict=True):
        if values.shape not in ((), shape):
            raise ValueError(f"xnor: {name} must have the shape {shape}, not {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"xnor: {name} must be finite")
    channels = zip(*(np.broadcast_to(values, shape).tolist() for values in given), strict=True)
    folded = [
        _fold(*map(Fraction, channel), k=k, eps=Fraction(eps), strict=strict)
        for channel in channels
    ]
    return threshold_words(
        np.array([threshold for threshold, _ in folded], dtype=np.int64),
        np.array([flip for _, flip in folded], dtype=np.bool_),
    )


def _fold(
    gamma: Fraction,
    beta: Fraction,
    mean: Fraction,
    var: Fraction,
    alpha: Fraction,
    bias: Fraction,
    *,
    k: int,
    eps: Fraction,
    strict: bool,
) -> tuple[int, bool]:
    """Return threshold and flip of one channel."""
    v = var + eps
    if v <= 0:
        raise ValueError(f"xnor: a variance plus eps must be positive, not {float(v)!r}")
    p, q = gamma * alpha, gamma * (bias - mean)
    flip = p < 0
    if flip:
        # The least s with y < 0 is the least one with -y > 0.
        p, q, beta, strict = -p, -q, -beta, not strict
    if not p:
        return NEVER_BELOW, not _holds(q, beta, v, strict=strict)
    return min(max(_least(p, q, beta, v, strict=strict), -k), k + 1), flip


def _least(p: Fraction, q: Fraction, r: Fraction, v: Fraction, *, strict: bool) -> int:
    """Return the least integer s with p s + q + r sqrt(v) >= 0, or > 0 where strict, p > 0."""
    # All times a positive integer: p and q become integers, r sqrt(v) the root of one.
    scale = math.lcm(p.denominator, q.denominator)
    square = r * r * v * scale * scale
    scale *= square.denominator
    bound = _bound(-r, square.numerator * square.denominator, strict=strict)
    return -((int(q * scale) - bound) // int(p * scale))


def _holds(q: Fraction, r: Fraction, v: Fraction, *, strict: bool) -> bool:
    """Return whether q + r sqrt(v) >= 0, or > 0 where strict."""
    return _least(Fraction(1), q, r, v, strict=strict) <= 0


def _bound(sign: Fraction, square: int, *, strict: bool) -> int:
    """Return the least integer that is >= the root of `square` with a sign, or > where strict."""
    floor = math.isqrt(square)
    ceiling = floor + (floor * floor < square)
    low, high = (floor, ceiling) if sign > 0 else (-ceiling, -floor)
    return low + 1 if strict else high
