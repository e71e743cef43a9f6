# SPDX-License-Identifier: Apache-2.0
"""Layers as jobs of the XNOR array: words by hand, order of windows, tiles, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzz_networks import xnor_layer
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    layer_jobs,
    layer_output,
    layer_spec,
    unsuited,
    weight_words,
)
from cosil.packed import binary, raw, ternary
from cosil.packed.network import Node

LOADS = FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS


def node_of(op: str, weight: Any, n: int, **attrs: Any) -> Node:
    """Return a node of mode threshold with columns 0."""
    tensors = {"weight": weight, "columns": raw.encode(np.zeros(n, np.uint64))}
    return Node("layer", op, ("x",), {"mode": "threshold", **attrs}, tensors, "xnor")


def test_job_words() -> None:
    """The descriptor's words are in the order of section 4."""
    job = Job(m=6, k=100, n=5, pool=3, classes=2, flags=LOADS | FLAG_WIDE)
    assert [6, 100, 5, 3, 2, 23, 0, 0] == job.words().tolist()
    assert job.words().dtype == np.uint32
    assert job.has(FLAG_WIDE)
    assert not job.has(FLAG_RELU)


def test_linear_by_hand() -> None:
    """Codes of 0 and more are 1 bits; base counts the non-zero weights."""
    weight = ternary.encode(np.array([[1, 0, -1], [0, 0, 0]]))
    node = node_of("linear", weight, 2)
    codes = np.array([[0, -1, 5], [-128, 127, -3]], np.int8)
    ((job, operands),) = layer_jobs(
        XnorSpec(pe=1, simd=1, weights="ternary", max_inputs=3, max_outputs=2), node, codes
    )
    assert (job.m, job.k, job.n, job.pool, job.classes, job.flags) == (2, 3, 2, 1, 1, LOADS)
    assert [[0b101], [0b010]] == operands.x.tolist()
    assert [[[0b001], [0b101]], [[0], [0]]] == operands.w.tolist()
    assert [[2, 0]] == operands.base.tolist()
    assert [0, 0] == operands.border.tolist()
    y = layer_output(node, codes.shape, [job], [np.array([[1, 0], [0, 1]], np.int8)])
    assert [[1, -1], [-1, 1]] == y.tolist()
    assert y.dtype == np.int8


def test_borders_by_hand() -> None:
    """A 1x3 kernel over three pixels has classes left, inside, right; padding is driven as 0 bits.

    base is K plus the weights that are padded: 3 + 1 on the left, 3 - 1 on the right.
    """
    weight = binary.encode(np.array([[1, 1, -1]]))
    node = node_of("conv2d", weight, 1, kernel=[1, 3], padding=[0, 1])
    codes = np.array([[[[1, -1, 1]]]], np.int8)
    spec = layer_spec(node, codes.shape)
    ((job, operands),) = layer_jobs(spec, node, codes)
    assert job.classes == 3
    assert [0b010, 0b101, 0b010] == operands.x.ravel().tolist()
    by_position = operands.base[operands.border, 0].tolist()
    assert [3 + 1, 3, 3 - 1] == by_position
    assert 3 == operands.base[0, 0], "class 0 is the inside"
    sums = [base - 2 * (x ^ 0b011).bit_count()
            for base, x in zip(by_position, operands.x.ravel().tolist(), strict=True)]  # fmt: skip
    assert [1 + 1, 1 - 1 - 1, -1 + 1] == sums
    for value, first in ((-1, 0b010), (1, 0b011)):
        filled = replace(node, attrs={**node.attrs, "pad_value": value})
        ((job, operands),) = layer_jobs(spec, filled, codes)
        assert job.classes == 1
        assert [[3]] == operands.base.tolist()
        assert first == operands.x[0, 0]


def test_windows_lie_one_after_the_other() -> None:
    """A 2x2 pool over a 3x5 image: vectors window by window; the last row and column are left out.

    A 1x1 kernel over pixels numbered in binary, so that a vector is its position.
    """
    weight = binary.encode(np.ones((1, 4), np.int8))
    node = node_of("conv2d", weight, 1, kernel=[1, 1], pool=[2, 2])
    number = np.arange(15).reshape(3, 5)
    one = np.stack([number >> bit & 1 for bit in range(4)])
    codes = np.stack([2 * one - 1, 1 - 2 * one]).astype(np.int8)
    ((job, operands),) = layer_jobs(layer_spec(node, codes.shape), node, codes)
    assert (job.m, job.pool) == (16, 4)
    order = [0, 1, 5, 6, 2, 3, 7, 8]
    assert order + [15 - v for v in order] == operands.x.ravel().tolist()
    y = layer_output(node, codes.shape, [job], [np.array([[0], [1], [1], [0]], np.int8)])
    assert [[[[-1, 1]]], [[[1, -1]]]] == y.tolist()


def test_outputs_beyond_the_array_are_more_jobs() -> None:
    """Seven outputs on an array of three are jobs of 3, 3 and 1, each with its weights."""
    rng = np.random.default_rng(0)
    program, tensors = xnor_layer(rng, 7, 70, mode="fixed", relu=True, wide=True)
    node = Node("layer", "linear", ("x",), program, tensors, "xnor")
    codes = rng.integers(-1, 2, (4, 70)).astype(np.int8)
    spec = XnorSpec(pe=2, simd=8, epilogue="fixed", max_inputs=70, max_outputs=3)
    lowered = layer_jobs(spec, node, codes)
    assert [3, 3, 1] == [job.n for job, _ in lowered]
    assert {LOADS | FLAG_RELU | FLAG_WIDE} == {job.flags for job, _ in lowered}
    for name, axis in (("w", 0), ("base", 1), ("e", 0)):
        parts = [getattr(operands, name) for _, operands in lowered]
        ((_, whole),) = layer_jobs(replace(spec, max_outputs=7), node, codes)
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate(parts, axis=axis))


def test_polarity_and_planes_of_weights() -> None:
    """Words of either polarity are the same signs; a ternary array takes all weights as used."""
    codes = np.array([[1, -1, 1]])
    for polarity in binary.POLARITIES:
        tensor = binary.encode(codes, polarity=polarity)  # type: ignore[arg-type]
        assert [[[0b101]]] == weight_words(tensor, ternary=False).tolist()
        assert [[[0b101], [0b111]]] == weight_words(tensor, ternary=True).tolist()


def test_base_of_a_window_that_is_all_padding() -> None:
    """A window without inputs sums to 0: base is K plus all its weights, up to 2 K."""
    weight = binary.encode(np.array([[1] * 9, [-1] * 9]))
    node = node_of("conv2d", weight, 2, kernel=[3, 3], padding=[3, 3])
    codes = np.ones((1, 1, 1, 1), np.int8)
    ((_, operands),) = layer_jobs(layer_spec(node, codes.shape), node, codes)
    corner = operands.base[operands.border[0]].tolist()
    assert [18, 0] == corner
    assert 0 == operands.x[0, 0]


REFUSED = "xnor: node 'layer' needs an array with "


def test_unsuited_arrays_are_named() -> None:
    """An array is told all that it lacks; one that has more than enough runs the node."""
    weight = ternary.encode(np.zeros((4, 36), np.int8))
    node = node_of("conv2d", weight, 4, kernel=[3, 3], padding=[1, 1])
    spec = XnorSpec(pe=1, simd=1, epilogue="fixed", max_inputs=35, max_outputs=1, border_classes=8)
    reasons = [
        "epilogue = 'threshold', not 'fixed'", "weights = 'ternary', not 'binary'",
        "max_inputs >= 36, not 35", "border_classes >= 9, not 8",
    ]  # fmt: skip
    shape = (1, 4, 5, 5)
    assert reasons == unsuited(spec, node, shape)
    assert reasons[:3] == unsuited(spec, node, (1, 4, 1, 5))  # 1 x 3 kinds of windows
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED + ', '.join(reasons))}$"):
        layer_jobs(spec, node, np.zeros(shape, np.int8))
    assert [] == unsuited(XnorSpec(weights="ternary"), node, shape)
    assert [] == unsuited(layer_spec(node, shape), node, shape)


@pytest.mark.parametrize(
    ("changes", "codes", "message"),
    [
        ({"op": "add"}, np.zeros((1, 3), np.int8),
         "xnor: node 'layer' must be 'linear' or 'conv2d' on engine 'xnor', not 'add' on 'xnor'"),
        ({"engine": "pim"}, np.zeros((1, 3), np.int8),
         "xnor: node 'layer' must be 'linear' or 'conv2d' on engine 'xnor', not 'linear' on 'pim'"),
        ({}, np.zeros((2, 4), np.int8), "xnor: node 'layer' must read K = 3 codes, not 4"),
        ({}, np.zeros((0, 3), np.int8),
         "gemm: activation codes must have 2 dimensions, none empty, not shape (0, 3)"),
    ],
)  # fmt: skip
def test_wrong_codes_are_refused(changes: dict[str, Any], codes: Any, message: str) -> None:
    """Codes that do not suit the node, and other nodes, are refused."""
    node = replace(node_of("linear", binary.encode(np.ones((1, 3), np.int8)), 1), **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer_jobs(XnorSpec(), node, codes)


def test_outputs_of_the_wrong_shape_are_refused() -> None:
    """A result for each vector is not one for each window."""
    weight = binary.encode(np.ones((1, 1), np.int8))
    node = node_of("conv2d", weight, 1, kernel=[1, 1], pool=[2, 2])
    job = Job(m=4, k=1, n=1, pool=4)
    with pytest.raises(ValueError, match=r"^xnor: a job's y must have shape \(1, 1\), not \(4,"):
        layer_output(node, (1, 1, 2, 2), [job], [np.zeros((4, 1), np.int8)])
