# SPDX-License-Identifier: Apache-2.0
"""Named networks reach their published figures; calibration never touches evaluation data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from algos.data.errors import DataError
from algos.data.images import Images
from algos.lib.graph import execute
from algos.models.registry import MODELS, digits_task, load_model, topics_task
from algos.models.tasks import DocumentTask, ImageTask, WindowTask
from algos.models.train import DIGITS, TOPICS, train_digits, train_topics


def test_evaluation_is_cross_entropy() -> None:
    """NLL, accuracy, groups and limits of each kind of task follow from the logits."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 17, (7, 1, 2, 2), dtype=np.uint8)
    images = Images(pixels, np.arange(7) % 4)
    task = ImageTask(images, images, mean=(0.5,), std=(0.25,), full=16.0, batch=3)
    x = (torch.tensor(pixels).float() / 16 - 0.5) / 0.25
    result = task.evaluate(lambda batch: batch.flatten(1))
    expected = F.cross_entropy(x.flatten(1).double(), torch.tensor(images.labels), reduction="none")
    np.testing.assert_allclose(result.nll, expected.numpy(), rtol=1e-6)
    assert result.accuracy == float((x.flatten(1).argmax(1).numpy() == images.labels).mean())
    assert task.evaluate(lambda batch: batch.flatten(1), limit=3).group.tolist() == [0, 2, 4]


def test_windows_predict_the_next_character() -> None:
    """A model that knows the successor has no loss; each character but the first counts once."""
    ids = np.arange(21) % 10
    task = WindowTask(ids, ids, 4, ("a", "b"), batch=2)
    result = task.evaluate(lambda batch: 50.0 * F.one_hot((batch + 1) % 10, 10).float())
    assert result.nll.max() < 1e-12
    assert result.group.tolist() == np.repeat(np.arange(5), 4).tolist()
    assert task.calibration(1, 6).shape == (6, 4)


def test_documents_count_every_token_once() -> None:
    """Padding adds no item; a uniform model has the vocabulary as perplexity."""
    task = DocumentTask(
        [[1, 5, 6], [1, 2], [1, 3, 3, 3]], 8, lambda s, n: torch.zeros(n, 2), ("", "")
    )
    result = task.evaluate(lambda batch: torch.zeros(*batch.shape, 10))
    assert result.group.tolist() == [0, 0, 1, 2, 2, 2]
    assert result.perplexity == pytest.approx(10)


def test_wrong_logits_are_refused() -> None:
    """Logits of another length than the targets are an error."""
    task = WindowTask(np.arange(9), np.arange(9), 4, ("", ""))
    with pytest.raises(ValueError, match=r"logits must have shape \(2, 4\) and classes"):
        task.evaluate(lambda batch: torch.zeros(2, 10))


def test_training_is_deterministic_and_learns() -> None:
    """The same recipe gives the same bits, and a few steps already beat chance."""
    task = digits_task()
    recipe = replace(DIGITS, steps=12)
    state = torch.get_rng_state()
    first, second = train_digits(task, recipe), train_digits(task, recipe)
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    text = topics_task()
    model = train_topics(text, replace(TOPICS, steps=30))
    counts = np.bincount(text.train_ids, minlength=96) / len(text.train_ids)
    unigram = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
    assert text.evaluate(model, limit=40).mean_nll < unigram - 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), [("digits-cnn", 0.97), ("topics-gpt", 6.5)])
def test_demo_models(
    name: str, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's models reach their quality, and a second call reads the weights of the first."""
    monkeypatch.setenv("COSIL_CACHE", str(tmp_path))
    model = load_model(name)
    value = model.task.evaluate(model.module, limit=400).value
    assert value > bound if name == "digits-cnn" else value < bound
    again = load_model(name).module.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.module.state_dict().items())
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("algos.models.registry.train_digits", lambda *a, **k: model.module)
        patch.setattr("algos.models.registry.train_topics", lambda *a, **k: model.module)
        assert load_model(name).module is model.module


def test_demo_splits_are_disjoint() -> None:
    """No digit is in both sets; the text is cut once."""
    task = digits_task()
    assert (len(task.calibration_images), len(task.evaluation_images)) == (1437, 360)
    own = {image.tobytes() for image in task.calibration_images.pixels}
    assert not own & {image.tobytes() for image in task.evaluation_images.pixels}
    text = topics_task()
    assert len(text.train_ids) == (len(text.train_ids) + len(text.evaluation_ids)) * 9 // 10


def test_names() -> None:
    """An unknown name lists the known and the nearest; a missing data folder is said."""
    with pytest.raises(ValueError, match=r"not 'resnet2'; did you mean 'resnet20'\?$"):
        load_model("resnet2")
    with pytest.raises(DataError, match="the data folder must be a folder"):
        load_model("resnet20", "/nowhere")
    assert set(MODELS) == {
        "digits-cnn", "digits-vgg", "topics-gpt", "mnist-cnn", "resnet20", "shakespeare-gpt",
        "stories260k",
    }  # fmt: skip


def test_module_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable of the user's own file gives a network; other results are refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "from algos.models.registry import digits_task\n"
        "def make(data):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits_task()\n"
        "def bad():\n    return nn.ReLU()\n"
    )
    model = load_model("own_net:make")
    assert isinstance(model.module, nn.Module)
    assert [node.op for node in model.graph().nodes] == ["flatten", "linear"]
    with pytest.raises(TypeError, match=r"must return a NamedModel or .*, not 'ReLU'"):
        load_model("own_net:bad")
    with pytest.raises(ValueError, match="cannot be imported"):
        load_model("own_net:none")


# -- with COSIL_DATA ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nll", "value", "limit"),
    [
        # 698 of 761 images; 3.548 per token: reference/data.md section 1.2.
        ("resnet20", None, 698 / 761, None),
        ("stories260k", 1.26644, math.exp(1.26644), None),
    ],
)
def test_float_figures(
    data_folder: Path, name: str, nll: float | None, value: float, limit: int | None
) -> None:
    """The exported graph reaches the figures measured for the checkpoint."""
    model = load_model(name, data_folder)
    graph = model.graph()
    result = model.task.evaluate(lambda x: execute(graph, x)[0], limit)
    assert result.value == pytest.approx(value, rel=2e-5)
    assert nll is None or result.mean_nll == pytest.approx(nll, abs=2e-5)


@pytest.mark.slow
def test_float_figure_of_the_gpt(data_folder: Path) -> None:
    """The character GPT has 1.541136 nats per character on the last tenth of its text."""
    model = load_model("shakespeare-gpt", data_folder)
    graph = model.graph()
    result = model.task.evaluate(lambda x: execute(graph, x)[0])
    assert result.mean_nll == pytest.approx(1.541136, abs=5e-6)


def test_calibration_images_are_not_evaluated(data_folder: Path) -> None:
    """No CIFAR-10 image that calibrates is a test image."""
    task = load_model("resnet20", data_folder).task
    assert isinstance(task, ImageTask)
    evaluated = {image.tobytes() for image in task.inputs(task.evaluation_images).numpy()}
    for seed in (0, 1):
        drawn = task.calibration(seed, 512).numpy()
        assert len({image.tobytes() for image in drawn}) == 512
        assert not evaluated & {image.tobytes() for image in drawn}


def test_calibration_text_is_not_evaluated(data_folder: Path) -> None:
    """Every calibration window lies in the first nine tenths of the text."""
    task = load_model("shakespeare-gpt", data_folder).task
    assert isinstance(task, WindowTask)
    text = (data_folder / "text/tinyshakespeare.txt").read_text(encoding="utf-8")
    assert len(task.train_ids) + len(task.evaluation_ids) == len(text)
    head = task.train_ids.tobytes()
    assert len(task.train_ids) == int(len(text) * 0.9)
    assert all(window.numpy().tobytes() in head for window in task.calibration(0, 32))


def test_sampled_calibration_is_the_models_own(data_folder: Path) -> None:
    """stories260k calibrates on what it writes: seeded, likely to itself, not the sample's text."""
    model = load_model("stories260k", data_folder)
    task = model.task
    assert isinstance(task, DocumentTask)
    first = task.calibration(3, 2)
    assert torch.equal(first, task.calibration(3, 2))
    assert not torch.equal(first, task.calibration(4, 2))
    evaluated = [",".join(map(str, ids)) for ids in task.documents]
    for row in first.tolist():
        for start in range(0, len(row) - 24, 8):
            assert not any(",".join(map(str, row[start : start + 24])) in e for e in evaluated)
    with torch.no_grad():
        logits = model.module(first[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), first[:, 1:].flatten())
    assert float(loss) < 2.0
