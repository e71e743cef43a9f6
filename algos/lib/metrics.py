# SPDX-License-Identifier: Apache-2.0
"""What a compressed network is judged by: likelihood, divergence of logits, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 10_000


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(logits)[target] in nats, float64[...], for logits float[..., classes]."""
    logs = torch.log_softmax(logits.double(), dim=-1)
    return -logs.gather(-1, targets.long()[..., None])[..., 0]


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax(reference) || softmax(logits)) in nats, float64[...]."""
    p = torch.log_softmax(reference.double(), dim=-1)
    q = torch.log_softmax(logits.double(), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def top1(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where the first of the largest logits is the target's, else 0, float64[...]."""
    return (logits.argmax(dim=-1) == targets).double()


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float

    def clear_of_zero(self) -> bool:
        """Return whether zero lies outside."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    values: NDArray[np.float64],
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Return the mean of paired values and its percentile interval over seeds and samples.

    Parameters
    ----------
    values : float64[seeds, samples]
        One value per calibration seed and evaluation sample; for a comparison, the difference of
        two methods on the same seed and sample.
    level : float
        Coverage.
    replicates : int
        Each draws seeds and samples, independently, with replacement.
    seed : int
        Of the bootstrap's own generator.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 17.
    """
    seeds, samples = values.shape
    generator = np.random.default_rng(seed)
    means = np.empty(replicates)
    chunk = 500
    for first in range(0, replicates, chunk):
        count = min(chunk, replicates - first)
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        by_sample = generator.multinomial(samples, np.full(samples, 1 / samples), count) / samples
        means[first : first + count] = ((by_seed @ values) * by_sample).sum(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))
