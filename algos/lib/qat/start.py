# SPDX-License-Identifier: Apache-2.0
"""Where training starts: norms and steps from the float network's values, node by node."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.calibrate import SAME_SCALE
from algos.lib.float_ops import OPS
from algos.lib.graph import FloatNode
from algos.lib.qat.student import Student


@torch.no_grad()
def start(student: Student[Any], samples: Tensor) -> None:
    """Set the student's batch norms and steps.

    Float network and student run in lockstep. The norm behind a layer gets the mean and the
    deviation of the student's sums as its statistics, and those of the float layer's output as
    offset and gain; steps are the student's `first_step`.

    Parameters
    ----------
    student : Student
        Changed in place.
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


def _layer(student: Student[Any], node: FloatNode, x: Tensor, y: Tensor) -> Tensor:
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


def _hold(student: Student[Any], name: str, x: Tensor) -> Tensor:
    """Choose a value's step and return the value as its codes hold it."""
    if student.roots[name] == name:
        step = torch.tensor(student.first_step(name, x), device=x.device)
        student.log_steps[name] = step.log().requires_grad_()
    return student.held(name, x)
