# SPDX-License-Identifier: Apache-2.0
"""Training of binary networks for engine `xnor`, by a choice of binarisers.

All layers between the first and the last become binary: weights -1 and +1 (`bitnet`: and 0), inputs
their signs. First and last stay digital, on engine `w4a8`. A layer that only binary layers read has
its batch norm and sign folded into integer thresholds, exactly, and a max pooling behind it becomes
the array's; others give int8 values, so that shortcuts are added in fixed point.

Each binariser is one file with its source: `recu`, `reste`, `irnet`, `biper`, `ovsw`, `hbnn` (its
public part), `bitnet` (ternary), `ste` (the baseline). Random bias initialisation (Li and Partovi
Nia, arXiv 1909.13446; distribution and gains are not public here) is the setting `bias_init`,
uniform.

Other than in the papers: training starts from the float network and, unless labels are given,
follows its output distribution, for some hundred steps; "epochs" of schedules are fractions of
them. ReLUs before a sign are dropped; hard tanh is the saturation of int8 values. Borders of
convolutions are padded with zeros, as the papers' code has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from algos.binary.emission import packed
from algos.binary.settings import BINARISERS, BinarySettings
from algos.binary.student import Student
from algos.lib.calibrate import mode_of
from algos.lib.graph import FloatGraph
from algos.lib.provenance import provenance_of
from algos.lib.qat.start import start
from algos.lib.qat.training import Schedule, train
from algos.lib.threads import one_thread
from cosil.packed.network import PackedNetwork

__all__ = ["BINARISERS", "SETTINGS", "BinarySettings", "compress", "packed", "trained"]

SETTINGS = BinarySettings


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: BinarySettings | None = None
) -> PackedNetwork:
    """Train a binary network and pack it.

    Parameters
    ----------
    graph : FloatGraph
        A network of mode fixed: convolutions, linear layers, ReLU, pooling.
    calibration : sequence of Tensor
        Batches of inputs: the training data. Labels are not needed.
    settings : BinarySettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        On one machine equal graph, data and settings give equal bits.

    Raises
    ------
    ValueError
        If there is no data, the network is of mode fp16, or no layer can be binary.
    """
    settings = settings or BinarySettings()
    samples = torch.cat(list(calibration)) if calibration else torch.zeros(0)
    with one_thread():
        student = trained(graph, samples, settings)
    notes = [
        f"{name} runs digitally, on w4a8" for name in student.layers if name not in student.binary
    ]
    record = provenance_of("binary", asdict(settings), calibration, notes)
    return packed(student, samples[: settings.start_samples], record)


def trained(
    graph: FloatGraph, samples: Tensor, settings: BinarySettings, labels: Tensor | None = None
) -> Student:
    """Return the trained student, on the device of `samples`.

    Parameters
    ----------
    graph : FloatGraph
        The float network: start and teacher.
    samples : float[B, ...]
        Training inputs.
    settings : BinarySettings
        Hyper-parameters.
    labels : int64[B], optional
        Classes to train towards, instead of the teacher's outputs.
    """
    if mode_of(graph) != "fixed":
        raise ValueError(f"binary: {graph.name} must be a network of static int8, not of float16")
    if len(samples) < 2:
        raise ValueError(f"binary: at least 2 training inputs are needed, not {len(samples)!r}")
    make = BINARISERS[settings.binariser]
    student = Student(graph, make, settings.seed, samples.device)
    if not student.binary:
        raise ValueError(
            f"binary: {graph.name} has no layer of one group between its first and its last"
        )
    start(student, samples[: settings.start_samples])
    if settings.bias_init:
        _random_offsets(student, settings.bias_init, settings.seed)
    schedule = Schedule(
        settings.steps, settings.batch, settings.rate, settings.decay, settings.shift,
        settings.flip, settings.seed,
    )  # fmt: skip
    train(student, samples, schedule, "binary", labels)
    return student


@torch.no_grad()
def _random_offsets(student: Student, most: float, seed: int) -> None:
    """Let the norms whose outputs' signs count start with offsets in U(-most, most) deviations."""
    generator = torch.Generator().manual_seed(seed)
    read = {student.roots[student.graph.node(name).inputs[0]] for name in student.binary}
    for name, layer in student.layers.items():
        if name in read and layer.norm is not None:
            drawn = 2 * torch.rand(len(layer.norm.beta), generator=generator) - 1
            layer.norm.beta.copy_(most * drawn.to(layer.norm.gamma.device) * layer.norm.gamma)
