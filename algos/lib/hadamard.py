# SPDX-License-Identifier: Apache-2.0
"""Orthogonal matrices for rotations: Hadamard matrices of many orders, and random ones.

Orders come from Paley's two constructions over prime fields and from Sylvester's doubling (Paley,
"On orthogonal matrices", 1933). That covers 1, 2 and the multiples of 4 such as 12, 20, 24, 28, 36,
44, 60, 108, 140, and each of them times a power of two.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RotationKind = Literal["hadamard", "orthogonal"]


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _jacobsthal(q: int) -> NDArray[np.float64]:
    """Return Q[i, j] = Legendre symbol of i - j modulo the prime q."""
    symbol = -np.ones(q)
    symbol[(np.arange(1, q) ** 2) % q] = 1.0
    symbol[0] = 0.0
    index = np.arange(q)
    return symbol[(index[:, None] - index[None, :]) % q]


def _paley(n: int) -> NDArray[np.float64] | None:
    """Return a Hadamard matrix of order n by Paley's constructions, or None."""
    q = n - 1
    if q % 4 == 3 and _is_prime(q):
        skew = np.zeros((n, n))
        skew[0, 1:], skew[1:, 0] = 1.0, -1.0
        skew[1:, 1:] = _jacobsthal(q)
        return skew + np.eye(n)
    q = n // 2 - 1
    if n % 4 == 0 and q % 4 == 1 and _is_prime(q):
        conference = np.zeros((q + 1, q + 1))
        conference[0, 1:] = conference[1:, 0] = 1.0
        conference[1:, 1:] = _jacobsthal(q)
        return np.kron(conference, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(
            np.eye(q + 1), [[1.0, -1.0], [-1.0, -1.0]]
        )
    return None


def hadamard(n: int) -> NDArray[np.float64] | None:
    """Return an n by n matrix of ±1 with orthogonal rows, or None where none is built here."""
    if n < 1:
        return None
    if n == 1:
        return np.ones((1, 1))
    if n & (n - 1):
        matrix = _paley(n)
        if matrix is not None:
            return matrix
    if n % 2:
        return None
    half = hadamard(n // 2)
    return None if half is None else np.block([[half, half], [half, -half]])


def random_rotation(n: int, kind: RotationKind, generator: np.random.Generator) -> Tensor:
    """Return a random orthogonal matrix, float64[n, n].

    Parameters
    ----------
    n : int
        Order.
    kind : {"hadamard", "orthogonal"}
        ``hadamard``: H diag(±1) / sqrt(n); an order that has no Hadamard matrix here gets
        ``orthogonal``. ``orthogonal``: Q of a QR decomposition of normal numbers, with the signs of
        R's diagonal, so that it is uniform (Haar).
    generator : numpy.random.Generator
        Source of the signs or numbers.
    """
    matrix = hadamard(n) if kind == "hadamard" else None
    if matrix is not None:
        signs = generator.integers(0, 2, n) * 2.0 - 1.0
        return torch.as_tensor(matrix * signs / np.sqrt(n))
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    return torch.as_tensor(q * np.sign(np.diagonal(r)))
