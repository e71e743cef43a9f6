# SPDX-License-Identifier: Apache-2.0
"""Deterministic training of the demo's two small models."""

# torch leaves these without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from algos.lib.threads import one_thread
from algos.models.cnn import DigitsCnn, DigitsVgg, MnistCnn
from algos.models.gpt import Gpt, GptConfig
from algos.models.tasks import ImageTask, WindowTask

Model = TypeVar("Model", bound=nn.Module)
Draw = Callable[[np.random.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Parameters
    ----------
    steps, batch : int
        Updates, and samples in each.
    rate : float
        Largest learning rate; it rises for a tenth of the steps and falls as a cosine.
    decay : float
        Weight decay of AdamW.
    seed : int
        Of weights, batches and dropout.
    """

    steps: int
    batch: int
    rate: float
    decay: float = 0.01
    seed: int = 0


DIGITS = Recipe(steps=200, batch=64, rate=4e-3)
MNIST = Recipe(steps=600, batch=128, rate=4e-3)
TOPICS = Recipe(steps=400, batch=16, rate=4e-3)
TOPICS_CONFIG = GptConfig(
    dim=64, layers=2, heads=4, vocab=96, context=64, activation="gelu", norm="layernorm"
)


def train_digits(task: ImageTask, recipe: Recipe = DIGITS, show: bool = False) -> DigitsCnn:
    """Train the CNN of the demo on the task's calibration images."""
    with _repeatable(recipe.seed):
        return _train(DigitsCnn(), _images(task, recipe), recipe, "training digits-cnn", show)


def train_vgg(task: ImageTask, recipe: Recipe = DIGITS, show: bool = False) -> DigitsVgg:
    """Train the network without shortcuts on the task's calibration images."""
    with _repeatable(recipe.seed):
        return _train(DigitsVgg(), _images(task, recipe), recipe, "training digits-vgg", show)


def train_mnist(task: ImageTask, recipe: Recipe = MNIST, show: bool = False) -> MnistCnn:
    """Train the CNN for MNIST on the task's calibration images."""
    with _repeatable(recipe.seed):
        return _train(MnistCnn(), _images(task, recipe), recipe, "training mnist-cnn", show)


def train_topics(
    task: WindowTask,
    recipe: Recipe = TOPICS,
    show: bool = False,
    config: GptConfig = TOPICS_CONFIG,
) -> Gpt:
    """Train a character GPT, the demo's by default, on the task's training text."""
    ids = torch.tensor(task.train_ids)

    def draw(generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        starts = generator.integers(0, len(ids) - task.context, recipe.batch)
        at = torch.tensor(starts)[:, None] + torch.arange(task.context)
        return ids[at], ids[at + 1]

    with _repeatable(recipe.seed):
        model = Gpt(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                # Residual branches start small, so that the first steps are not wasted.
                small = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.01 if small else 0.02 if "." not in name else 0.08)
        return _train(model, draw, recipe, "training topics-gpt", show)


def _images(task: ImageTask, recipe: Recipe) -> Draw:
    images = task.inputs(task.calibration_images)
    labels = torch.tensor(task.calibration_images.labels)

    def draw(generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        index = generator.integers(0, len(labels), recipe.batch)
        return _shifted(images[index], generator), labels[index]

    return draw


def _shifted(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Move each batch by up to one pixel: the digits are few."""
    dy, dx = (int(n) for n in generator.integers(-1, 2, 2))
    padded = F.pad(images, (1, 1, 1, 1))
    height, width = images.shape[2:]
    return padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def _train(model: Model, draw: Draw, recipe: Recipe, title: str, show: bool) -> Model:
    generator = np.random.default_rng(recipe.seed)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show, transient=True) as progress:
        bar = progress.add_task(title, total=recipe.steps, loss=float("nan"))
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * _schedule(step, recipe.steps)
            inputs, targets = draw(generator)
            logits = model(inputs)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(bar, advance=1, loss=float(loss.detach()))
    return model.eval()


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


@contextmanager
def _repeatable(seed: int) -> Generator[None]:
    """Seed torch within the block, with one thread; leave its generator as it was."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
