# SPDX-License-Identifier: Apache-2.0
"""What the accuracy page's numbers mean."""

import math

import numpy as np
import torch
from scipy import stats

from algos.lib.metrics import (
    kl_divergence,
    negative_log_likelihood,
    paired_bootstrap,
    top1,
)


def test_likelihood_is_minus_the_log_of_the_targets_probability():
    """Logits that are logarithms of probabilities give back those probabilities."""
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    got = negative_log_likelihood(probabilities.log() + 3.0, torch.tensor([0, 1]))
    assert torch.allclose(torch.tensor([math.log(2), math.log(5)]).double(), got, atol=1e-6)


def test_divergence_equals_the_sum_over_classes():
    """KL agrees with scipy's relative entropy, is zero for equal logits and never negative."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(50, 7, generator=generator)
    b = torch.randn(50, 7, generator=generator)
    expected = stats.entropy(a.double().softmax(1).numpy(), b.double().softmax(1).numpy(), axis=1)
    got = kl_divergence(a, b)
    assert np.allclose(expected, got.numpy(), atol=1e-12)
    assert float(got.min()) >= 0.0
    assert float(kl_divergence(a, a + 2.0).abs().max()) < 1e-6


def test_top1_counts_the_largest_logit():
    """Only the row whose largest logit is the target's counts."""
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert top1(logits, torch.tensor([1, 1])).tolist() == [1.0, 0.0]


def test_bootstrap_interval_agrees_with_the_normal_one():
    """For many samples and identical seeds the interval is mean ± 1.96 standard errors."""
    sample = np.random.default_rng(3).normal(0.2, 1.0, 2000)
    got = paired_bootstrap(np.tile(sample, (5, 1)))
    half = 1.96 * sample.std() / math.sqrt(sample.size)
    assert abs(got.mean - sample.mean()) < 1e-12
    assert abs(got.high - (sample.mean() + half)) < 0.1 * half
    assert abs(got.low - (sample.mean() - half)) < 0.1 * half
    assert got.clear_of_zero()


def test_bootstrap_sees_the_spread_between_seeds():
    """Where samples agree and seeds do not, the interval spans the seeds' spread."""
    values = np.repeat(np.array([[-1.0], [0.0], [1.0], [2.0], [3.0]]), 100, axis=1)
    got = paired_bootstrap(values)
    assert got.low < 0.0 < got.high
    assert abs(got.mean - 1.0) < 1e-12
    assert not got.clear_of_zero()
