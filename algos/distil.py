# SPDX-License-Identifier: Apache-2.0
"""QQQ, then distillation: for small language models, where no single layer's error dominates.

Starts from QQQ's codes and trains codes, steps, norms and embeddings together so that the packed
network's output distribution on the calibration data comes closer to the float network's. Needs no
labels. Not part of QQQ: rounding is passed straight through (Bengio et al., arXiv 1308.3432), steps
are trained as in LSQ (Esser et al., ICLR 2020, here in the logarithm), the loss is the Kullback-
Leibler divergence of the logits (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from algos import qqq
from algos.lib.calibrate import ActivationSettings, Calibrated, Layer, calibrate, mode_of
from algos.lib.emit import emit
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatGraph, FloatNode, execute
from algos.lib.progress import progress_bar
from algos.lib.provenance import provenance_of
from algos.lib.quantise import Grid, round_to_grid, with_scales
from algos.qqq import QqqSettings
from cosil.packed.network import PackedNetwork

WARM_UP = 20
"""Steps over which the learning rate rises; after them it falls as a cosine."""


@dataclass(frozen=True, slots=True)
class DistilSettings(QqqSettings):
    """QQQ's hyper-parameters and those of the training.

    Parameters
    ----------
    steps : int
        Updates.
    rate : float
        Largest learning rate of the weights; all else learns twice as fast.
    tokens : int
        Tokens of one update; it takes that many tokens' worth of calibration sequences, at least
        one.
    """

    # Trained codes move away from the grid's end by themselves; a rotation has nothing to add.
    rotation: qqq.Rotation = "none"
    steps: int = 600
    rate: float = 5e-4
    tokens: int = 1024

    def __post_init__(self) -> None:
        # A slots dataclass is a new class, which super() without arguments would not find.
        QqqSettings.__post_init__(self)
        for name in ("steps", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"distil: {name} must be at least 1, not {getattr(self, name)!r}")
        if not self.rate > 0:
            raise ValueError(f"distil: rate must be positive, not {self.rate!r}")


SETTINGS = DistilSettings


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: DistilSettings | None = None
) -> PackedNetwork:
    """Compress a language model with QQQ and train the result against the float network.

    Parameters
    ----------
    graph : FloatGraph
        A network of mode fp16.
    calibration : sequence of Tensor
        Batches of token numbers, all sequences equally long.
    settings : DistilSettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        As from `algos.qqq.compress`. On one machine and number of threads, equal graph, data and
        settings give equal bits.

    Raises
    ------
    ValueError
        If there is no data, the sequences differ in length, or the network is of mode fixed.
    """
    settings = settings or DistilSettings()
    if mode_of(graph) == "fixed":
        raise ValueError(f"distil: {graph.name} must be a float16 network, not one of static int8")
    if not calibration or len({batch.shape[1:] for batch in calibration}) != 1:
        raise ValueError("distil: calibration data must be sequences of one length, at least one")
    prepared, notes = qqq.prepare(graph, calibration, settings)
    quantiser = qqq.Compensation(settings)
    start = calibrate(prepared, calibration, quantiser, ActivationSettings())
    student = _Student(start)
    _train(student, graph, torch.cat(list(calibration)), settings)
    record = provenance_of("distil", asdict(settings), calibration, notes)
    return emit(student.calibrated(), record)


def _round(x: Tensor) -> Tensor:
    """Round to nearest, ties to even; the gradient is passed straight through."""
    return x + (torch.round(x) - x).detach()


@dataclass(slots=True)
class _Weight:
    """Trained form of a weight: values, which start on the codes, and logarithms of the steps."""

    values: Tensor
    log_steps: Tensor
    group_size: int

    def grid(self) -> Grid:
        return Grid(self.log_steps.exp(), self.group_size)

    def rounded(self) -> Tensor:
        grid = self.grid()
        step = grid.per_column(self.values.shape[1])
        return _round((self.values / step).clamp(grid.low, grid.high)) * step


@dataclass(slots=True)
class _Student:
    """The quantised network with its trained tensors."""

    start: Calibrated
    weights: dict[str, _Weight] = field(default_factory=dict[str, _Weight])
    biases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])

    def __post_init__(self) -> None:
        for name, layer in self.start.layers.items():
            packed = layer.weight
            steps = packed.channel[:, None]
            if packed.group is not None:
                steps = packed.group.float().t() * steps
            # An all-zero group has no step; any will do, its values stay trainable.
            steps = torch.where(steps > 0, steps, torch.full_like(steps, 1e-6))
            grid = Grid(steps, packed.group_size)
            values = packed.codes.float() * grid.per_column(packed.codes.shape[1])
            self.weights[name] = _Weight(
                values.requires_grad_(), steps.log().requires_grad_(), packed.group_size
            )
            if layer.bias is not None:
                self.biases[name] = layer.bias.clone().requires_grad_()
        for node in self.start.graph.ops("embedding", "layernorm", "rmsnorm"):
            self.tensors[node.name] = {
                key: tensor.clone().requires_grad_() for key, tensor in node.tensors.items()
            }

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimiser."""
        fast = [weight.log_steps for weight in self.weights.values()]
        fast += [*self.biases.values()]
        fast += [tensor for tensors in self.tensors.values() for tensor in tensors.values()]
        values = [weight.values for weight in self.weights.values()]
        return [{"params": values, "lr": rate}, {"params": fast, "lr": 2 * rate}]

    def logits(self, ids: Tensor) -> Tensor:
        graph = self.start.graph
        values = {graph.inputs[0].name: ids}
        for node in graph.nodes:
            inputs = tuple(values[name] for name in node.inputs)
            if node.op == "linear":
                weight = self.weights[node.name].rounded()
                bias = self.biases.get(node.name)
                values[node.name] = F.linear(_per_token(inputs[0]), weight, bias)
            else:
                run = node.with_tensors(**self.tensors.get(node.name, {}))
                values[node.name] = OPS[node.op](run, inputs, None)
        return values[graph.outputs[0]]

    def calibrated(self) -> Calibrated:
        """Return the trained network on its grids."""
        layers: dict[str, Layer] = {}
        with torch.no_grad():
            for name, weight in self.weights.items():
                grid = Grid(weight.log_steps.exp(), weight.group_size)
                packed = with_scales(round_to_grid(weight.values, grid), grid)
                bias = self.biases.get(name)
                layers[name] = Layer(packed, None if bias is None else bias.detach())
        graph = self.start.graph
        nodes: list[FloatNode] = []
        for name, tensors in self.tensors.items():
            trained = {key: tensor.detach() for key, tensor in tensors.items()}
            nodes.append(graph.node(name).with_tensors(**trained))
        return Calibrated(graph.replaced(*nodes), "fp16", layers)


def _per_token(x: Tensor) -> Tensor:
    scale = x.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return _round(x / scale) * scale


def _train(
    student: _Student, teacher: FloatGraph, samples: Tensor, settings: DistilSettings
) -> None:
    generator = np.random.default_rng(settings.seed)
    size = min(len(samples), max(1, settings.tokens // samples.shape[1]))
    groups = student.groups(settings.rate)
    rates = [float(group["lr"]) for group in groups]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps: Iterable[int] = progress_bar(range(settings.steps), "distil")
    for step in steps:
        factor = min(1.0, (step + 1) / WARM_UP)
        factor *= 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = factor * rate
        chosen = samples[torch.as_tensor(generator.permutation(len(samples))[:size])]
        wanted = execute(teacher, chosen)[0].log_softmax(dim=-1)
        got = student.logits(chosen).log_softmax(dim=-1)
        loss = (wanted.exp() * (wanted - got)).sum(dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
