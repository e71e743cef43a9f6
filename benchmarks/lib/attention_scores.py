# SPDX-License-Identifier: Apache-2.0
"""Attention scores of trained networks, and keys made of them for a top-k engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from algos.models.registry import load_model

SCORE_BITS = 12
DISTANCE_BITS = 13


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of attention scores with equally many keys.

    Attributes
    ----------
    name : str
        Network and text.
    scores : float64[layers * heads, rows, n]
        Query times key over the root of the head size, of one query each that sees n keys.
    """

    name: str
    scores: NDArray[np.float64]


def capture(module: nn.Module, ids: Tensor) -> list[NDArray[np.float64]]:
    """Return the scores of every layer, float64 (B, heads, L, L) each, of one forward pass."""
    found: list[NDArray[np.float64]] = []
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention

    def listen(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        shared = query.shape[1] // key.shape[1]
        keys = key.double().repeat_interleave(shared, dim=1)
        scores = query.double() @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
        found.append(scores.numpy())
        return attend(query, key, value, **options)

    with mock.patch.object(F, "scaled_dot_product_attention", listen), torch.no_grad():
        module.eval()(ids)
    return found


def last_rows(layers: list[NDArray[np.float64]], n: int) -> NDArray[np.float64]:
    """Return the rows of the query that sees n keys: (layers * heads, B, n)."""
    rows = [layer[:, :, n - 1, :n].transpose(1, 0, 2) for layer in layers]
    return np.concatenate(rows)


def topics(n: int = 64, windows: int = 16) -> Rows:
    """Return rows of `topics-gpt`, trained here on bundled text, over text that it never saw."""
    model = load_model("topics-gpt")
    task: Any = model.task
    ids = torch.tensor(task.evaluation_ids[: windows * n].reshape(windows, n))
    return Rows("topics-gpt on pydoc_data.topics", last_rows(capture(model.module, ids), n))


def stories(data: Path, n: int) -> Rows:
    """Return rows of stories260K over the documents that have n tokens."""
    model = load_model("stories260k", data)
    task: Any = model.task
    ids = torch.tensor([document[:n] for document in task.documents if len(document) >= n])
    return Rows("stories260K on TinyStories", last_rows(capture(model.module, ids), n))


# -- keys: int64 (layers * heads, rows, n), and whether the largest is the best --------------------


def score_keys(rows: Rows) -> tuple[NDArray[np.int64], bool]:
    """Round scores to signed 12 bits, one scale per head as a datapath would have it."""
    largest = np.abs(rows.scores).max(axis=(1, 2), keepdims=True)
    top = (1 << (SCORE_BITS - 1)) - 1
    return np.rint(rows.scores / largest * top).astype(np.int64), True


def distance_keys(rows: Rows) -> tuple[NDArray[np.int64], bool]:
    """Code probabilities by their logarithm: log2(max p / p) in 5.8 bits, 8191 for what is less.

    Source: docs/engines/attention.md, section 1, where it is what the exponential is taken of.
    """
    below = (rows.scores.max(axis=2, keepdims=True) - rows.scores) / np.log(2)
    code = np.floor(below * 256 + 0.5)
    return np.minimum(code, (1 << DISTANCE_BITS) - 1).astype(np.int64), False


def probability_keys(rows: Rows) -> tuple[NDArray[np.int64], bool]:
    """Round probabilities to unsigned 12 bits."""
    weight = np.exp(rows.scores - rows.scores.max(axis=2, keepdims=True))
    top = (1 << SCORE_BITS) - 1
    return np.rint(weight / weight.sum(axis=2, keepdims=True) * top).astype(np.int64), True


def mass_lost(rows: Rows, keys: NDArray[np.int64], k: int, largest: bool) -> float:
    """Return the part of the exact k best's probability that the k best keys do not hold."""
    weight = np.exp(rows.scores - rows.scores.max(axis=2, keepdims=True))
    kept = np.argsort(-keys if largest else keys, axis=2, kind="stable")[:, :, :k]
    held = np.take_along_axis(weight, kept, axis=2).sum(axis=2)
    best = np.sort(weight, axis=2)[:, :, -k:].sum(axis=2)
    return float((1 - held / best).mean())
