# SPDX-License-Identifier: Apache-2.0
"""A trained student as a packed network: array layers on engine `pim`, the others on `w4a8`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.lib.calibrate import Calibrated, Layer
from algos.lib.emit import emit
from algos.lib.qat.emission import digital_layer, gain_and_offset, multiplier_of, scales_of
from algos.lib.quantise import QuantisedWeight
from algos.pim_qat.array import Array
from algos.pim_qat.layers import ArrayLayer
from algos.pim_qat.settings import PimQatSettings
from algos.pim_qat.student import Student
from cosil.packed import bitplane, raw
from cosil.packed.decomposition import encoding
from cosil.packed.network import Node, PackedNetwork

NEGATE = np.uint64(1 << 54)
LSB = 16
"""Units of the bias, and of the sum it is added to, in an LSB."""
SEEDS_PER_LAYER = 4096
"""Noise generators that a layer may use: more than the ADCs of any macro."""


@torch.no_grad()
def packed(
    student: Student, samples: Tensor, settings: PimQatSettings, provenance: Mapping[str, Any]
) -> PackedNetwork:
    """Pack a student.

    Parameters
    ----------
    student : Student
        Trained, its arrays those of the chip.
    samples : float[B, ...]
        Inputs that show how large the int16 logits get.
    settings : PimQatSettings
        The macro; `chip_seed` becomes the generators' seeds.
    provenance : mapping
        JSON-like record.

    Returns
    -------
    PackedNetwork
        The integers of the student's evaluation: codes, sums, tables; batch norms are folded into
        multipliers of 16 significant bits and biases in sixteenths of an LSB.
    """
    graph = student.graph
    scales = scales_of(student, samples)
    layers = {
        node.name: _layer(layer, scales[node.inputs[0]])
        for node in graph.nodes
        if (layer := student.layers.get(node.name)) is not None
    }
    made = emit(Calibrated(graph, "fixed", layers, scales), provenance)
    nodes: list[Node] = []
    for node in made.nodes:
        layer = student.layers.get(node.name)
        if layer is not None and layer.array is not None:
            seed = settings.chip_seed * 65537 + SEEDS_PER_LAYER * student.on_array.index(node.name)
            nodes.append(_on_array(node, layer, layer.array, settings, seed % 2**32))
        else:
            nodes.append(node)
    return replace(made, nodes=tuple(nodes))


def _layer(layer: ArrayLayer, input_scale: float) -> Layer:
    """Return a layer's scales and bias; of one on an array, the codes are in its cells."""
    array = layer.array
    if array is None:
        return digital_layer(layer)
    codes = layer.codes()
    unit = float(layer.unit(codes))
    gain, offset = gain_and_offset(layer)
    origin = array.origin(codes.shape[1]) * unit * input_scale * layer.eta
    channel = multiplier_of(gain) * float(array.grid.step) * layer.eta / LSB * unit
    # int4 words would not hold more than four bits of the codes.
    nothing = torch.zeros_like(codes.flatten(1), dtype=torch.int8, device="cpu")
    weight = QuantisedWeight(nothing, channel.float().cpu(), None, 0)
    return Layer(weight, (offset + gain * origin).float().cpu())


def _on_array(
    node: Node, layer: ArrayLayer, array: Array, settings: PimQatSettings, seed: int
) -> Node:
    """Return an emitted layer as one of engine `pim`."""
    grid = array.grid
    attrs = {key: value for key, value in node.attrs.items() if key != "groups"}
    attrs |= {
        "decomposition": grid.decomposition, "weight_bits": grid.weight_bits,
        "activation_bits": array.activation_bits, "slice_bits": grid.slice_bits,
        "adc_bits": grid.adc_bits, "group_rows": grid.rows, "columns": settings.columns,
        "mux": settings.mux, "noise_seed": seed, "grid": grid.kind,
    }  # fmt: skip
    if grid.kind == "A":
        attrs |= {"grid_lsb": grid.lsb, "grid_offset": grid.offset}
    epilogue = node.tensors["epilogue"].words.astype(np.uint64)
    if layer.norm is not None:
        negative = layer.norm.fold()[0].cpu().numpy() < 0
        epilogue = np.where(negative, epilogue | NEGATE, epilogue)
    codes = layer.codes().flatten(1).to(torch.int8).cpu().numpy()
    tensors = {
        "weight": bitplane.encode(
            codes, encoding=encoding(grid.decomposition), bits=grid.weight_bits, rows=grid.rows
        ),
        "epilogue": raw.encode(epilogue),
        "transfer": raw.encode(array.table.cpu().numpy()),
    }
    if len(array.noise):
        tensors["noise"] = raw.encode(array.noise.cpu().numpy())
    return Node(node.name, node.op, node.inputs, attrs, tensors, "pim")
