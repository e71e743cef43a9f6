# SPDX-License-Identifier: Apache-2.0
"""The training loop and the calibration of batch norms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.graph import execute
from algos.lib.measure import calibration_batches
from algos.lib.progress import progress_bar
from algos.lib.qat.student import MOMENTUM, Student

WARM_UP = 0.1
"""Fraction of the steps over which the rate rises; after them it falls as a cosine."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a student is trained.

    Parameters
    ----------
    steps, batch : int
        Updates, and samples in each.
    rate : float
        Largest learning rate of the weights.
    decay : float
        Weight decay, of the weights alone.
    shift : int
        Images are moved by up to so many pixels, each batch by its own.
    flip : bool
        Half of the batches are mirrored.
    seed : int
        Of batches, shifts and noise.
    """

    steps: int
    batch: int
    rate: float
    decay: float
    shift: int
    flip: bool
    seed: int


def train(
    student: Student[Any],
    samples: Tensor,
    schedule: Schedule,
    title: str,
    labels: Tensor | None = None,
) -> None:
    """Train a student, in place.

    Stochastic gradient descent with Nesterov's momentum 0.9; the loss is the Kullback-Leibler
    divergence from the teacher's logits on the same images, plus the student's penalty.

    Parameters
    ----------
    student : Student
        Changed in place.
    samples : float[B, ...]
        Inputs.
    schedule : Schedule
        Steps, rates, augmentation.
    title : str
        Of the progress bar.
    labels : int64[B], optional
        Classes: the loss is their cross-entropy, and the teacher takes no part.
    """
    draws = np.random.default_rng(schedule.seed)
    noise = torch.Generator(samples.device).manual_seed(schedule.seed)
    groups: dict[str, list[Tensor]] = {"weight": [], "step": [], "other": []}
    for kind, parameter in student.parameters():
        groups[kind].append(parameter)
    factors = {"weight": 1.0, "step": 0.1, "other": 1.0}
    optimiser = torch.optim.SGD(
        [
            {"params": groups[kind], "weight_decay": schedule.decay if kind == "weight" else 0.0}
            for kind in factors
        ],
        lr=schedule.rate,
        momentum=0.9,
        nesterov=True,
    )
    steps: Iterable[int] = progress_bar(range(schedule.steps), title)
    for step in steps:
        for group, factor in zip(optimiser.param_groups, factors.values(), strict=True):
            group["lr"] = schedule.rate * factor * _factor(step, schedule.steps)
        index = torch.as_tensor(draws.permutation(len(samples))[: schedule.batch])
        x = _augmented(samples[index], schedule, draws)
        student.begin(step / schedule.steps)
        got = student.forward(x, MOMENTUM, noise)
        if labels is None:
            loss = _divergence(execute(student.teacher, x)[0], got)
        else:
            loss = F.cross_entropy(got, labels[index])
        if (penalty := student.penalty()) is not None:
            loss = loss + penalty
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        every = [tensor for tensors in groups.values() for tensor in tensors]
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        student.adjust()
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        student.settle()
    student.begin(1.0)


@torch.no_grad()
def calibrate_norms(student: Student[Any], samples: Tensor, batch: int, seed: int) -> None:
    """Set the running statistics of all norms to their means over the samples.

    BN calibration: passes through the layers as they are, noise and errors of arrays included;
    nothing else changes.
    """
    noise = torch.Generator(samples.device).manual_seed(seed)
    for done, part in enumerate(calibration_batches(samples, batch)):
        student.forward(part, 1.0 / (done + 1), noise)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    wanted, got = teacher.log_softmax(dim=-1), student.log_softmax(dim=-1)
    return (wanted.exp() * (wanted - got)).sum(dim=-1).mean()


def _factor(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _augmented(x: Tensor, schedule: Schedule, draws: np.random.Generator) -> Tensor:
    if schedule.shift and x.ndim == 4:
        by = schedule.shift
        dy, dx = (int(n) for n in draws.integers(0, 2 * by + 1, 2))
        height, width = x.shape[2:]
        # The edge's own value: a normalised image's black is not 0.
        x = F.pad(x, (by, by, by, by), mode="replicate")[:, :, dy : dy + height, dx : dx + width]
    if schedule.flip and draws.integers(2):
        x = x.flip(-1)
    return x
