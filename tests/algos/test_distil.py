# SPDX-License-Identifier: Apache-2.0
"""Distillation brings QQQ's network closer to the float one and changes nothing of the format."""

import numpy as np
import pytest
import torch
from torch import nn

from algos import qqq
from algos.distil import DistilSettings, compress
from algos.lib.export import export
from algos.lib.graph import FloatGraph, execute
from algos.lib.metrics import kl_divergence
from algos.models.gpt import Gpt, GptConfig
from algos.reference.network import Reference
from cosil.packed import file, int4
from cosil.packed.network import PackedNetwork

torch.set_num_threads(1)

VOCAB = 11
IDS = torch.from_numpy(np.random.default_rng(3).integers(0, VOCAB, (40, 10)))


@pytest.fixture(scope="module")
def gpt() -> FloatGraph:
    torch.manual_seed(0)
    module = Gpt(GptConfig(16, 1, 2, VOCAB, 10, activation="relu", norm="layernorm"))
    with torch.no_grad():
        module.head.weight.mul_(4.0)
    return export(module, (IDS[:2],), name="gpt")


def _divergence(network: PackedNetwork, graph: FloatGraph) -> float:
    (logits,) = Reference(network).run(IDS[32:]).values()
    return float(kl_divergence(execute(graph, IDS[32:])[0], logits.double()).mean())


@pytest.mark.parametrize("scales", ["channel", "group"])
def test_divergence_falls_below_that_of_qqq(gpt: FloatGraph, scales: str, tmp_path):
    """On held-out sequences, executed exactly from the saved file; same bits for the same seed."""
    settings = DistilSettings(scales=scales, group_size=8, steps=40, tokens=80, rate=2e-3)
    start = qqq.compress(
        gpt, [IDS[:32]], qqq.QqqSettings(scales=scales, group_size=8, rotation="none")
    )
    network = compress(gpt, [IDS[:16], IDS[16:32]], settings)
    file.save(network, tmp_path / "gpt.cosil")
    loaded = file.load(tmp_path / "gpt.cosil")
    assert _divergence(loaded, gpt) < 0.9 * _divergence(start, gpt)
    again = compress(gpt, [IDS[:16], IDS[16:32]], settings)
    for one, two in zip(network.nodes, again.nodes, strict=True):
        if one.op == "linear":
            assert np.array_equal(one.tensors["weight"].words, two.tensors["weight"].words)
            low = -7 if scales == "channel" else -8
            assert int4.decode(one.tensors["weight"]).min() >= low
    assert loaded.provenance["method"] == "distil"
    assert loaded.provenance["settings"]["steps"] == 40


def test_no_step_of_training_means_qqq(gpt: FloatGraph):
    """With a learning rate of almost nothing the codes are QQQ's."""
    settings = DistilSettings(steps=1, rate=1e-12)
    network = compress(gpt, [IDS[:32]], settings)
    start = qqq.compress(gpt, [IDS[:32]], qqq.QqqSettings(rotation="none"))
    for one, two in zip(network.nodes, start.nodes, strict=True):
        if one.op == "linear":
            assert np.array_equal(one.tensors["weight"].words, two.tensors["weight"].words)


def test_wrong_use_is_refused(gpt: FloatGraph):
    """Networks of static int8, sequences of two lengths and wrong settings raise by name."""
    flat = export(nn.Sequential(nn.Linear(4, 2)), (torch.ones(2, 4),), name="flat")
    with pytest.raises(ValueError, match=r"^distil: flat must be a float16 network, not one of"):
        compress(flat, [torch.ones(2, 4)])
    with pytest.raises(ValueError, match=r"^distil: calibration data must be sequences of one"):
        compress(gpt, [IDS[:4], IDS[:4, :5]])
    with pytest.raises(ValueError, match=r"^distil: steps must be at least 1, not 0$"):
        DistilSettings(steps=0)
    with pytest.raises(ValueError, match=r"^distil: rate must be positive, not 0.0$"):
        DistilSettings(rate=0.0)
    with pytest.raises(ValueError, match=r"^qqq: clip must be one of"):
        DistilSettings(clip="max")  # pyright: ignore[reportArgumentType]
