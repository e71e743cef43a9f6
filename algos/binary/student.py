# SPDX-License-Identifier: Apache-2.0
"""The network in training, most of its layers binary.

A value that a binary layer reads is an int8 whose sign counts, or, behind a layer that only binary
layers read, -1 and +1. Without statistics to note (momentum None) a layer but the last is run on
integers, with the columns that the packed network gets: the bits are those of the engine.
(Additions and averages stay float, rounded to int8.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from algos.binary.binariser import Binariser, sign, signed
from algos.binary.layers import (
    NEGATE,
    SUM_UNITS,
    BinaryLayer,
    digital_columns,
    fixed_columns,
    threshold_columns,
)
from algos.binary.structure import binary_graph, threshold_layers
from algos.lib.calibrate import is_wide
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.qat.layers import DIGITAL_BITS, trained_layer
from algos.lib.qat.student import Student as BaseStudent
from algos.lib.qat.student import images, on_device
from algos.reference.network import fixed_exact
from algos.reference.w4a8 import tensor_of
from algos.reference.xnor import compare

Make = Callable[[Tensor, torch.Generator], Binariser]
"""From a float layer's weight and a generator to its binariser."""


class Student(BaseStudent[BinaryLayer]):
    """A network whose layers are trained as they will run.

    Parameters
    ----------
    graph : FloatGraph
        Of mode fixed.
    make : callable
        Makes the binariser of a layer.
    seed : int
        Of what binarisers start from at random.
    device : torch.device
        Where it is trained.

    Attributes
    ----------
    binary : tuple of str
        Binary layers, in topological order.
    thresholds : tuple of str
        Those that give signs alone; the others give int8 values.
    flips : list of float
        After each step, the fraction of all binary weights whose code it changed.
    ever : bool[weights]
        Whether a step has changed the code of a binary weight.
    """

    def __init__(
        self, graph: FloatGraph, make: Make, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        teacher = on_device(graph, torch.device(device))
        changed, self.binary = binary_graph(teacher)
        super().__init__(teacher, changed)
        self.thresholds = threshold_layers(changed, self.binary)
        self.flips: list[float] = []
        generator = torch.Generator().manual_seed(seed)
        for node in changed.ops("linear", "conv2d"):
            last = is_wide(changed, node.name)
            layer = trained_layer(BinaryLayer, node, DIGITAL_BITS, last=last)
            if node.name in self.binary:
                layer.binariser = make(layer.weight.detach(), generator)
                started = layer.binariser.start(layer.weight.detach())
                layer.weight = started.clone().requires_grad_()
            self.layers[node.name] = layer
        self._codes = self._all_signs()
        self.ever = torch.zeros_like(self._codes, dtype=torch.bool)

    # -- running ---------------------------------------------------------------------------------

    def output(
        self, node: FloatNode, x: Tensor, momentum: float | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return a layer's output before rounding."""
        if momentum is None and self.layers[node.name].norm is not None:
            return self.finish(node, self.exact(node, x))
        return super().output(node, x, momentum, generator)

    def raw(self, node: FloatNode, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a layer's sums in real units, before its batch norm or bias: float[B, N, H, W]."""
        layer = self.layers[node.name]
        rule = layer.binariser
        if rule is None:
            return super().raw(node, x, generator)
        x = images(node, x)
        # Behind a threshold the sign has been taken, and its gradient with it.
        signs = signed(x) if self._gives_signs(node.inputs[0]) else rule.activation(x)
        sums = layer.geometry.conv(signs, rule.weight(layer.weight))
        return sums * rule.scale(layer.weight).reshape(1, -1, 1, 1)

    @torch.no_grad()
    def exact(self, node: FloatNode, x: Tensor) -> Tensor:
        """Return a layer's output as its integers have it, in real units, float[B, N, H, W]."""
        layer = self.layers[node.name]
        if layer.binariser is None:
            scales = float(self.step(node.inputs[0])), float(self.step(node.name))
            matrix, words = digital_columns(layer, *scales)
            weight = matrix.reshape(layer.weight.shape).to(x.device, torch.float64)
            codes = self.input_codes(node, x).double()
            acc = layer.geometry.conv(codes, weight, layer.groups)
        else:
            acc = layer.geometry.conv(sign(images(node, x)), layer.signs()).double()
            if node.name in self.thresholds:
                bits = compare(acc.movedim(1, 3).cpu(), threshold_columns(layer)).movedim(3, 1)
                return torch.where(bits, 1.0, -1.0).to(x.device)
            words = fixed_columns(layer, float(self.step(node.name)))
            negate = tensor_of((words & NEGATE) != 0).reshape(1, -1, 1, 1).to(x.device)
            acc = SUM_UNITS * torch.where(negate, -acc, acc)
        y = fixed_exact(acc.cpu(), words, node.attrs, axis=1)
        return y.to(x.device).float() * self.step(node.name)

    def held(self, name: str, x: Tensor) -> Tensor:
        """Return a value as it is kept: signs, int8 codes, or the logits as they are."""
        if name in self.thresholds:
            return self.layers[name].rule().activation(x)
        return super().held(name, x)

    def first_step(self, name: str, x: Tensor) -> float:
        """Return the step that a value with data like `x` starts from; 1 where it is a sign."""
        return 1.0 if name in self.thresholds else super().first_step(name, x)

    # -- training --------------------------------------------------------------------------------

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what is trained, with its kind."""
        yield from super().parameters()
        for _, rule in self._rules():
            for parameter in rule.parameters():
                yield "other", parameter

    def begin(self, progress: float) -> None:
        """Tell the binarisers how much of the training lies behind."""
        for _, rule in self._rules():
            rule.begin(progress)

    def penalty(self) -> Tensor | None:
        """Return the sum of the binarisers' terms."""
        terms = [rule.penalty(layer.weight) for layer, rule in self._rules()]
        there = [term for term in terms if term is not None]
        return torch.stack(there).sum() if there else None

    def adjust(self) -> None:
        """Let the binarisers change the gradients of their weights."""
        for layer, rule in self._rules():
            rule.adjust(layer.weight)

    def settle(self) -> None:
        """Let the binarisers see the step, and count the codes that it changed."""
        for layer, rule in self._rules():
            rule.settle(layer.weight)
        before, self._codes = self._codes, self._all_signs()
        changed = before != self._codes
        self.ever |= changed
        self.flips.append(float(changed.float().mean()))

    def _all_signs(self) -> Tensor:
        codes = [layer.signs().flatten() for layer, _ in self._rules()]
        return torch.cat(codes) if codes else torch.zeros(0)

    def _rules(self) -> list[tuple[BinaryLayer, Binariser]]:
        return [(self.layers[name], self.layers[name].rule()) for name in self.binary]

    def _gives_signs(self, name: str) -> bool:
        return self.roots[name] in self.thresholds
