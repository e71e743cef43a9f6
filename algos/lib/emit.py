# SPDX-License-Identifier: Apache-2.0
"""A calibrated float network as a packed one: integer multipliers, biases, tables, memory words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.lib.calibrate import Calibrated, is_wide
from algos.lib.graph import FloatNode
from algos.lib.quantise import QuantisedWeight
from cosil.lowering import tables
from cosil.packed import codecs, int4, raw
from cosil.packed.network import Node, PackedNetwork
from cosil.packed.tensor import PackedTensor

MULT_LOW, MULT_HIGH = 1 << 15, (1 << 16) - 1
"""A normalised multiplier has 16 significant bits."""
SHIFT_MAX = 63
BIAS_LIMIT = (1 << 30) - 1
"""Largest folded bias; the channel's step is widened where a bias would exceed it."""

_MOVEMENT: dict[str, tuple[str, ...]] = {
    "flatten": ("start_dim",),
    "reshape": ("shape",),
    "slice": ("dim", "start", "stop", "step"),
    "pad_channels": ("before", "after"),
    "transpose": ("perm",),
    "concat": ("dim",),
}


def multiplier(ratio: float, shift: int | None = None) -> tuple[int, int]:
    """Return (mult, shift) with mult / 2**shift nearest to a positive ratio.

    Parameters
    ----------
    ratio : float
        Positive, below 2**16.
    shift : int, optional
        Fixed shift; None normalises mult to 2**15 .. 2**16 - 1. A ratio below 2**-48 takes shift 63
        and a smaller mult.

    Raises
    ------
    ValueError
        If the ratio does not fit.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"multiplier: ratio must be positive and finite, not {ratio!r}")
    if shift is None:
        exponent = math.frexp(ratio)[1] - 1
        shift = min(15 - exponent, SHIFT_MAX)
        if shift >= 0 and round(math.ldexp(ratio, shift)) > MULT_HIGH:
            shift -= 1
    mult = round(math.ldexp(ratio, shift))
    if not (0 <= shift <= SHIFT_MAX and mult <= MULT_HIGH):
        raise ValueError(f"multiplier: ratio must be below 2**16, not {ratio!r}")
    return mult, shift


def fixed_epilogue(
    channel: NDArray[np.float64],
    bias: NDArray[np.float64],
    input_scale: float,
    output_scale: float,
) -> NDArray[np.uint64]:
    """Fold weight, input and output scales and the bias into the words of the fixed epilogue.

    Parameters
    ----------
    channel : float64[N]
        Weight scale of each output channel.
    bias : float64[N]
        Real bias.
    input_scale, output_scale : float
        Real value of one code of the layer's input and output.

    Returns
    -------
    uint64[N]
        bias int32 in bits 0..31, RNE(b / (s_in s_w)); mult uint16 in 32..47; shift in 48..53; with
        mult / 2**shift = s_in s_w / s_out.

    Raises
    ------
    ValueError
        If a folded bias does not fit `BIAS_LIMIT`, or a ratio is 2**16 or more.
    """
    words = np.empty(channel.size, dtype=np.uint64)
    for n in range(channel.size):
        unit = input_scale * float(channel[n])
        folded = round(float(bias[n]) / unit)
        if abs(folded) > BIAS_LIMIT:
            raise ValueError(
                f"epilogue: bias of channel {n} is {folded} units, more than {BIAS_LIMIT}"
            )
        mult, shift = multiplier(unit / output_scale)
        words[n] = (folded & 0xFFFFFFFF) | mult << 32 | shift << 48
    return words


def with_room_for_bias(
    weight: QuantisedWeight, bias: NDArray[np.float64], input_scale: float
) -> QuantisedWeight:
    """Turn channels whose weights are below 2**-30 of their bias into their bias alone."""
    channel = weight.channel.double().numpy()
    least = np.abs(bias) / (input_scale * BIAS_LIMIT)
    small = torch.as_tensor(least > channel)
    if not bool(small.any()):
        return weight
    codes, scales = weight.codes.clone(), weight.channel.clone()
    codes[small] = 0
    scales[small] = torch.as_tensor(1.001 * least).float()[small]
    return QuantisedWeight(codes, scales, weight.group, weight.group_size)


def _packed_weight(weight: QuantisedWeight, *, channel: bool) -> PackedTensor:
    scales = weight.channel.numpy().astype(np.float32) if channel else None
    codes = weight.codes.numpy()
    if weight.group is None:
        return int4.encode(codes, encoding="twos", channel=scales)
    return int4.encode(
        codes,
        encoding="offset",
        channel=scales,
        group=weight.group.numpy(),
        group_size=weight.group_size,
    )


def _raw(tensor: Tensor, dtype: type[np.generic]) -> PackedTensor:
    return raw.encode(tensor.detach().cpu().numpy().astype(dtype))


def emit(calibrated: Calibrated, provenance: Mapping[str, Any]) -> PackedNetwork:
    """Write a calibrated network as a packed one.

    Parameters
    ----------
    calibrated : Calibrated
        From `algos.lib.calibrate.calibrate`.
    provenance : mapping
        JSON-like: method, settings, data.

    Returns
    -------
    PackedNetwork
        Nodes named as in the float graph (a fused ReLU under the name of its layer); mode fixed
        starts with a node ``<input>.int8`` and has ``<value>.to.<reader>`` where a concatenation
        brings its inputs to one scale.
    """
    emitter = _Fixed(calibrated) if calibrated.mode == "fixed" else _Fp16(calibrated)
    graph = calibrated.graph
    nodes = [packed for node in graph.nodes for packed in emitter.nodes(node)]
    return PackedNetwork(
        graph.name, graph.inputs, (*emitter.head(), *nodes), graph.outputs, dict(provenance)
    )


class _Fp16:
    """Nodes of mode fp16."""

    def __init__(self, calibrated: Calibrated) -> None:
        self.calibrated = calibrated

    def head(self) -> tuple[Node, ...]:
        return ()

    def nodes(self, node: FloatNode) -> list[Node]:
        attrs: dict[str, Any] = {}
        tensors: dict[str, PackedTensor] = {}
        engine = "vector"
        if node.op == "linear":
            engine, attrs = "w4a8", {"mode": "fp16"}
            layer = self.calibrated.layers[node.name]
            tensors["weight"] = _packed_weight(layer.weight, channel=True)
            if layer.bias is not None:
                tensors["bias"] = _raw(layer.bias, np.float16)
        elif node.op in ("layernorm", "rmsnorm"):
            attrs = {"eps": float(node.attrs["eps"])}
            tensors = {key: _raw(tensor, np.float32) for key, tensor in node.tensors.items()}
        elif node.op == "attention":
            engine, attrs = "vector.dot", _attention_attrs(node)
            tensors = {"exp": raw.encode(tables.exp2_table())}
            if node.attrs["rope"] != "none":
                tensors |= {key: _raw(node.tensors[key], np.float32) for key in ("cos", "sin")}
        elif node.op == "embedding":
            if node.attrs.get("positions", False):
                attrs = {"positions": True}
            tensors = {"table": _raw(node.tensors["table"], np.float16)}
        elif node.op == "gelu":
            exact = node.attrs.get("approximate", "none") == "none"
            table = tables.gelu_table() if exact else tables.gelu_tanh_table()
            tensors = {"table": raw.encode(table)}
        elif node.op == "silu":
            tensors = {"table": raw.encode(tables.silu_table())}
        elif node.op == "scale":
            attrs = {"factor": float(node.attrs["factor"])}
        elif node.op in _MOVEMENT:
            attrs = _movement_attrs(node)
        return [Node(node.name, node.op, node.inputs, attrs, tensors, engine)]


class _Fixed:
    """Nodes of mode fixed."""

    def __init__(self, calibrated: Calibrated) -> None:
        self.calibrated = calibrated
        self.input = calibrated.graph.inputs[0].name

    def head(self) -> tuple[Node, ...]:
        scale = self.calibrated.scales[self.input]
        return (Node(f"{self.input}.int8", "quantize", (self.input,), {"scale": scale}),)

    def nodes(self, node: FloatNode) -> list[Node]:
        inputs = tuple(f"{name}.int8" if name == self.input else name for name in node.inputs)
        attrs: dict[str, Any] = {"scale": self.calibrated.scales[node.name]}
        if node.op in ("linear", "conv2d"):
            return [self._layer(node, inputs, attrs)]
        if node.op == "add":
            attrs |= self._add(node)
        elif node.op in ("avgpool", "maxpool"):
            keys = ("kernel", "stride", "padding")
            attrs |= {key: [int(v) for v in node.attrs[key]] for key in keys}
            if node.op == "avgpool":
                area = math.prod(attrs["kernel"])
                ratio = self._scale(node, 0) / (attrs["scale"] * area)
                attrs["mul"], attrs["shift"] = multiplier(ratio)
        elif node.op in _MOVEMENT:
            attrs |= _movement_attrs(node)
        before: list[Node] = []
        if node.op == "concat":
            before = self._common_scale(node, inputs)
            inputs = tuple(made.name for made in before)
        return [*before, Node(node.name, node.op, inputs, attrs)]

    def _scale(self, node: FloatNode, position: int) -> float:
        return self.calibrated.scales[node.inputs[position]]

    def _layer(self, node: FloatNode, inputs: tuple[str, ...], attrs: dict[str, Any]) -> Node:
        layer = self.calibrated.layers[node.name]
        rows = layer.weight.codes.shape[0]
        bias = np.zeros(rows) if layer.bias is None else layer.bias.double().numpy()
        weight = with_room_for_bias(layer.weight, bias, self._scale(node, 0))
        channel = weight.channel.double().numpy()
        epilogue = fixed_epilogue(channel, bias, self._scale(node, 0), attrs["scale"])
        attrs["mode"] = "fixed"
        attrs["relu"] = bool(node.attrs.get("relu", False))
        attrs["wide"] = is_wide(self.calibrated.graph, node.name)
        if node.op == "conv2d":
            attrs["kernel"] = [int(v) for v in node.tensors["weight"].shape[2:]]
            for key in ("stride", "padding", "dilation"):
                attrs[key] = [int(v) for v in node.attrs[key]]
            attrs["groups"] = int(node.attrs["groups"])
        tensors = {
            "weight": _packed_weight(weight, channel=False),
            "epilogue": raw.encode(epilogue),
        }
        return Node(node.name, node.op, inputs, attrs, tensors, "w4a8")

    def _add(self, node: FloatNode) -> dict[str, Any]:
        output = self.calibrated.scales[node.name]
        ratios = [self._scale(node, i) / output for i in (0, 1)]
        shift = multiplier(max(ratios))[1]
        a, b = (multiplier(ratio, shift)[0] for ratio in ratios)
        relu = bool(node.attrs.get("relu", False))
        return {"mul_a": a, "mul_b": b, "shift": shift, "relu": relu}

    def _common_scale(self, node: FloatNode, inputs: tuple[str, ...]) -> list[Node]:
        output = self.calibrated.scales[node.name]
        made: list[Node] = []
        for position, name in enumerate(inputs):
            mult, shift = multiplier(self._scale(node, position) / output)
            attrs = {"mul": mult, "shift": shift, "scale": output}
            made.append(Node(f"{name}.to.{node.name}", "requantize", (name,), attrs))
        return made


def _attention_attrs(node: FloatNode) -> dict[str, Any]:
    at = node.attrs
    return {
        "heads": int(at["heads"]),
        "kv_heads": int(at["kv_heads"]),
        "head_dim": int(at["head_dim"]),
        "causal": bool(at["causal"]),
        "scale": float(np.float32(at["scale"])),
        "rope": str(at["rope"]),
    }


def _movement_attrs(node: FloatNode) -> dict[str, Any]:
    attrs = {key: node.attrs[key] for key in _MOVEMENT[node.op]}
    if node.op == "reshape":
        # The packed file leaves the batch, the float graph's leading -1, out.
        attrs["shape"] = list(attrs["shape"])[1:]
    return attrs


def bits_per_weight(network: PackedNetwork) -> float:
    """Return the stored bits of all engine weights and their scales, per weight."""
    bits, weights = 0, 0
    for node in network.nodes:
        if node.op in ("linear", "conv2d"):
            weight = node.tensors["weight"]
            bits += codecs.stored_bits(weight)
            weights += math.prod(weight.shape)
    return bits / weights
