# SPDX-License-Identifier: Apache-2.0
"""A trained student as a packed network: binary layers on engine `xnor`, the others on `w4a8`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algos.binary.layers import BinaryLayer, fixed_columns, threshold_columns
from algos.binary.structure import pooled
from algos.binary.student import Student
from algos.lib.calibrate import Calibrated, Layer
from algos.lib.emit import emit
from algos.lib.qat.emission import digital_layer, scales_of
from algos.lib.quantise import QuantisedWeight
from cosil.packed import binary, raw, ternary
from cosil.packed.network import Node, PackedNetwork


@torch.no_grad()
def packed(student: Student, samples: Tensor, provenance: Mapping[str, Any]) -> PackedNetwork:
    """Pack a student.

    Parameters
    ----------
    student : Student
        Trained.
    samples : float[B, ...]
        Inputs that show how large the int16 logits get.
    provenance : mapping
        JSON-like record.

    Returns
    -------
    PackedNetwork
        The integers of the student without statistics to note. A layer that gives signs takes the
        max pooling behind it along; the pooling's readers read the layer.
    """
    graph = student.graph
    scales = scales_of(student, samples)
    layers = {name: _layer(layer) for name, layer in student.layers.items()}
    made = emit(Calibrated(graph, "fixed", layers, scales), provenance)
    pools = {
        node.name: name for name in student.thresholds if (node := pooled(graph, name)) is not None
    }
    nodes: list[Node] = []
    for node in made.nodes:
        if node.name in pools:
            continue
        node = replace(node, inputs=tuple(pools.get(name, name) for name in node.inputs))
        if node.name in student.binary:
            node = _on_xnor(student, node)
        nodes.append(node)
    return replace(made, nodes=tuple(nodes))


def _layer(layer: BinaryLayer) -> Layer:
    """Return a digital layer; of a binary one, a place to be filled."""
    if layer.binariser is None:
        return digital_layer(layer)
    nothing = torch.zeros_like(layer.weight.flatten(1), dtype=torch.int8, device="cpu")
    return Layer(QuantisedWeight(nothing, torch.ones(len(nothing)), None, 0), None)


def _on_xnor(student: Student, node: Node) -> Node:
    """Return an emitted layer as one of engine `xnor`."""
    layer = student.layers[node.name]
    attrs = {key: value for key, value in node.attrs.items() if key != "groups"}
    if node.name in student.thresholds:
        attrs = {key: value for key, value in attrs.items() if key not in ("relu", "wide")}
        attrs["mode"] = "threshold"
        pool = pooled(student.graph, node.name)
        if pool is not None:
            attrs["pool"] = [int(size) for size in pool.attrs["kernel"]]
        words = threshold_columns(layer)
    else:
        words = fixed_columns(layer, attrs["scale"])
    codes = layer.signs().flatten(1).to(torch.int8).cpu().numpy()
    weight = ternary.encode(codes) if layer.rule().ternary else binary.encode(codes)
    tensors = {"weight": weight, "columns": raw.encode(words)}
    return Node(node.name, node.op, node.inputs, attrs, tensors, "xnor")
