# SPDX-License-Identifier: Apache-2.0
"""A network on the PIM macro: its reference against jobs, and against a plain convolution."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from algos.reference.network import Reference, execute
from algos.reference.pim import reference
from algos.reference.pim_node import PimLayer
from benchmarks.fuzz_networks import pim, pim_layer
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import layer_jobs, layer_output, layer_spec
from cosil.lowering.pim_transfer import Grid
from cosil.packed import bitplane, raw
from cosil.packed.decomposition import DECOMPOSITIONS
from cosil.packed.network import Node


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_every_node_is_its_jobs(decomposition: str) -> None:
    """Each layer of a network has the bits of the job reference on its tiles.

    On the smallest macro and on one with more rows, groups and a longer noise table; the layers
    together have both grids, shared and own tables, noise, several tiles and short groups. 35
    images are more than are unfolded at once, so that the generators go on from piece to piece.
    """
    network = pim(2, decomposition=decomposition)
    x = np.random.default_rng(0).normal(0, 2, (35, 3, 6, 6)).astype(np.float32)
    seen: dict[str, torch.Tensor] = {}
    execute(network, x, observe=lambda name, value: seen.update({name: value}))
    layers = [node for node in network.nodes if node.engine == "pim"]
    tiles: list[int] = []
    for node in layers:
        codes = seen[node.inputs[0]].numpy()
        smallest = layer_spec(node)
        larger = PimSpec(**{**asdict(smallest), "rows": 70, "groups": 9, "noise_bits": 6,
                            "epilogue_lanes": 1})  # fmt: skip
        for spec in (smallest, larger):
            lowered = layer_jobs(spec, node, codes)
            ys = [reference(spec, job, operands).y.numpy() for job, operands in lowered]
            y = layer_output(node, codes.shape, [job for job, _ in lowered], ys)
            assert y.dtype == seen[node.name].numpy().dtype
            np.testing.assert_array_equal(y, seen[node.name].numpy(), err_msg=node.name)
        assert np.unique(y).size > 15, "a constant value would compare nothing"
        tiles.append(len(lowered))
    assert max(tiles) > 1


def test_a_run_begins_its_generators_anew() -> None:
    """The same images give the same bits in every run, noise included; the noise is not nothing."""
    network = pim(4)
    x = np.random.default_rng(1).normal(0, 2, (3, 3, 6, 6)).astype(np.float32)
    runner = Reference(network)
    first, second = (runner.run(x)["head"] for _ in range(2))
    assert torch.equal(first, second)
    node = next(node for node in network.nodes if "noise" in node.tensors)
    codes = torch.randint(0, 16, (4, 3, 6, 6), dtype=torch.int8)
    quiet = {name: tensor for name, tensor in node.tensors.items() if name != "noise"}
    silent = Node(node.name, node.op, node.inputs, node.attrs, quiet, "pim")
    assert not torch.equal(PimLayer(node)(codes), PimLayer(silent)(codes))


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_lossless_converters_give_the_convolution(decomposition: str) -> None:
    """With an LSB of one unit and codes enough, a layer is torch's convolution of its codes."""
    rng = np.random.default_rng(5)
    program, tensors = pim_layer(
        rng, 7, 45, decomposition=decomposition, group_rows=14, slice_bits=1, adc_bits=9,
        wide=True, kernel=[3, 3], stride=[2, 1], padding=[1, 2], dilation=[1, 2],
    )  # fmt: skip
    grid = Grid(program["decomposition"], 4, 1, 14, 9, "A")
    tensors["transfer"] = raw.encode(grid.table()[None])
    tensors["epilogue"] = raw.encode(np.full(7, 1 << 32 | 4 << 48, np.uint64))
    node = Node("layer", "conv2d", ("x",), program, tensors, "pim")
    codes = torch.from_numpy(rng.integers(-128, 128, (3, 5, 9, 8)).astype(np.int8))
    weight = torch.from_numpy(bitplane.decode(tensors["weight"])).double().reshape(7, 5, 3, 3)
    expected = F.conv2d(codes.clamp(0, 15).double(), weight, None, (2, 1), (1, 2), (1, 2))
    assert torch.equal(expected, PimLayer(node)(codes).double())
