# SPDX-License-Identifier: Apache-2.0
"""Networks by name: the module, what it is for, and its float graph."""

# safetensors has no types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from algos.data.errors import DataError
from algos.data.folder import data_file
from algos.data.images import digits, load_npz
from algos.data.text import ASCII, Alphabet, load_text, topics
from algos.importers.llama2c import BOS, load_llama, load_tokenizer
from algos.importers.torch_checkpoint import load_gpt, load_resnet
from algos.lib.export import export
from algos.lib.graph import FloatGraph
from algos.models.cnn import DigitsCnn, DigitsVgg, MnistCnn
from algos.models.gpt import Gpt
from algos.models.sampling import sample
from algos.models.tasks import DocumentTask, ImageTask, Task, WindowTask
from algos.models.train import (
    DIGITS,
    MNIST,
    TOPICS,
    TOPICS_CONFIG,
    train_digits,
    train_mnist,
    train_topics,
    train_vgg,
)

# Normalisation of the checkpoints of akamaster/pytorch_resnet_cifar10.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TEST_DIGITS = 360
SAMPLE_LENGTH = 256
DOCUMENT_MARK = "<|endoftext|>"


@dataclass(frozen=True, slots=True, eq=False)
class NamedModel:
    """A network, ready to be exported and judged.

    Attributes
    ----------
    name : str
        Its name.
    module : nn.Module
        In eval mode.
    task : Task
        Its calibration data, evaluation data and metric.
    """

    name: str
    module: nn.Module
    task: Task

    def graph(self) -> FloatGraph:
        """Export the module."""
        return export(self.module, self.task.example_inputs(), self.name)


Loader = Callable[[Path | None, bool], NamedModel]


def load_model(name: str, data: Path | str | None = None, show: bool = False) -> NamedModel:
    """Return a network by name.

    Parameters
    ----------
    name : str
        One of `MODELS`, or ``package.module:callable``. The callable gets the data folder (or None)
        if it takes an argument, and returns a `NamedModel` or a pair of nn.Module and `Task`.
    data : path, optional
        Folder of data sets; ``COSIL_DATA`` by default. The demo's models need none.
    show : bool
        Show a progress bar if the model is trained first.

    Raises
    ------
    ValueError
        If there is no such model; the message names the known and the nearest.
    DataError
        If its data are not there.
    """
    folder = None if data is None else Path(data)
    if ":" in name:
        return _from_callable(name, folder)
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"model must be one of {', '.join(MODELS)} or module:callable, not {name!r}{hint}"
        )
    return MODELS[name](folder, show)


def _from_callable(name: str, data: Path | None) -> NamedModel:
    module_name, _, attribute = name.partition(":")
    # The user's own file lies in the folder where the command runs.
    sys.path.insert(0, str(Path.cwd()))
    try:
        make: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {name!r} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(make):
        raise TypeError(f"model {name!r} must be callable, not {make!r}")
    made: Any = make(data) if inspect.signature(make).parameters else make()
    kind: str = type(made).__name__
    if isinstance(made, NamedModel):
        return made
    pair = cast("tuple[Any, ...]", made) if kind == "tuple" else ()
    if len(pair) == 2 and isinstance(pair[0], nn.Module) and isinstance(pair[1], Task):
        return NamedModel(attribute, pair[0].eval(), pair[1])
    raise TypeError(
        f"model {name!r} must return a NamedModel or (nn.Module, Task), not {type(made).__name__!r}"
    )


# -- the demo's models -----------------------------------------------------------------------


Module = TypeVar("Module", bound=nn.Module)


def digits_task() -> ImageTask:
    """Return the bundled digits: 360 for evaluation, the rest for training and calibration."""
    images = digits()
    order = np.random.default_rng(0).permutation(len(images))
    return ImageTask(
        images.take(order[TEST_DIGITS:]),
        images.take(order[:TEST_DIGITS]),
        full=16.0,
        sources=("scikit-learn digits, 1437 images", "scikit-learn digits, 360 other images"),
    )


def topics_task() -> WindowTask:
    """Return the text of `help()`: the first 90 % for training and calibration."""
    ids = Alphabet(ASCII).encode(topics())
    cut = len(ids) * 9 // 10
    sources = ("pydoc_data.topics, first 90 %", "pydoc_data.topics, last 10 %")
    return WindowTask(ids[:cut], ids[cut:], TOPICS_CONFIG.context, sources)


def _digits_cnn(data: Path | None, show: bool) -> NamedModel:
    return _on_digits("digits-cnn", DigitsCnn(), lambda task: train_digits(task, show=show))


def _digits_vgg(data: Path | None, show: bool) -> NamedModel:
    return _on_digits("digits-vgg", DigitsVgg(), lambda task: train_vgg(task, show=show))


def _on_digits(name: str, empty: Module, train: Callable[[ImageTask], Module]) -> NamedModel:
    task = digits_task()
    pixels = task.calibration_images.pixels.tobytes()
    key = (name, asdict(DIGITS), hashlib.sha256(pixels).hexdigest())
    return NamedModel(name, _cached(key, empty, lambda: train(task)), task)


def _topics_gpt(data: Path | None, show: bool) -> NamedModel:
    task = topics_task()
    recipe = asdict(TOPICS) | asdict(TOPICS_CONFIG)
    key = ("topics-gpt", recipe, hashlib.sha256(task.train_ids.tobytes()).hexdigest())
    module = _cached(key, Gpt(TOPICS_CONFIG), lambda: train_topics(task, show=show))
    return NamedModel("topics-gpt", module, task)


def _cached(
    key: tuple[str, dict[str, Any], str], empty: Module, train: Callable[[], Module]
) -> Module:
    """Return the weights that an earlier run trained by the same recipe on the same data."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    base = Path(os.environ.get("COSIL_CACHE") or Path("~/.cache/cosil").expanduser())
    path = base / "models" / f"{key[0]}-{digest}.safetensors"
    if path.is_file():
        try:
            empty.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError):
            path.unlink(missing_ok=True)  # a damaged cache is made again
        else:
            return empty.eval()
    module = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return module


# -- models with data or checkpoints ------------------------------------------------------------


def _mnist_cnn(data: Path | None, show: bool) -> NamedModel:
    train = load_npz(data_file("mnist/mnist_train.npz", data))
    test = load_npz(data_file("mnist/mnist_test.npz", data))
    task = ImageTask(
        train, test, sources=("MNIST, 60000 training images", "MNIST, 10000 test images")
    )
    key = ("mnist-cnn", asdict(MNIST), hashlib.sha256(train.pixels.tobytes()).hexdigest())
    module = _cached(key, MnistCnn(), lambda: train_mnist(task, show=show))
    return NamedModel("mnist-cnn", module, task)


def _resnet20(data: Path | None, show: bool) -> NamedModel:
    train = load_npz(data_file("cifar10/cifar10_train3805_lossless.npz", data))
    test = load_npz(data_file("cifar10/cifar10_test761_lossless.npz", data))
    task = ImageTask(
        train, test, IMAGENET_MEAN, IMAGENET_STD,
        sources=("CIFAR-10, 3805 training images", "CIFAR-10, first 761 test images"),
    )  # fmt: skip
    module = load_resnet(data_file("resnet_cifar10/resnet20-12fca82f.th", data))
    return NamedModel("resnet20", module, task)


def _shakespeare_gpt(data: Path | None, show: bool) -> NamedModel:
    module, chars = load_gpt(data_file("shakespeare_gpt/shakespeare_gpt.pt", data))
    ids = Alphabet(chars).encode(load_text(data_file("text/tinyshakespeare.txt", data)))
    cut = int(len(ids) * 0.9)
    sources = ("tinyshakespeare, first 90 %", "tinyshakespeare, last 10 %")
    task = WindowTask(ids[:cut], ids[cut:], module.config.context, sources)
    return NamedModel("shakespeare-gpt", module, task)


def _stories260k(data: Path | None, show: bool) -> NamedModel:
    module = load_llama(data_file("stories260K/stories260K.bin", data))
    config = module.config
    tokenizer = load_tokenizer(data_file("stories260K/tok512.bin", data), config.vocab)
    text = load_text(data_file("text/tinystories_sample_4k.txt", data))
    documents = [part.strip() for part in text.split(DOCUMENT_MARK)]
    encoded = [tokenizer.encode(part) for part in documents if part]
    graph: list[FloatGraph] = []

    def write(seed: int, n: int) -> Tensor:
        if not graph:
            graph.append(export(module, task.example_inputs(), "stories260k"))
        return sample(graph[0], BOS, n, SAMPLE_LENGTH, seed)

    sources = ("text sampled from stories260K itself", "TinyStories sample, 5 documents")
    task = DocumentTask(encoded, config.context, write, sources)
    return NamedModel("stories260k", module, task)


MODELS: dict[str, Loader] = {
    "digits-cnn": _digits_cnn,
    "digits-vgg": _digits_vgg,
    "topics-gpt": _topics_gpt,
    "mnist-cnn": _mnist_cnn,
    "resnet20": _resnet20,
    "shakespeare-gpt": _shakespeare_gpt,
    "stories260k": _stories260k,
}
"""Networks by name. The first three are trained on bundled data, the others need a data folder."""

__all__ = ["MODELS", "DataError", "NamedModel", "load_model"]
