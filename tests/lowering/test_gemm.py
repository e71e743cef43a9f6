# SPDX-License-Identifier: Apache-2.0
"""A job's memory images hold its operands as docs/engines/w4a8.md says; im2col is a convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.conv import im2col
from cosil.lowering.gemm import (
    conv_jobs,
    conv_output,
    gemm_job,
    layer_jobs,
    layer_output,
    output,
)
from cosil.packed.network import Node
from cosil.packed.tensor import PackedTensor

CHANNEL = W4A8Spec(epilogue="fixed")
GROUP = W4A8Spec(scales="group")


def _weight(values: np.ndarray, group_size: int = 0) -> PackedTensor:
    """Pack int4 values [N, K] nibble by nibble, in plain Python."""
    n, k = values.shape
    offset = group_size > 0
    words = np.zeros((n, -(-k // 8)), dtype=np.uint32)
    for row in range(n):
        for column in range(words.shape[1] * 8):
            value = int(values[row, column]) if column < k else 0
            code = value + 8 if offset else value & 15
            words[row, column // 8] |= np.uint32(code << (4 * (column % 8)))
    scales = {"channel": np.linspace(0.5, 2.0, n, dtype=np.float32)}
    if group_size:
        scales["group"] = np.ones((-(-k // group_size), n), dtype=np.float16)
    params = {"encoding": "offset" if offset else "twos", "group_size": group_size}
    return PackedTensor("int4", 1, (n, k), words, params, scales)


def _product(job, operands) -> np.ndarray:
    """X.W^T of a job, read from the images one nibble and one byte at a time."""
    a, w = operands.a.view(np.int8), operands.w
    acc = np.zeros((job.m, job.n), dtype=np.int64)
    for m in range(job.m):
        for n in range(job.n):
            for k in range(job.k):
                nibble = int(w[job.w_base + n * job.w_stride + k // 8]) >> (4 * (k % 8)) & 15
                value = nibble - 8 if len(operands.s) else nibble - 16 * (nibble >= 8)
                acc[m, n] += int(a[4 * (job.a_base + m * job.a_stride) + k]) * value
    return acc


@settings(max_examples=20, deadline=None)
@given(
    m=st.integers(1, 5),
    n=st.integers(1, 5),
    k=st.integers(1, 19),
    group_size=st.sampled_from([0, 1, 8, 128]),
    seed=st.integers(0, 2**31),
)
def test_images_hold_the_operands(m: int, n: int, k: int, group_size: int, seed: int) -> None:
    """Reading a job's images nibble by nibble gives X.W^T, for each encoding and K modulo 8."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, (m, k)).astype(np.int8)
    values = rng.integers(-8, 8, (n, k))
    spec = W4A8Spec(scales="group" if group_size else "channel", epilogue="fp16")
    row_scales = rng.random(m).astype(np.float32)
    job, operands = gemm_job(spec, codes, _weight(values, group_size), row_scales=row_scales)
    np.testing.assert_array_equal(codes.astype(np.int64) @ values.T, _product(job, operands))
    np.testing.assert_array_equal(row_scales, operands.r.view(np.float32))
    assert operands.e.dtype == np.uint32
    assert (job.m, job.n, job.k) == (m, n, k)
    assert job.group == (group_size or k)


def test_words_pass_through() -> None:
    """Weight words, group scales and column parameters are the packed tensor's own memory."""
    weight = _weight(np.ones((3, 16), dtype=np.int64), 8)
    codes = np.zeros((2, 16), dtype=np.int8)
    _, operands = gemm_job(GROUP, codes, weight, row_scales=np.ones(2, dtype=np.float32))
    assert np.shares_memory(operands.w, weight.words)
    assert np.shares_memory(operands.s, weight.scales["group"])
    assert np.shares_memory(operands.e, weight.scales["channel"])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_im2col_is_a_convolution(data: st.DataObject) -> None:
    """conv_jobs and conv_output give the convolution that nested loops give, groups included."""
    draw = data.draw
    groups = draw(st.sampled_from([1, 2, 3]))
    channels, n = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    batch, height, width = draw(st.integers(1, 2)), draw(st.integers(5, 7)), draw(st.integers(5, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.integers(-128, 128, (batch, channels, height, width)).astype(np.int8)
    per = channels // groups
    values = rng.integers(-8, 8, (n, per * kernel[0] * kernel[1]))
    geometry = {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    jobs = conv_jobs(CHANNEL, x, _weight(values), epilogue=np.zeros(n, dtype=np.uint64), **geometry)
    ys = [_product(job, operands).reshape(-1) for job, operands in jobs]
    y = conv_output(x.shape, [job for job, _ in jobs], ys, **geometry)

    oh = (height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    ow = (width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    expected = np.zeros((batch, n, oh, ow), dtype=np.int64)
    w = values.reshape(n, per, *kernel)
    for b, o, i, j in np.ndindex(*expected.shape):
        for c, p, q in np.ndindex(per, *kernel):
            row = i * stride[0] + p * dilation[0] - padding[0]
            column = j * stride[1] + q * dilation[1] - padding[1]
            if 0 <= row < height and 0 <= column < width:
                source = x[b, o // (n // groups) * per + c, row, column]
                expected[b, o, i, j] += int(source) * int(w[o, c, p, q])
    np.testing.assert_array_equal(expected, y)


def test_layer_round_trip() -> None:
    """A linear node with leading dimensions keeps them, and its flags reach the descriptor."""
    values = np.arange(-8, 8).reshape(2, 8)
    tensors = {
        "weight": _weight(values),
        "epilogue": PackedTensor("raw", 1, (2,), np.zeros(2, dtype=np.uint64)),
    }
    node = Node("fc", "linear", ("x",), {"mode": "fixed", "relu": True, "wide": True}, tensors)
    codes = np.arange(24, dtype=np.int8).reshape(3, 1, 8)
    jobs = layer_jobs(CHANNEL, node, codes)
    assert [job.flags for job, _ in jobs] == [3]
    y = layer_output(node, codes.shape, [jobs[0][0]], [_product(*jobs[0]).reshape(-1)])
    np.testing.assert_array_equal(codes.astype(np.int64) @ values.T, y)


def test_output_honours_base_and_stride() -> None:
    """`output` reads address y_base + m * y_stride + n."""
    weight = _weight(np.ones((2, 8), dtype=np.int64))
    job, _ = gemm_job(
        CHANNEL, np.ones((3, 8), dtype=np.int8), weight, epilogue=np.zeros(2, dtype=np.uint64)
    )
    fields = {name: getattr(job, name) for name in type(job).__dataclass_fields__}
    moved = type(job)(**(fields | {"y_base": 5, "y_stride": 4}))
    np.testing.assert_array_equal([[5, 6], [9, 10], [13, 14]], output(moved, np.arange(15)))
    with pytest.raises(ValueError, match=r"^gemm: the job writes up to address 14, .* not 14$"):
        output(moved, np.arange(14))


EDGES = [
    (
        {"codes": np.zeros((1, 9), dtype=np.int8)},
        r"^gemm: activations have K = 9, but the weight has K = 8; they must be equal$",
    ),
    (
        {"weight": _weight(np.zeros((2, 8), dtype=np.int64), 8)},
        (
            r"^gemm: the weight has encoding 'offset', but the array decodes 'twos'; "
            r"set weight_encoding$"
        ),
    ),
    (
        {"spec": W4A8Spec(scales="group", weight_encoding="twos", epilogue="fixed")},
        (
            r"^gemm: an array with scales 'group' needs a weight of group_size > 0, "
            r"not group_size 0$"
        ),
    ),
    (
        {"spec": W4A8Spec(epilogue="fixed", max_k=7)},
        (
            r"^gemm: the weight has K = 8, but the array's accumulator is proved for "
            r"K <= max_k = 7; raise max_k or split the layer$"
        ),
    ),
    (
        {"epilogue": None},
        r"^gemm: the fixed epilogue needs column parameters uint64\[2\], not None$",
    ),
    (
        {"row_scales": np.ones(1, dtype=np.float32)},
        r"^gemm: row_scales must be None for the fixed epilogue$",
    ),
    (
        {"spec": W4A8Spec()},
        r"^gemm: epilogue must be None for the fp16 epilogue; its scales are the weight's$",
    ),
    (
        {"spec": W4A8Spec(), "epilogue": None},
        r"^gemm: the fp16 epilogue needs row_scales float32\[1\], not None$",
    ),
    (
        {
            "spec": W4A8Spec(),
            "epilogue": None,
            "row_scales": np.ones(1, dtype=np.float32),
            "relu": True,
        },
        r"^gemm: relu and wide are flags of the fixed epilogue, not of fp16$",
    ),
    (
        {"epilogue": np.zeros(3, dtype=np.uint64)},
        r"^gemm: epilogue must have the shape \(2,\), not \(3,\)$",
    ),
]


@pytest.mark.parametrize(("change", "message"), EDGES)
def test_edge_messages(change: dict, message: str) -> None:
    """Each mismatch of array, weight and operands is refused by a message that says what fits."""
    arguments = {
        "spec": CHANNEL,
        "codes": np.zeros((1, 8), dtype=np.int8),
        "weight": _weight(np.zeros((2, 8), dtype=np.int64)),
        "epilogue": np.zeros(2, dtype=np.uint64),
    } | change
    with pytest.raises(ValueError, match=message):
        gemm_job(**arguments)


def test_wrong_dtype_and_infinite_scale() -> None:
    """Codes that are not int8 and group scales that are not finite are refused."""
    weight = _weight(np.zeros((2, 8), dtype=np.int64), 8)
    one = np.ones(1, dtype=np.float32)
    with pytest.raises(TypeError, match=r"^gemm: activation codes must be int8, not int64$"):
        gemm_job(GROUP, np.zeros((1, 8), dtype=np.int64), weight, row_scales=one)
    weight.scales["group"][0, 1] = np.inf
    with pytest.raises(ValueError, match=r"^gemm: group scales must be finite"):
        gemm_job(GROUP, np.zeros((1, 8), dtype=np.int8), weight, row_scales=one)


def test_kernel_that_does_not_fit() -> None:
    """A kernel larger than the padded image is refused."""
    with pytest.raises(ValueError, match=r"^conv2d: kernel \(5, 5\) with dilation \(1, 1\) does"):
        im2col(np.zeros((1, 1, 4, 4), dtype=np.int8), (5, 5))
