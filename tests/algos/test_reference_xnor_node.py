# SPDX-License-Identifier: Apache-2.0
"""Layers on the XNOR array: torch's convolutions, jobs of any array, shortcuts, pooled bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from algos.reference.network import execute
from algos.reference.vector import apply
from algos.reference.xnor import reference
from algos.reference.xnor_node import XnorLayer
from benchmarks.fuzz_networks import xnor, xnor_layer
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import layer_jobs, layer_output, layer_spec
from cosil.lowering.xnor_threshold import fold_batch_norm
from cosil.packed import codecs, raw
from cosil.packed.network import Node


def run(spec: XnorSpec, node: Node, codes: Any) -> Any:
    """Run a node's jobs on the reference of the array."""
    lowered = layer_jobs(spec, node, codes)
    ys = [reference(spec, job, operands).numpy() for job, operands in lowered]
    return layer_output(node, codes.shape, [job for job, _ in lowered], ys)


def test_every_node_is_its_jobs() -> None:
    """Each layer of a network has the bits of the job reference on its jobs.

    On the array that just runs it, and on one with ternary weights and three outputs to a job.
    """
    network = xnor(1)
    x = np.random.default_rng(0).normal(0, 1, (33, 3, 8, 8)).astype(np.float32)
    seen: dict[str, Tensor] = {}
    execute(network, x, observe=lambda name, value: seen.update({name: value}))
    layers = [node for node in network.nodes if node.engine == "xnor"]
    classes: list[int] = []
    for node in layers:
        codes, y = seen[node.inputs[0]].numpy(), seen[node.name].numpy()
        smallest = layer_spec(node, codes.shape)
        other = replace(smallest, pe=2, weights="ternary", max_outputs=3, max_inputs=100)
        for spec in (smallest, other):
            found = run(spec, node, codes)
            assert found.dtype == y.dtype
            np.testing.assert_array_equal(y, found, err_msg=node.name)
        classes.append(smallest.border_classes)
        distinct = 2 if node.attrs["mode"] == "threshold" else 15
        assert np.unique(y).size >= distinct, "a constant value would compare nothing"
    assert classes == [9, 9, 9, 1, 1, 1, 1]


def exact_columns(n: int) -> Any:
    """Return columns that give s itself: bias 0, mult / 2^shift = 1 / 16."""
    return raw.encode(np.full(n, 1 << 32 | 4 << 48, np.uint64))


@pytest.mark.parametrize("pad_value", [0, -1, 1])
@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size", "classes"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), (5, 7), 9),
        ((3, 2), (2, 1), (2, 1), (1, 2), (6, 5), 3 * 3),
        ((5, 3), (1, 1), (2, 0), (1, 1), (4, 3), 4),  # padded above, below, or both
        ((1, 1), (1, 1), (2, 1), (1, 1), (1, 1), 2 * 2),  # windows that are all padding
        ((7, 7), (2, 2), (3, 3), (1, 1), (16, 16), 4 * 4),
    ],
)
def test_sums_are_torchs_convolution(
    pad_value: int,
    ternary: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    classes: int,
) -> None:
    """The sums of any border, zeros included, are torch's conv2d of the ternary border, exactly."""
    rng = np.random.default_rng(sum(kernel) + pad_value)
    k = 4 * kernel[0] * kernel[1]
    program, tensors = xnor_layer(
        rng, 6, k, ternary=ternary, mode="fixed", wide=True, kernel=list(kernel),
        stride=list(stride), padding=list(padding), dilation=list(dilation), pad_value=pad_value,
    )  # fmt: skip
    tensors["columns"] = exact_columns(6)
    node = Node("layer", "conv2d", ("x",), program, tensors, "xnor")
    codes = rng.integers(-2, 3, (2, 4, *size)).astype(np.int8)
    signs = torch.from_numpy(np.where(codes >= 0, 1.0, -1.0))
    weight = torch.from_numpy(codecs.decode(tensors["weight"]).astype(np.float64))
    edge = (padding[1], padding[1], padding[0], padding[0])
    padded = F.pad(signs, edge, value=float(pad_value))
    sums = F.conv2d(padded, weight.reshape(6, 4, *kernel), stride=stride, dilation=dilation)
    spec = layer_spec(node, codes.shape)
    assert spec.border_classes == (classes if pad_value == 0 else 1)
    assert torch.equal(sums, XnorLayer(node)(torch.from_numpy(codes)).double())
    np.testing.assert_array_equal(sums.numpy(), run(spec, node, codes))


@pytest.mark.parametrize("pool", [(2, 2), (1, 3), (3, 1), (4, 5)])
def test_pooled_bits_are_the_maximum_after_the_sign(pool: tuple[int, int]) -> None:
    """The OR of a window's bits is max pooling of signs, and of the batch norm before the sign.

    Batch norms of both signs of gamma; windows that do not fit are left out as torch leaves them.
    """
    rng = np.random.default_rng(3)
    program, tensors = xnor_layer(rng, 16, 18, kernel=[3, 3], padding=[1, 1], pool=list(pool))
    gamma, beta, mean = rng.normal([[0], [-4], [0]], 2, (3, 16)).astype(np.float32)
    var = rng.uniform(0.5, 3, 16).astype(np.float32)
    tensors["columns"] = raw.encode(fold_batch_norm(gamma, beta, mean, var, k=18))
    node = Node("layer", "conv2d", ("x",), program, tensors, "xnor")
    codes = rng.integers(-1, 2, (3, 2, 7, 8)).astype(np.int8)
    signs = torch.from_numpy(np.where(codes >= 0, 1.0, -1.0))
    weight = torch.from_numpy(codecs.decode(tensors["weight"]).astype(np.float64))
    sums = F.conv2d(signs, weight.reshape(16, 2, 3, 3), padding=1)
    parts = (torch.from_numpy(part).double() for part in (mean, var, gamma, beta))
    normed = F.batch_norm(sums, *parts, eps=1e-5)
    assert float(normed.abs().min()) > 1e-9, "float64 decides every sign"
    expected = torch.where(F.max_pool2d(normed, pool) >= 0, 1, -1).to(torch.int8)
    np.testing.assert_array_equal(expected.numpy(), run(layer_spec(node, codes.shape), node, codes))
    assert torch.equal(expected, XnorLayer(node)(torch.from_numpy(codes)))
    assert 0.1 < float((expected > 0).double().mean()) < 0.9


def test_real_valued_shortcuts() -> None:
    """A residual block in fixed point has the signs of its real sum of batch norms.

    Two layers give gamma s + beta in int8 steps, the vector unit adds them, and the next layer
    reads the sign: that of the exact sum, unless it is nearer to 0 than the roundings' step.
    """
    rng = np.random.default_rng(4)
    codes = rng.integers(-1, 2, (4, 4, 6, 6)).astype(np.int8)
    signs = torch.from_numpy(np.where(codes >= 0, 1.0, -1.0))
    step, exact, parts = 0.5, torch.zeros(4, 4, 6, 6, dtype=torch.float64), []
    for name in ("main", "shortcut"):
        program, tensors = xnor_layer(rng, 4, 36, mode="fixed", kernel=[3, 3], padding=[1, 1])
        gamma, beta = rng.choice([-1, 1], 4) * rng.uniform(0.2, 0.5, 4), rng.normal(0, 1, 4)
        mult = np.rint(abs(gamma) / step / 16 * 2.0**18).astype(np.uint64)
        bias = np.rint(16 * beta / abs(gamma)).astype(np.int32).view(np.uint32).astype(np.uint64)
        words = bias | mult << np.uint64(32) | np.uint64(18 << 48)
        words |= (gamma < 0).astype(np.uint64) << np.uint64(54)
        tensors["columns"] = raw.encode(words)
        layer = XnorLayer(Node(name, "conv2d", ("x",), program, tensors, "xnor"))
        parts.append(layer(torch.from_numpy(codes)))
        weight = torch.from_numpy(codecs.decode(tensors["weight"]).astype(np.float64))
        sums = F.conv2d(signs, weight.reshape(4, 4, 3, 3), padding=1)
        shape = (-1, 1, 1)
        exact += torch.from_numpy(gamma).reshape(shape) * sums
        exact += torch.from_numpy(beta).reshape(shape)
    add = Node("add", "add", ("main", "shortcut"), {"mul_a": 1, "mul_b": 1, "shift": 0})
    total = apply(add, (parts[0], parts[1]), None)
    # Two roundings of half a step, a sixteenth through rounded biases, less through multipliers.
    decided = exact.abs() > 1.1 * step
    assert float(decided.double().mean()) > 0.7
    assert torch.equal((exact >= 0)[decided], (total >= 0)[decided])
    program, tensors = xnor_layer(rng, 5, 36, kernel=[3, 3], padding=[1, 1])
    after = XnorLayer(Node("after", "conv2d", ("add",), program, tensors, "xnor"))
    assert int((total == 0).sum()) > 0, "sign(0) is +1"
    assert torch.equal(after(total), after(torch.where(total >= 0, 1, -1).to(torch.int8)))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 4)])
def test_linear_keeps_leading_axes(shape: tuple[int, ...]) -> None:
    """A linear layer of any batch axes is the product of signs."""
    rng = np.random.default_rng(5)
    k = 70
    program, tensors = xnor_layer(rng, 9, k, mode="fixed", wide=True, ternary=True)
    tensors["columns"] = exact_columns(9)
    node = Node("layer", "linear", ("x",), program, tensors, "xnor")
    codes = rng.integers(-3, 4, (*shape, k)).astype(np.int8)
    sums = np.where(codes >= 0, 1, -1) @ codecs.decode(tensors["weight"]).astype(np.int64).T
    found = run(layer_spec(node, codes.shape), node, codes)
    np.testing.assert_array_equal(sums, found)
    np.testing.assert_array_equal(sums, XnorLayer(node)(torch.from_numpy(codes)).numpy())
