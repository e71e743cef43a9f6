# SPDX-License-Identifier: Apache-2.0
"""The training loop and the calibration of batch norms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.graph import FloatGraph, execute
from algos.lib.measure import calibration_batches
from algos.lib.progress import progress_bar
from algos.pim_qat.student import MOMENTUM, Student

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


def train(student: Student, teacher: FloatGraph, samples: Tensor, schedule: Schedule) -> None:
    """Train a student, in place, towards the teacher's output distribution.

    Stochastic gradient descent with Nesterov's momentum 0.9; the loss is the Kullback-Leibler
    divergence from the teacher's logits on the same images.
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
    steps: Iterable[int] = progress_bar(range(schedule.steps), "pim_qat")
    for step in steps:
        for group, factor in zip(optimiser.param_groups, factors.values(), strict=True):
            group["lr"] = schedule.rate * factor * _factor(step, schedule.steps)
        index = draws.permutation(len(samples))[: schedule.batch]
        x = _augmented(samples[torch.as_tensor(index)], schedule, draws)
        wanted = execute(teacher, x)[0].log_softmax(dim=-1)
        got = student.forward(x, MOMENTUM, noise).log_softmax(dim=-1)
        loss = (wanted.exp() * (wanted - got)).sum(dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        every = [tensor for tensors in groups.values() for tensor in tensors]
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]


@torch.no_grad()
def calibrate_norms(student: Student, samples: Tensor, batch: int, seed: int) -> None:
    """Set the running statistics of all norms to their means over the samples.

    BN calibration: passes through the arrays as they are, noise and errors included; nothing else
    changes.
    """
    noise = torch.Generator(samples.device).manual_seed(seed)
    for done, part in enumerate(calibration_batches(samples, batch)):
        student.forward(part, 1.0 / (done + 1), noise)


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
