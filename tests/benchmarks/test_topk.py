# SPDX-License-Identifier: Apache-2.0
"""Rows and keys of the top-k benchmark: scores are the network's, keys rank as scores do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from algos.models.gpt import Gpt, GptConfig
from benchmarks.lib.attention_scores import (
    Rows,
    capture,
    distance_keys,
    last_rows,
    mass_lost,
    probability_keys,
    score_keys,
)

ROWS = Rows("random", np.random.default_rng(0).normal(scale=3, size=(4, 5, 48)))


def test_scores_are_what_attention_takes() -> None:
    """Softmax of the captured rows gives the attention that torch computes."""
    torch.manual_seed(0)
    model = Gpt(GptConfig(dim=16, layers=2, heads=2, vocab=11, context=9))
    ids = torch.randint(11, (3, 9))
    seen: list[torch.Tensor] = []
    model.blocks[0].qkv.register_forward_hook(lambda *call: seen.append(call[2]))
    scores = capture(model, ids)
    assert [layer.shape for layer in scores] == [(3, 2, 9, 9)] * 2
    q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in seen[0].chunk(3, dim=-1))
    expected = F.scaled_dot_product_attention(q, k, v)[:, :, -1].detach()
    rows = torch.tensor(last_rows(scores[:1], 9)).softmax(-1)  # (heads, B, n)
    found = torch.einsum("hbn,bhnd->bhd", rows, v.double())
    torch.testing.assert_close(found.float(), expected)


def test_keys_rank_as_the_scores_do() -> None:
    """No key puts a clearly lower score first; each key fits its bits."""
    for make, bits, signed in (
        (score_keys, 12, True), (distance_keys, 13, False), (probability_keys, 12, False),
    ):  # fmt: skip
        keys, largest = make(ROWS)
        low = -(1 << (bits - 1)) if signed else 0
        assert low <= keys.min()
        assert keys.max() < low + (1 << bits)
        order = np.argsort(ROWS.scores, axis=2)
        ranked = np.diff(np.take_along_axis(keys, order, axis=2), axis=2)
        assert ((ranked >= 0) if largest else (ranked <= 0)).all()


def test_distance_is_in_units_of_a_factor_of_two() -> None:
    """A probability half, a quarter and 2**-40 of the largest are 256, 512 and 8191."""
    scores = np.log(np.array([1.0, 0.5, 0.25, 2.0**-40]))[None, None]
    keys, largest = distance_keys(Rows("exact", scores))
    assert keys.tolist() == [[[0, 256, 512, 8191]]]
    assert not largest


def test_mass_lost_is_what_the_missed_keys_hold() -> None:
    """Keeping the second of 8 : 4 : 1 instead of the first loses half of the best one's weight."""
    rows = Rows("exact", np.log(np.array([[[8.0, 4.0, 1.0]]])))
    assert mass_lost(rows, np.array([[[2, 1, 0]]]), 1, largest=True) == pytest.approx(0)
    assert mass_lost(rows, np.array([[[1, 2, 0]]]), 1, largest=True) == pytest.approx(0.5)
    assert mass_lost(rows, np.array([[[1, 2, 0]]]), 2, largest=True) == pytest.approx(0)
