# SPDX-License-Identifier: Apache-2.0
"""One pass over a network: each layer is calibrated on what the quantised ones before it give.

All calibration batches advance together: a layer sees the activations that the already quantised
part of the network produces, rounded to int8 as on the engine, is quantised, and hands on its own
quantised output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.lib.clip import Observer, static_scale
from algos.lib.float_ops import OPS
from algos.lib.gptq import Hessian
from algos.lib.graph import FloatGraph, FloatNode
from algos.lib.quantise import QuantisedWeight, per_tensor_int8, per_token_int8

Mode = Literal["fp16", "fixed"]
BiasCorrection = Literal["none", "output"]

FP16_OPS = ("embedding", "layernorm", "rmsnorm", "attention", "gelu", "silu", "mul")
"""Operations that exist on float16 values only: a network with one of them runs in mode fp16."""

SAME_SCALE = ("relu", "maxpool", "flatten", "reshape", "slice", "pad_channels", "transpose")
"""Operations of mode fixed whose output codes mean what their input's do."""

NEW_SCALE = ("linear", "conv2d", "add", "avgpool", "concat")
"""Operations of mode fixed whose output gets a scale of its own."""

FUSED_RELU = ("linear", "conv2d", "add")

WIDE_HEADROOM = 2.0
"""Largest int16 logit over the largest one seen in calibration."""


class LayerQuantiser(Protocol):
    """What a method decides: the codes of one layer."""

    needs_hessian: bool

    def __call__(self, weight: Tensor, hessian: Hessian | None) -> QuantisedWeight:
        """Quantise float32[N, K] (of a grouped convolution: of one group)."""
        ...


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """How activations of mode fixed are scaled and biases corrected.

    Parameters
    ----------
    observer : {"max", "percentile", "mse"}
        Rule of static scales, see `algos.lib.clip.static_scale`.
    percentile : float
        Used by ``percentile``.
    bias_correction : {"none", "output"}
        ``output`` adds to each channel's bias the mean difference of the float network's and the
        quantised network's outputs on calibration data (Nagel et al., 2019, section 4.2, with
        measured means). Mode fixed only.
    """

    observer: Observer = "mse"
    percentile: float = 99.99
    bias_correction: BiasCorrection = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A quantised linear or convolution layer: its weight as int[N, K] and its float bias."""

    weight: QuantisedWeight
    bias: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A network whose layers are quantised.

    Attributes
    ----------
    graph : FloatGraph
        Of mode fixed: with ReLU fused (attr ``relu``) into linear, conv2d and add.
    mode : {"fp16", "fixed"}
        Number format of its values.
    layers : dict of str to Layer
        By node name.
    scales : dict of str to float
        Mode fixed: real value of one code of each value.
    """

    graph: FloatGraph
    mode: Mode
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    scales: dict[str, float] = field(default_factory=dict[str, float])


def mode_of(graph: FloatGraph) -> Mode:
    """Return the number format that a network needs.

    Raises
    ------
    ValueError
        If it has operations of both formats, or an input that its format cannot read.
    """
    if len(graph.inputs) != 1:
        raise ValueError(
            f"{graph.name}: compression takes a network with one input, not {len(graph.inputs)}"
        )
    ids = graph.inputs[0].dtype == "ids"
    float_only = [node for node in graph.nodes if node.op in FP16_OPS]
    if not float_only:
        return "fixed"
    fixed_only = graph.ops("conv2d", "avgpool", "maxpool", "pad_channels")
    if fixed_only:
        raise ValueError(
            f"{graph.name}: {fixed_only[0].name!r} ({fixed_only[0].op}) works on int8 values and "
            f"{float_only[0].name!r} ({float_only[0].op}) on float16 ones; no operation joins them"
        )
    if not ids:
        raise ValueError(
            f"{graph.name}: {float_only[0].name!r} ({float_only[0].op}) works on float16 values, "
            f"which start from an embedding; input {graph.inputs[0].name!r} must hold ids, "
            f"not {graph.inputs[0].dtype!r}"
        )
    return "fp16"


def fuse_relu(graph: FloatGraph) -> FloatGraph:
    """Return the graph with each ReLU fused into the linear, conv2d or add that feeds only it."""
    for node in graph.ops("relu"):
        producer = graph.producer(node.inputs[0])
        if producer is None or producer.op not in FUSED_RELU or producer.name in graph.outputs:
            continue
        if [reader.name for reader in graph.consumers(producer.name)] == [node.name]:
            graph = graph.replaced(producer.with_attrs(relu=True))
            graph = graph.without(node.name, producer.name)
    return graph


def rows_of(node: FloatNode, values: Tensor) -> list[Tensor]:
    """Return the rows that a layer multiplies: one float[rows, K] per convolution group.

    A convolution's row is one output position's receptive field in order (channel, kh, kw).
    """
    if node.op == "linear":
        return [values.reshape(-1, values.shape[-1])]
    at = node.attrs
    kernel = tuple(node.tensors["weight"].shape[2:])
    parts = values.chunk(int(at["groups"]), dim=1)
    return [
        F.unfold(part, kernel, tuple(at["dilation"]), tuple(at["padding"]), tuple(at["stride"]))
        .transpose(1, 2)
        .flatten(0, 1)
        for part in parts
    ]


def calibrate(
    graph: FloatGraph,
    batches: Sequence[Tensor],
    quantiser: LayerQuantiser,
    activations: ActivationSettings,
    progress: Callable[[Sequence[FloatNode]], Iterable[FloatNode]] = iter,
) -> Calibrated:
    """Quantise every linear and convolution layer of a network.

    Parameters
    ----------
    graph : FloatGraph
        A network with one input; float32 tensors.
    batches : sequence of Tensor
        Calibration inputs. May be empty for a quantiser that needs no Hessian, in mode fp16.
    quantiser : LayerQuantiser
        The method.
    activations : ActivationSettings
        Static scales and bias correction; mode fp16 has neither.
    progress : callable
        Wraps the sequence of nodes, e.g. in a progress bar.

    Returns
    -------
    Calibrated
        Every linear and conv2d node quantised.

    Raises
    ------
    ValueError
        If calibration data is needed and missing, or an operation has no meaning in the mode.
    """
    mode = mode_of(graph)
    if not batches and (mode == "fixed" or quantiser.needs_hessian):
        raise ValueError(
            f"{graph.name}: calibration data is needed, none was given; pass at least one batch"
        )
    if mode == "fixed":
        graph = fuse_relu(graph)
        for node in graph.nodes:
            if node.op not in (*SAME_SCALE, *NEW_SCALE):
                raise ValueError(
                    f"{graph.name}: {node.name!r} ({node.op}) has no int8 form; "
                    f"known are {', '.join((*NEW_SCALE, *SAME_SCALE))}"
                )
    with torch.no_grad():
        return _Pass(graph, mode, batches, quantiser, activations).run(progress)


class _Pass:
    """State of one calibration pass; `float_values` is the float network's, for bias correction."""

    def __init__(
        self,
        graph: FloatGraph,
        mode: Mode,
        batches: Sequence[Tensor],
        quantiser: LayerQuantiser,
        activations: ActivationSettings,
    ) -> None:
        self.result = Calibrated(graph, mode)
        self.quantiser = quantiser
        self.activations = activations
        self.values: dict[str, list[Tensor]] = {}
        self.float_values: dict[str, list[Tensor]] = {}
        self.hessians: dict[str, list[Hessian]] = {}
        name = graph.inputs[0].name
        self.correct = mode == "fixed" and activations.bias_correction == "output"
        if self.correct:
            self.float_values[name] = list(batches)
        self._store(name, list(batches), fixed_input=mode == "fixed")

    def run(self, progress: Callable[[Sequence[FloatNode]], Iterable[FloatNode]]) -> Calibrated:
        graph = self.result.graph
        last_use = {name: node.name for node in graph.nodes for name in node.inputs}
        for node in progress(graph.nodes):
            if node.op in ("linear", "conv2d"):
                self._layer(node)
            else:
                self._operation(node)
            for name in node.inputs:
                if last_use[name] == node.name:
                    self.values.pop(name, None)
                    self.float_values.pop(name, None)
                    self.hessians.pop(name, None)
        return self.result

    def _inputs(self, node: FloatNode, values: dict[str, list[Tensor]]) -> list[tuple[Tensor, ...]]:
        return list(zip(*(values[name] for name in node.inputs), strict=True))

    def _operation(self, node: FloatNode) -> None:
        outputs = [_run(node, inputs) for inputs in self._inputs(node, self.values)]
        if self.correct:
            self.float_values[node.name] = [
                _run(node, inputs) for inputs in self._inputs(node, self.float_values)
            ]
        if self.result.mode == "fixed" and node.op in SAME_SCALE:
            self.result.scales[node.name] = self.result.scales[node.inputs[0]]
            self.values[node.name] = outputs
        else:
            self._store(node.name, outputs)

    def _store(self, name: str, outputs: list[Tensor], *, fixed_input: bool = False) -> None:
        """Keep a value as the engine would hold it: float16, or int8 with a static scale."""
        graph, mode = self.result.graph, self.result.mode
        if mode == "fp16":
            if name in (value.name for value in graph.inputs):
                self.values[name] = outputs
            else:
                self.values[name] = [x.to(torch.float16).float() for x in outputs]
            return
        everything = torch.cat([x.flatten() for x in outputs])
        if is_wide(graph, name) and not fixed_input:
            scale = WIDE_HEADROOM * float(everything.abs().max()) / 32767
            self.result.scales[name] = scale if scale > 0 else 1.0
            self.values[name] = outputs
            return
        scale = static_scale(everything, self.activations.observer, self.activations.percentile)
        self.result.scales[name] = scale
        self.values[name] = [per_tensor_int8(x, scale) for x in outputs]

    def _layer(self, node: FloatNode) -> None:
        source = node.inputs[0]
        inputs = self.values[source]
        if self.result.mode == "fp16":
            inputs = [per_token_int8(x) for x in inputs]
        weight = node.tensors["weight"].float()
        matrix = weight.flatten(1)
        parts: list[Hessian | None] = [None] * int(node.attrs.get("groups", 1))
        if self.quantiser.needs_hessian:
            parts = [*self._hessians(node, inputs)]
        quantised = [
            self.quantiser(part, hessian)
            for part, hessian in zip(matrix.chunk(len(parts)), parts, strict=True)
        ]
        packed = _joined(quantised)
        run = node.with_tensors(weight=packed.dequantise().reshape(weight.shape))
        bias = node.tensors.get("bias")
        exact: list[Tensor] = []
        outputs = [OPS[node.op](run, (x,), None) for x in inputs]
        if self.correct:
            exact = [OPS[node.op](node, (x,), None) for x in self.float_values[source]]
            shift = _channel_mean(node, exact) - _channel_mean(node, outputs)
            bias = shift if bias is None else bias + shift
            outputs = [x + _along_channels(node, shift, x) for x in outputs]
        if node.attrs.get("relu", False):
            outputs = [F.relu(x) for x in outputs]
            exact = [F.relu(x) for x in exact]
        self.result.layers[node.name] = Layer(packed, bias)
        if self.correct:
            self.float_values[node.name] = exact
        self._store(node.name, outputs)

    def _hessians(self, node: FloatNode, inputs: list[Tensor]) -> list[Hessian]:
        """Return the Hessian of each group; linear layers that read one value share it."""
        source = node.inputs[0]
        if node.op == "linear" and source in self.hessians:
            return self.hessians[source]
        columns = node.tensors["weight"].flatten(1).shape[1]
        found = [Hessian(columns) for _ in range(int(node.attrs.get("groups", 1)))]
        for value in inputs:
            for hessian, rows in zip(found, rows_of(node, value), strict=True):
                hessian.add(rows)
        if node.op == "linear":
            self.hessians[source] = found
        return found


def is_wide(graph: FloatGraph, name: str) -> bool:
    """Return whether a value of mode fixed leaves the network as int16 logits."""
    producer = graph.producer(name)
    if producer is None or name not in graph.outputs or graph.consumers(name):
        return False
    return producer.op == "linear" and not producer.attrs.get("relu", False)


def _run(node: FloatNode, inputs: tuple[Tensor, ...]) -> Tensor:
    output = OPS[node.op](node, inputs, None)
    return F.relu(output) if node.attrs.get("relu", False) else output


def _joined(parts: list[QuantisedWeight]) -> QuantisedWeight:
    """Stack the groups of a convolution along its output channels."""
    first = parts[0]
    group = None
    if first.group is not None:
        group = torch.cat([part.group for part in parts if part.group is not None], dim=1)
    return QuantisedWeight(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.channel for part in parts]),
        group,
        first.group_size,
    )


def _channel_mean(node: FloatNode, outputs: list[Tensor]) -> Tensor:
    axis = 1 if node.op == "conv2d" else -1
    total = sum(x.double().movedim(axis, 0).flatten(1).sum(dim=1) for x in outputs)
    count = sum(x.numel() // x.shape[axis] for x in outputs)
    assert isinstance(total, Tensor)
    return (total / count).float()


def _along_channels(node: FloatNode, vector: Tensor, like: Tensor) -> Tensor:
    return vector.reshape(-1, *([1] * (like.ndim - 2))) if node.op == "conv2d" else vector
