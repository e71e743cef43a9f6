# SPDX-License-Identifier: Apache-2.0
"""Where training starts: norms, steps and clips from the float network's values, node by node."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.calibrate import SAME_SCALE
from algos.lib.clip import SAMPLE, static_scale
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatNode
from algos.pim_qat.student import Student

CLIPS = 40
"""Candidates of a clip: the largest value times i / CLIPS."""


@torch.no_grad()
def start(student: Student, samples: Tensor) -> None:
    """Set the student's batch norms and steps.

    Float network and student run in lockstep. The norm behind a layer gets the mean and the
    deviation of the student's sums as its statistics, and those of the float layer's output as
    offset and gain; a step is the one of least squared error, with `top` codes where an array
    reads, else int8.

    Parameters
    ----------
    student : Student
        Changed in place. Arrays, where there are any, take part.
    samples : float[B, ...]
        Inputs.
    """
    graph = student.graph
    source = graph.inputs[0].name
    exact = {source: samples}
    held = {source: _hold(student, source, samples)}
    for node in graph.nodes:
        inputs = tuple(exact[name] for name in node.inputs)
        y = OPS[node.op](node, inputs, None)
        if node.name in student.layers:
            got = _layer(student, node, held[node.inputs[0]], y)
        else:
            got = OPS[node.op](node, tuple(held[name] for name in node.inputs), None)
        if node.attrs.get("relu", False):
            y, got = F.relu(y), F.relu(got)
        exact[node.name] = y
        held[node.name] = got if node.op in SAME_SCALE else _hold(student, node.name, got)


def _layer(student: Student, node: FloatNode, x: Tensor, y: Tensor) -> Tensor:
    """Set a layer's norm; return its output before ReLU and rounding."""
    layer = student.layers[node.name]
    sums = student.raw(node, x, None)
    if layer.norm is not None:
        axes = (0, 2, 3)
        layer.norm.mean.copy_(sums.mean(axes))
        layer.norm.var.copy_(sums.var(axes))
        wanted = y[:, :, None, None] if y.ndim == 2 else y
        layer.norm.gamma.copy_(wanted.std(axes))
        layer.norm.beta.copy_(wanted.mean(axes))
        sums = layer.norm(sums, None)
    return student.finish(node, sums)


def _hold(student: Student, name: str, x: Tensor) -> Tensor:
    """Choose a value's step and return the value as its codes hold it."""
    if student.roots[name] == name:
        clipped = name in student.clipped
        step = _clip(x, student.top) / student.top if clipped else static_scale(x, "mse")
        student.log_steps[name] = torch.tensor(step, device=x.device).log().requires_grad_()
    return student.held(name, x)


def _clip(x: Tensor, top: int) -> float:
    """Return the clip with the least squared error of `top` + 1 codes."""
    flat = x.flatten()
    flat = flat[:: (flat.numel() // SAMPLE) | 1]
    largest = float(flat.max())
    if largest <= 0:
        return 1.0
    best, least = largest, torch.inf
    for i in range(1, CLIPS + 1):
        step = largest * i / CLIPS / top
        error = float((torch.round(flat / step).clamp(0, top) * step - flat).square().mean())
        if error < least:
            best, least = step * top, error
    return best
