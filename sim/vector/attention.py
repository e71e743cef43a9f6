# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with rotary embedding and key-value cache, the work of the unit `vector.dot`.

Products and sums are float32 in tree order, the exponential is a table of integers, the sum of
exponentials is an exact integer, and probabilities and outputs are rounded to float16 once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.lib.float16 import f16_to_f32, f32_to_f16

Array = NDArray[Any]
Half = NDArray[np.float16]

LOG2_E = np.float32(1.4426950408889634)
U_MAX = 32767


@dataclass(slots=True, eq=False)
class KVCache:
    """Keys (after rotation) and values of the positions that earlier runs of a network saw.

    Attributes
    ----------
    length : int
        Positions held.
    held : dict of str to (array[B, kv_heads, length, d], array[B, kv_heads, length, d])
        Keys and values per attention node; codes where it runs on an engine.
    cascade : object or None
        State of pruned attention after those runs, `cosil.machine.attention.Cascade`.
    """

    length: int = 0
    cascade: object | None = None
    held: dict[str, tuple[Array, Array]] = field(default_factory=dict[str, tuple[Array, Array]])
    _new: dict[str, tuple[Array, Array]] = field(default_factory=dict[str, tuple[Array, Array]])

    def extend(self, name: str, key: Array, value: Array) -> tuple[Array, Array]:
        """Return all keys and values of node `name`, those of this run last."""
        if name in self.held:
            keys, values = self.held[name]
            key = np.concatenate((keys, key), axis=2)
            value = np.concatenate((values, value), axis=2)
        self._new[name] = (key, value)
        return key, value

    def commit(self, positions: int, cascade: object | None = None) -> None:
        """Keep what this run added: a run that fails half-way leaves the cache as it was."""
        self.cascade = cascade
        self.held.update(self._new)
        self._new.clear()
        self.length += positions


def rotate(x: Half, cos: NDArray[np.float32], sin: NDArray[np.float32], style: str) -> Half:
    """Apply a rotary embedding to float16[..., L, d] with tables float32[L, d / 2].

    A pair (a, b) is elements (2i, 2i + 1) (``interleaved``) or (i, i + d / 2) (``half``). It
    becomes f16(f32(a cos) - f32(b sin)), f16(f32(a sin) + f32(b cos)).
    """
    heads = np.ascontiguousarray(x).view(np.uint16).reshape(-1, x.shape[-2], x.shape[-1])
    out = np.empty_like(heads)
    tables = (np.ascontiguousarray(cos), np.ascontiguousarray(sin))
    _rotate(heads, tables, style == "interleaved", out)
    return out.view(np.float16).reshape(x.shape)


def attend(
    query: Half,
    key: Half,
    value: Half,
    exp: NDArray[np.uint16],
    scale: float,
    *,
    causal: bool,
) -> Half | None:
    """Return softmax(scale * Q.K^T).V, or None if a score is not finite.

    Parameters
    ----------
    query : float16[B, H, Lq, d]
    key, value : float16[B, Hkv, Lk, d]
        Head h reads kv head h // (H / Hkv).
    exp : uint16[1025]
        Table RNE(2**15 * 2**(-i / 1024)).
    scale : float
        Factor of the scores, rounded to float32.
    causal : bool
        Query i sees keys 0 .. Lk - Lq + i.

    Returns
    -------
    float16[B, Lq, H, d] or None
    """
    batch, heads, length, dim = query.shape
    out = np.empty((batch, length, heads, dim), dtype=np.uint16)
    wide = (
        np.ascontiguousarray(query, dtype=np.float32),
        np.ascontiguousarray(key.transpose(0, 1, 3, 2), dtype=np.float32),
        np.ascontiguousarray(value, dtype=np.float32),
    )
    finite = _attend(wide, np.ascontiguousarray(exp), np.float32(scale), causal, out)
    return out.view(np.float16) if finite else None


@njit(cache=True)
def _rotate(
    x: NDArray[np.uint16],
    tables: tuple[NDArray[np.float32], NDArray[np.float32]],
    interleaved: bool,
    out: NDArray[np.uint16],
) -> None:
    """Modify `out` in place."""
    cos, sin = tables
    heads, length, dim = x.shape
    for head in range(heads):
        for position in range(length):
            for pair in range(dim // 2):
                first = 2 * pair if interleaved else pair
                second = first + 1 if interleaved else pair + dim // 2
                a = f16_to_f32(x[head, position, first])
                b = f16_to_f32(x[head, position, second])
                c, s = cos[position, pair], sin[position, pair]
                out[head, position, first] = f32_to_f16(a * c - b * s)
                out[head, position, second] = f32_to_f16(a * s + b * c)


@njit(cache=True)
def tree_rows(work: NDArray[np.float32], n: int, width: int) -> None:
    """Leave the tree sum of work[:n, :width] in work[0, :width]; see `tree_sum`."""
    half = 1
    while half < n:
        half *= 2
    while half > 1:
        half //= 2
        for row in range(n - half):
            for i in range(width):
                work[row, i] += work[row + half, i]
        n = min(n, half)
    for i in range(width):
        work[0, i] += np.float32(0)


@njit(cache=True, error_model="numpy")
def _attend(
    operands: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    exp: NDArray[np.uint16],
    scale: np.float32,
    causal: bool,
    out: NDArray[np.uint16],
) -> bool:
    """Modify `out` in place; return False at a score that is not finite."""
    query, key, value = operands
    batch, heads, length, dim = query.shape
    total = key.shape[3]
    shared = heads // key.shape[1]
    products = np.empty((dim, total), dtype=np.float32)
    weighted = np.empty((total, dim), dtype=np.float32)
    weights = np.empty(total, dtype=np.int64)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                seen = total - length + i + 1 if causal else total
                for c in range(dim):
                    for j in range(seen):
                        products[c, j] = query[b, h, i, c] * key[b, h // shared, c, j]
                tree_rows(products, dim, seen)
                scores = products[0, :seen]
                scores *= scale
                if not _exponentials(scores, exp, weights):
                    return False
                denominator = np.float32(weights[:seen].sum())
                for j in range(seen):
                    quotient = np.float32(weights[j]) / denominator
                    probability = f16_to_f32(f32_to_f16(quotient))
                    for c in range(dim):
                        weighted[j, c] = probability * value[b, h // shared, j, c]
                tree_rows(weighted, seen, dim)
                for c in range(dim):
                    out[b, i, h, c] = f32_to_f16(weighted[0, c])
    return True


@njit(cache=True)
def _exponentials(
    scores: NDArray[np.float32], exp: NDArray[np.uint16], weights: NDArray[np.int64]
) -> bool:
    """Put 2**15 * e**(score - max) into `weights`, modified in place; False if not finite."""
    largest = scores[0]
    for j in range(scores.size):
        if not np.isfinite(scores[j]):
            return False
        largest = max(largest, scores[j])
    for j in range(scores.size):
        octaves = (largest - scores[j]) * LOG2_E * np.float32(1024)
        u = U_MAX if octaves >= np.float32(U_MAX) else np.int64(np.rint(octaves))
        weights[j] = np.int64(exp[u & 1023]) >> (u >> 10)
    return True
