# SPDX-License-Identifier: Apache-2.0
"""What a named network is for: its calibration data, its evaluation data and its metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.data.images import Images
from algos.lib.metrics import negative_log_likelihood, top1

LogitsFn = Callable[[Tensor], Tensor]
"""From a batch of inputs to logits (B, classes) or (B, L, classes)."""

_IGNORED = -1


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Results on evaluation data; an item is an image, or one predicted token.

    Attributes
    ----------
    metric : str
        ``accuracy`` (a fraction) or ``perplexity``.
    nll : float64[items]
        Negative log-likelihood of the target, in nats.
    correct : bool[items]
        Whether the largest logit is the target's.
    group : int64[items]
        Number of the image, window or document: the unit that a bootstrap draws.
    logits : float32[items, classes]
        Logits.
    """

    metric: Literal["accuracy", "perplexity"]
    nll: NDArray[np.float64]
    correct: NDArray[np.bool_]
    group: NDArray[np.int64]
    logits: NDArray[np.float32]

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood in nats."""
        return float(self.nll.mean())

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-likelihood."""
        return math.exp(self.mean_nll)

    @property
    def accuracy(self) -> float:
        """Fraction of items whose largest logit is the target's."""
        return float(self.correct.mean())

    @property
    def value(self) -> float:
        """The metric's value."""
        return self.accuracy if self.metric == "accuracy" else self.perplexity


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs, and per predicted item the target; -1 marks what is not predicted."""

    inputs: Tensor
    targets: Tensor
    groups: Tensor


class Task(ABC):
    """Data and metric of a network.

    Attributes
    ----------
    metric : str
        ``accuracy`` or ``perplexity``.
    calibration_source, evaluation_source : str
        What the data are, for provenance.
    """

    metric: Literal["accuracy", "perplexity"]
    calibration_source: str
    evaluation_source: str

    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs to export with: the longest sequence where there is one."""

    @abstractmethod
    def calibration(self, seed: int, n: int) -> Tensor:
        """Return `n` calibration samples, the same for the same seed, never evaluation data."""

    @abstractmethod
    def batches(self, limit: int | None) -> Iterator[Batch]:
        """Yield evaluation data; `limit` samples spread over all of it, or all."""

    def evaluate(
        self,
        logits_fn: LogitsFn,
        limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Run a network on the evaluation data.

        Parameters
        ----------
        logits_fn : callable
            From a batch of inputs to logits.
        limit : int, optional
            Number of images, windows or documents, spread evenly over the data; all by default.
        progress : callable, optional
            Told after each batch how many batches are done, of how many.

        Returns
        -------
        Evaluation
            In the order of the data, whatever the batches are.
        """
        batches = list(self.batches(limit))
        nll: list[Tensor] = []
        correct: list[Tensor] = []
        group: list[Tensor] = []
        logits: list[Tensor] = []
        for done, batch in enumerate(batches, start=1):
            with torch.no_grad():
                out = logits_fn(batch.inputs).float()
            if out.shape[:-1] != batch.targets.shape:
                raise ValueError(
                    f"logits must have shape {tuple(batch.targets.shape)} and classes, "
                    f"not {tuple(out.shape)!r}"
                )
            keep = batch.targets != _IGNORED
            chosen, targets = out[keep], batch.targets[keep]
            nll.append(negative_log_likelihood(chosen, targets))
            correct.append(top1(chosen, targets))
            group.append(batch.groups[keep])
            logits.append(chosen)
            if progress is not None:
                progress(done, len(batches))
        return Evaluation(
            self.metric,
            torch.cat(nll).numpy(),
            torch.cat(correct).numpy() > 0,
            torch.cat(group).numpy(),
            torch.cat(logits).numpy(),
        )


def _spread(count: int, limit: int | None) -> NDArray[np.int64]:
    if limit is None or limit >= count:
        return np.arange(count)
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit!r}")
    return np.arange(limit) * count // limit


class ImageTask(Task):
    """Classification.

    Parameters
    ----------
    calibration_images, evaluation_images : Images
        Disjoint.
    mean, std : tuple of float
        Per channel; pixels become (brightness / full - mean) / std.
    full : float
        Brightness that becomes 1.
    sources : tuple of str
        Names of the two sets.
    batch : int
        Images per batch of an evaluation.
    """

    metric = "accuracy"

    def __init__(
        self,
        calibration_images: Images,
        evaluation_images: Images,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        full: float = 255.0,
        sources: tuple[str, str] = ("images", "images"),
        batch: int = 128,
    ) -> None:
        self.calibration_images, self.evaluation_images = calibration_images, evaluation_images
        self.calibration_source, self.evaluation_source = sources
        self._mean = torch.tensor(mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(std).reshape(1, -1, 1, 1)
        self._full, self._batch = full, batch

    def inputs(self, images: Images) -> Tensor:
        """Return the network's input for images, float32 (N, C, H, W)."""
        pixels = torch.tensor(images.pixels).float()
        return (pixels / self._full - self._mean) / self._std

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return two calibration images."""
        return (self.inputs(self.calibration_images.take(np.arange(2))),)

    def calibration(self, seed: int, n: int) -> Tensor:
        """Return `n` calibration images, drawn without repetition."""
        pool = self.calibration_images
        if not 1 <= n <= len(pool):
            raise ValueError(f"n must be in 1..{len(pool)} calibration images, not {n!r}")
        chosen = np.random.default_rng(seed).permutation(len(pool))[:n]
        return self.inputs(pool.take(chosen))

    def batches(self, limit: int | None) -> Iterator[Batch]:
        """Yield the evaluation images in order."""
        chosen = _spread(len(self.evaluation_images), limit)
        for first in range(0, len(chosen), self._batch):
            index = chosen[first : first + self._batch]
            part = self.evaluation_images.take(index)
            yield Batch(self.inputs(part), torch.tensor(part.labels), torch.tensor(index))


class WindowTask(Task):
    """Prediction of the next character in windows as long as the context, side by side.

    Parameters
    ----------
    train_ids, evaluation_ids : int64[...]
        Two parts of a text.
    context : int
        Length of a window.
    sources : tuple of str
        Names of the two parts.
    batch : int
        Windows per batch of an evaluation.
    """

    metric = "perplexity"

    def __init__(
        self,
        train_ids: NDArray[np.int64],
        evaluation_ids: NDArray[np.int64],
        context: int,
        sources: tuple[str, str],
        batch: int = 32,
    ) -> None:
        self.train_ids, self.evaluation_ids = train_ids, evaluation_ids
        self.calibration_source, self.evaluation_source = sources
        self.context, self._batch = context, batch

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return two windows of the calibration text."""
        return (torch.tensor(self.train_ids[: 2 * self.context].reshape(2, self.context)),)

    def calibration(self, seed: int, n: int) -> Tensor:
        """Return `n` windows of the calibration text at random places, int64 (n, context)."""
        starts = np.random.default_rng(seed).integers(0, len(self.train_ids) - self.context, n)
        return torch.tensor(self.train_ids[starts[:, None] + np.arange(self.context)])

    def batches(self, limit: int | None) -> Iterator[Batch]:
        """Yield the windows of the evaluation text in order."""
        count = (len(self.evaluation_ids) - 1) // self.context
        chosen = _spread(count, limit)
        for first in range(0, len(chosen), self._batch):
            index = chosen[first : first + self._batch]
            at = index[:, None] * self.context + np.arange(self.context)
            groups = torch.tensor(index)[:, None].expand(-1, self.context)
            yield Batch(
                torch.tensor(self.evaluation_ids[at]),
                torch.tensor(self.evaluation_ids[at + 1]),
                groups,
            )


class DocumentTask(Task):
    """Prediction of every token of whole documents after their begin mark.

    Parameters
    ----------
    documents : list of list of int
        Token numbers, begin mark first.
    context : int
        Longest sequence.
    sample : callable
        From (seed, n) to `n` calibration sequences, int64 (n, L).
    sources : tuple of str
        Names of the calibration and evaluation data.
    batch : int
        Documents per batch of an evaluation.
    """

    metric = "perplexity"

    def __init__(
        self,
        documents: list[list[int]],
        context: int,
        sample: Callable[[int, int], Tensor],
        sources: tuple[str, str],
        batch: int = 8,
    ) -> None:
        longest = max(map(len, documents))
        if longest > context + 1:
            raise ValueError(f"a document has {longest} tokens, at most {context + 1} are possible")
        self.documents, self.context = documents, context
        self.calibration_source, self.evaluation_source = sources
        self._sample, self._batch = sample, batch

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return two sequences as long as the context."""
        return (torch.arange(2 * self.context).reshape(2, -1) % 3,)

    def calibration(self, seed: int, n: int) -> Tensor:
        """Return `n` sequences that the network itself wrote, int64 (n, L)."""
        return self._sample(seed, n)

    def batches(self, limit: int | None) -> Iterator[Batch]:
        """Yield the documents in order; shorter ones are padded behind, where nothing looks."""
        chosen = _spread(len(self.documents), limit)
        for first in range(0, len(chosen), self._batch):
            index = chosen[first : first + self._batch]
            parts = [self.documents[int(i)] for i in index]
            length = max(map(len, parts)) - 1
            inputs = torch.zeros(len(parts), length, dtype=torch.int64)
            targets = torch.full((len(parts), length), _IGNORED)
            for row, ids in enumerate(parts):
                inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
            yield Batch(inputs, targets, torch.tensor(index)[:, None].expand(-1, length))
