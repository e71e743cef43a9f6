# SPDX-License-Identifier: Apache-2.0
"""The accuracy study: bootstrap units, bars and tables."""

import numpy as np
import pytest
import torch

from algos.lib.metrics import Interval
from algos.models.tasks import Evaluation
from benchmarks.accuracy import NETWORKS, Row, by_unit, markdown, met, results_of, units

torch.set_num_threads(1)


def _evaluation(group: np.ndarray) -> Evaluation:
    zero = np.zeros(len(group))
    return Evaluation("perplexity", zero, zero > 0, group, np.zeros((len(group), 2), np.float32))


def test_few_documents_are_cut_into_blocks_of_64_tokens():
    """Blocks stay inside a document; the last of each may be short."""
    unit = units(_evaluation(np.repeat([0, 3], [130, 64])))
    assert np.bincount(unit).tolist() == [64, 64, 2, 64]
    assert (unit[:64] == 0).all()


def test_many_images_or_windows_are_units_themselves():
    """Item i of window g belongs to unit g, whatever numbers the windows bear."""
    group = np.repeat(np.arange(120) * 4, 3)
    assert np.array_equal(np.repeat(np.arange(120), 3), units(_evaluation(group)))


def test_the_mean_over_units_is_the_mean_over_items():
    """Units of unequal size are weighted by their items."""
    rng = np.random.default_rng(0)
    unit = np.repeat([0, 1, 2], [5, 1, 9])
    items = [rng.standard_normal(15) for _ in range(4)]
    got = by_unit(items, unit)
    assert got.shape == (4, 3)
    assert np.allclose([values.mean() for values in items], got.mean(axis=1))


def _row(network: str, method: str, scales: str, **changes: float) -> Row:
    values = {"bits": 4.5, "loss": 1.01, "loss_float": 1.0, "top1": 0.9, "top1_float": 0.915}
    values |= changes
    below = None if method == "rtn" else Interval(0.2, values.pop("below", 0.1), 0.3)
    return Row(
        network, 5, method, scales, 128, values["bits"], values["loss"], values["loss_float"],
        Interval(0.01, 0.005, 0.015), Interval(0.02, 0.01, 0.03),
        values["top1"], values["top1_float"], below,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "name", "value", "expected"),
    [
        ([("resnet20", "channel", {})], "resnet20_channel_drop", 1.5, False),
        ([("resnet20", "channel", {"top1": 0.91})], "resnet20_channel_drop", 0.5, True),
        ([("stories260k", "group", {})], "stories260k_group128_loss", 1.0, True),
        ([("stories260k", "group", {"loss": 1.03})], "stories260k_group128_loss", 3.0, False),
        ([("resnet20", "group", {})], "resnet20_group128_kl_below_rtn", 0.1, True),
        ([("resnet20", "group", {"below": -0.1})], "resnet20_group128_kl_below_rtn", -0.1, False),
    ],
)
def test_bars(rows, name: str, value: float, expected: bool):
    """Points of top-1, per cent of loss, and the lower end of the interval are held."""
    made = [
        _row(network, method, scales, **changes)
        for network, scales, changes in rows
        for method in ("rtn", "qqq")
    ]
    result = next(item for item in results_of(made) if item["name"] == name)
    assert abs(result["value"] - value) < 1e-9
    assert met(result) is expected
    assert f"`{name}`" in markdown(made)


def test_the_study_covers_what_the_project_promises():
    """Three networks, each per channel and per group of the default size."""
    assert {n.name for n in NETWORKS} == {"resnet20", "stories260k", "shakespeare-gpt"}
    assert all({("channel", 128), ("group", 128)} <= set(n.formats) for n in NETWORKS)
