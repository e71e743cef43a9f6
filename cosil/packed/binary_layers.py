# SPDX-License-Identifier: Apache-2.0
"""Binary layers as other tools store them: weights to codec `binary`, thresholds to columns.

========================  =========  ==================================================
tool                      bit 1 is   output is +1 where
========================  =========  ==================================================
BNN-PYNQ, finn-hlslib     +1         threshold < matches, strictly
FINN, qonnx               +1         threshold <= sum (or matches)
Larq Compute Engine       -1         mismatches <= threshold
========================  =========  ==================================================

The engine compares s = matches - mismatches, s >= threshold, so each is one exact integer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.packed import binary, bits, raw
from cosil.packed.tensor import PackedTensor

NEVER_BELOW = -(2**31)
"""Threshold of an output that is constant: no s is below it."""

FLIP = 1 << 54


class BinaryLayer(NamedTuple):
    """Tensors of a node on engine `xnor`, mode `threshold`.

    Attributes
    ----------
    weight : PackedTensor
        Codec `binary`, shape (N, K), K in the order (c, kh, kw).
    columns : PackedTensor
        raw uint64[N].
    """

    weight: PackedTensor
    columns: PackedTensor


def threshold_words(
    threshold: NDArray[np.integer[Any]], flip: NDArray[np.bool_] | None = None
) -> NDArray[np.uint64]:
    """Return column parameters: bit = (s >= threshold) xor flip.

    Parameters
    ----------
    threshold : int[n]
        In the range of int32.
    flip : bool[n], optional
        None: all false.

    Returns
    -------
    uint64[n]
        Threshold in bits 0..31, flip in bit 54.
    """
    wide = np.asarray(threshold, dtype=np.int64)
    if wide.size and not -(2**31) <= int(wide.min()) <= int(wide.max()) < 2**31:
        raise ValueError("xnor: thresholds must be in -2^31..2^31-1; clamp them to -K..K+1")
    words = wide.astype(np.int32).view(np.uint32).astype(np.uint64)
    return words if flip is None else words | flip.astype(np.uint64) * np.uint64(FLIP)


def from_bnn_pynq(
    weights: NDArray[np.uint64],
    thresholds: NDArray[np.uint64],
    *,
    n: int,
    k: int,
    simd: int,
    kernel: tuple[int, int] = (1, 1),
) -> BinaryLayer:
    """Read a layer of binary weights and activations from the files of BNN-PYNQ.

    Parameters
    ----------
    weights : uint64[PE, NF * SF]
        Row p is the file `<layer>-<p>-weights.bin`: word nf * SF + sf holds synapses sf * simd ..
        of neuron nf * PE + p, LSB first, 1 for +1. Padding synapses are 1.
    thresholds : uint64[PE, NF]
        Row p is `<layer>-<p>-thres.bin`: numbers in two's complement, compared with the matches.
    n, k : int
        Neurons and synapses without padding.
    simd : int
        Bits in use of a word, 1..64.
    kernel : (int, int)
        Of a convolution, whose synapses lie in the order (kh, kw, c).

    Returns
    -------
    BinaryLayer
        The strict comparison is kept: a tie of matches and threshold gives -1.

    Raises
    ------
    ValueError
        If the sizes disagree.

    References
    ----------
    Xilinx/BNN-PYNQ, bnn/src/training/finnthesizer.py and bnn/src/library/hls.
    """
    if not 1 <= simd <= bits.BITS_PER_WORD:
        raise ValueError(f"bnn-pynq: simd must be in 1..64, not {simd!r}")
    lanes, folds = thresholds.shape
    synapse_folds = weights.shape[1] // folds
    if weights.shape != (lanes, folds * synapse_folds) or not (
        0 < n <= lanes * folds and 0 < k <= synapse_folds * simd
    ):
        raise ValueError(
            f"bnn-pynq: {n} x {k} weights must fit PE = {lanes}, {folds} thresholds each and "
            f"SIMD = {simd}, not words of shape {weights.shape}"
        )
    ones = bits.unpack(weights.reshape(lanes, folds, synapse_folds, 1), simd)
    neurons = ones.transpose(1, 0, 2, 3).reshape(lanes * folds, -1)[:n, :k]
    codes = _channels_first(neurons.astype(np.int8) * np.int8(2) - np.int8(1), kernel)
    # Matches are (s + k) / 2; more than T is s >= 2 (T + 1) - k.
    least = 2 * (thresholds.view(np.int64).T.reshape(-1)[:n] + 1) - k
    return _layer(codes, least, "one_is_plus")


def from_larq(
    filters: NDArray[np.int32], thresholds: NDArray[np.int32], *, channels: int
) -> BinaryLayer:
    """Read a convolution of Larq Compute Engine that writes bits.

    Parameters
    ----------
    filters : int32[N, kh, kw, ceil(channels / 32)]
        LSB first, 1 for -1.
    thresholds : int32[N]
        The output bit, 1 for -1, is set where the mismatches exceed it.
    channels : int
        Input channels.

    Returns
    -------
    BinaryLayer

    Raises
    ------
    ValueError
        If the sizes disagree.

    References
    ----------
    larq/compute-engine, larq_compute_engine/core/bitpacking and mlir/transforms/optimize.cc.
    """
    n, kh, kw, words = filters.shape
    if words != -(-channels // 32) or thresholds.shape != (n,):
        raise ValueError(
            f"larq: {channels} channels need filters [N, kh, kw, {-(-channels // 32)}] and N "
            f"thresholds, not {filters.shape} and {thresholds.shape}"
        )
    octets = np.ascontiguousarray(filters, dtype="<i4").view(np.uint8)
    minus = np.unpackbits(octets, axis=-1, count=channels, bitorder="little").reshape(n, -1)
    codes = _channels_first(np.int8(1) - minus.astype(np.int8) * np.int8(2), (kh, kw))
    # Mismatches are (k - s) / 2; at most T is s >= k - 2 T.
    return _layer(codes, codes.shape[1] - 2 * thresholds.astype(np.int64), "one_is_minus")


def larq_thresholds(
    multiplier: NDArray[np.float32],
    bias: NDArray[np.float32],
    k: int,
    clamp: tuple[float, float] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the thresholds that Larq's converter computes, and whose filters it negates.

    Parameters
    ----------
    multiplier, bias : float32[N]
        y = clamp(s) * multiplier + bias; the bit, 1 for -1, stands for y < 0.
    k : int
        Inputs of an output.
    clamp : (float, float), optional
        Of the activation before; None: -k, k.

    Returns
    -------
    thresholds : int32[N]
        floor((bias / abs(multiplier) + k) / 2), the quotient and the sum rounded to float32 as the
        converter does; the largest or least int32 where y has one sign.
    negated : bool[N]
        Where the multiplier is negative.
    """
    low, high = (-float(k), float(k)) if clamp is None else clamp
    negated = multiplier < 0
    scale = np.abs(multiplier)
    ends = [np.where(negated, -b, a).astype(np.float32) * scale + bias
            for a, b in ((low, high), (high, low))]  # fmt: skip
    limits = np.iinfo(np.int32)
    below = (ends[0] < 0) & (ends[1] < 0)
    above = (ends[0] >= 0) & (ends[1] >= 0)
    safe = np.where(scale > 0, scale, np.float32(1))
    with np.errstate(over="ignore"):
        found = np.floor(0.5 * (bias / safe + np.float32(k)).astype(np.float64))
    found = np.where(below, limits.min, np.where(above, limits.max, found))
    return found.clip(limits.min, limits.max).astype(np.int32), negated


def finn_thresholds(
    thresholds: NDArray[np.floating[Any]], k: int, *, matches: bool = False
) -> NDArray[np.uint64]:
    """Return column parameters for FINN's MultiThreshold of one step: +1 where T <= x.

    Parameters
    ----------
    thresholds : float[N]
        Finite.
    k : int
        Inputs of an output.
    matches : bool
        x counts matches (XnorPopcountMatMul), else it is the sum s.
    """
    exact = np.asarray(thresholds, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("finn: thresholds must be finite")
    least = np.ceil(exact).clip(-k, k + 1).astype(np.int64)
    return threshold_words((2 * least - k).clip(-k, k + 1) if matches else least)


def _layer(codes: NDArray[np.int8], least: NDArray[np.int64], polarity: Any) -> BinaryLayer:
    k = codes.shape[1]
    columns = threshold_words(least.clip(-k, k + 1))
    return BinaryLayer(binary.encode(codes, polarity=polarity), raw.encode(columns))


def _channels_first(codes: NDArray[np.int8], kernel: tuple[int, int]) -> NDArray[np.int8]:
    """Return [N, K] in the order (c, kh, kw) of [N, K] in the order (kh, kw, c)."""
    n, k = codes.shape
    if k % (kernel[0] * kernel[1]):
        raise ValueError(f"K = {k} must be a multiple of the kernel {kernel}")
    images = codes.reshape(n, *kernel, -1).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images).reshape(n, k)
