# SPDX-License-Identifier: Apache-2.0
"""Jobs of the PIM macro hold a layer's operands as docs/engines/pim.md says."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_networks import pim_layer
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import (
    FLAG_NOISE,
    FLAG_RELU,
    FLAG_TRANSFER,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
    check_job,
    layer_jobs,
    layer_output,
    layer_spec,
    macro_transfer,
    tile_states,
    unsuited,
)
from cosil.packed import bitplane
from cosil.packed.decomposition import DECOMPOSITIONS, value_range
from cosil.packed.generators import fmix32
from cosil.packed.network import Node


def _node(op: str = "linear", n: int = 10, k: int = 30, seed: int = 0, **attrs: Any) -> Node:
    program, tensors = pim_layer(np.random.default_rng(seed), n, k, **attrs)
    return Node("layer", op, ("x",), program, tensors, "pim")


def _larger(spec: PimSpec, **changes: Any) -> PimSpec:
    return PimSpec(**{**asdict(spec), "epilogue_lanes": 0, **changes})


def _product(spec: PimSpec, job: Job, operands: Operands) -> np.ndarray:
    """Return X.W^T of a job, its cells read one bit at a time."""
    factors = np.outer(spec.plane_weights, 2 ** np.arange(spec.cell_bits))
    if spec.decomposition == "native":
        factors[:, -1] *= -1
    acc = np.zeros((job.m, job.n), dtype=np.int64)
    for o, k in np.ndindex(job.n, job.k):
        group, row = divmod(k, job.rows)
        words = operands.w[o, :, group, row // 64].tolist()
        bits = [word >> row % 64 & 1 for word in words]
        weight = int(factors.reshape(-1) @ bits)
        acc[:, o] += operands.x[:, k].astype(np.int64) * weight
    return acc


def test_descriptor() -> None:
    """The eight words are the fields in order."""
    job = Job(5, 300, 64, 128, FLAG_WEIGHTS | FLAG_WIDE)
    assert job.words().tolist() == [5, 300, 64, 128, 17, 0, 0, 0]
    assert job.words().dtype == np.uint32
    assert job.groups == 3
    assert (job.has(FLAG_WIDE), job.has(FLAG_NOISE)) == (True, False)


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_convolution(decomposition: str, data: st.DataObject) -> None:
    """Tiles, im2col and layer_output give the convolution that nested loops give."""
    draw = data.draw
    channels, n = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    batch, height, width = draw(st.integers(1, 2)), draw(st.integers(5, 7)), draw(st.integers(5, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    k = channels * kernel[0] * kernel[1]
    node = _node("conv2d", n, k, decomposition=decomposition, group_rows=draw(st.integers(1, 70)),
                 mux=4, columns=draw(st.sampled_from([4, 8, 12])), kernel=kernel, stride=stride,
                 padding=padding, dilation=dilation)  # fmt: skip
    spec = layer_spec(node)
    x = rng.integers(-128, 128, (batch, channels, height, width)).astype(np.int8)
    lowered = layer_jobs(spec, node, x)
    jobs = [job for job, _ in lowered]
    ys = [_product(spec, job, operands) for job, operands in lowered]
    y = layer_output(node, x.shape, jobs, ys)

    oh = (height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    ow = (width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    expected = np.zeros((batch, n, oh, ow), dtype=np.int64)
    w = bitplane.decode(node.tensors["weight"]).reshape(n, channels, *kernel)
    for b, o, i, j in np.ndindex(*expected.shape):
        for c, p, q in np.ndindex(channels, *kernel):
            row = i * stride[0] + p * dilation[0] - padding[0]
            column = j * stride[1] + q * dilation[1] - padding[1]
            if 0 <= row < height and 0 <= column < width:
                code = min(max(int(x[b, c, row, column]), 0), 15)
                expected[b, o, i, j] += code * int(w[o, c, p, q])
    np.testing.assert_array_equal(expected, y)
    assert len(jobs) == -(-n // spec.outputs)


@pytest.mark.parametrize("activation_bits", [2, 4, 8])
def test_linear_clamps_and_keeps_leading_axes(activation_bits: int) -> None:
    """Codes below 0 become 0 and those above the range its end; axes before the last are rows."""
    node = _node(activation_bits=activation_bits)
    x = np.random.default_rng(1).integers(-128, 128, (2, 3, 30)).astype(np.int8)
    spec = layer_spec(node)
    lowered = layer_jobs(spec, node, x)
    codes = lowered[0][1].x
    assert codes.tolist() == [
        [min(max(code, 0), 2**activation_bits - 1) for code in row]
        for row in x.reshape(6, 30).tolist()
    ]
    w = bitplane.decode(node.tensors["weight"]).astype(np.int64)
    ys = [_product(spec, job, operands) for job, operands in lowered]
    y = layer_output(node, x.shape, [job for job, _ in lowered], ys)
    np.testing.assert_array_equal(codes.reshape(2, 3, 30).astype(np.int64) @ w.T, y)


def test_tiles_load_what_they_need() -> None:
    """Each tile loads weights and noise, the first one the tables too; the rest is the node's."""
    node = _node(n=14, noise=0.5, errors=True, relu=True, wide=True, noise_seed=7)
    spec = _larger(layer_spec(node), rows=100, groups=9, noise_bits=6)
    x = np.ones((2, 30), np.int8)
    lowered = layer_jobs(spec, node, x)
    always = FLAG_WEIGHTS | FLAG_NOISE | FLAG_RELU | FLAG_WIDE
    assert [job.flags for job, _ in lowered] == [always | FLAG_TRANSFER, always, always]
    assert [(job.m, job.k, job.n, job.rows) for job, _ in lowered] == [
        (2, 30, 6, 12), (2, 30, 6, 12), (2, 30, 2, 12),
    ]  # fmt: skip
    words = np.concatenate([operands.w for _, operands in lowered])
    np.testing.assert_array_equal(node.tensors["weight"].words, words)
    epilogue = np.concatenate([operands.e for _, operands in lowered])
    np.testing.assert_array_equal(node.tensors["epilogue"].words, epilogue)
    for tile, (job, operands) in enumerate(lowered):
        check_job(spec, job, operands)
        states = [fmix32(7 + tile * spec.adcs + adc) for adc in range(spec.adcs)]
        assert states == operands.states.tolist()
        for draw in (0, 2**26, 2**28 - 1, 2**28, 2**31 + 12345, 2**32 - 1):
            assert operands.noise[draw >> 26] == node.tensors["noise"].words[draw >> 28]


def test_nodes_without_noise() -> None:
    """A macro that draws loads zeros for them; one that does not has neither table nor states."""
    node = _node()
    x = np.zeros((1, 30), np.int8)
    job, operands = layer_jobs(_larger(layer_spec(node), noise_bits=3), node, x)[0]
    assert operands.noise.tolist() == [0] * 8
    assert operands.states.size == 6
    assert job.has(FLAG_NOISE)
    job, operands = layer_jobs(layer_spec(node), node, x)[0]
    assert operands.noise.size == operands.states.size == 0
    assert not job.has(FLAG_NOISE)


def test_states_are_the_published_finaliser() -> None:
    """Stream 0 begins at 1, stream 1 at MurmurHash3's hash of nothing for seed 1; they wrap."""
    spec = PimSpec(columns=16, mux=8)
    assert tile_states(spec, 0, 0).tolist() == [1, 0x514E28B7]
    assert tile_states(spec, 2**32 - 2, 1).tolist() == [1, 0x514E28B7]
    assert tile_states(spec, 2**32 - 1, 0).tolist() == [0x81F16F39, 1]


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@pytest.mark.parametrize("own", [False, True])
def test_tables_keep_their_values(decomposition: Any, own: bool) -> None:
    """A value addresses the same entry in the macro's coordinates as in the layer's, per column."""
    spec = PimSpec(decomposition, rows=20, columns=13, mux=1, slice_bits=2)
    low, high = value_range(decomposition, 4, 2, 7)
    used = spec.outputs * spec.planes
    rng = np.random.default_rng(2)
    shape = (used if own else 1, high - low + 1)
    tables = rng.integers(-(2**15), 2**15, shape).astype(np.int16)
    memory = macro_transfer(spec, tables, 7)
    assert memory.shape == (13, spec.entries)
    assert memory.dtype == np.int16
    for c in range(used):
        row = tables[c if own else 0].tolist()
        for v in range(spec.value_min, spec.value_max + 1):
            assert memory[c, v - spec.value_min] == row[min(max(v, low), high) - low]
    assert not memory[used:].any()
    with pytest.raises(ValueError, match=r"^pim: transfer tables of 8 rows must have shape \(1 or"):
        macro_transfer(spec, tables, 8)


def test_unsuited_macros_are_named() -> None:
    """What is missing is listed; columns and mux only count where columns differ."""
    ideal, own = _node(), _node(noise=0.5)
    spec = layer_spec(own)
    assert unsuited(spec, own) == []
    assert unsuited(_larger(spec, rows=900, groups=200, noise_bits=10), own) == []
    assert unsuited(_larger(spec, columns=48, mux=8, noise_bits=0), ideal) == []
    wrong = _larger(spec, columns=48, mux=8, adc_bits=7, rows=11, groups=2, noise_bits=3)
    assert unsuited(wrong, own) == [
        "adc_bits = 5, not 7", "columns = 24, not 48", "mux = 4, not 8", "rows >= 12, not 11",
        "groups >= 3, not 2", "noise_bits >= 4, not 3",
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"^pim: node 'layer' needs a macro with adc_bits = 5, not"
    ):
        layer_jobs(wrong, own, np.zeros((1, 30), np.int8))


def test_wrong_nodes_and_codes_are_refused() -> None:
    """Another engine's node, codes of another type or K, and results of another shape."""
    node = _node()
    spec = layer_spec(node)
    x = np.zeros((1, 30), np.int8)
    with pytest.raises(
        ValueError, match=r"^pim: node 'layer' must be .* on engine 'pim', not 'lin"
    ):
        layer_jobs(spec, replace(node, engine="w4a8"), x)
    with pytest.raises(ValueError, match=r"^pim: node 'layer' must read K = 30 codes, not 29$"):
        layer_jobs(spec, node, x[:, :29])
    with pytest.raises(TypeError, match=r"^gemm: activation codes must be int8, not uint8$"):
        layer_jobs(spec, node, x.astype(np.uint8))
    jobs = [job for job, _ in layer_jobs(spec, node, x)]
    with pytest.raises(
        ValueError, match=r"^pim: a job's y must have shape \(1, 6\), not \(6, 1\)$"
    ):
        layer_output(node, x.shape, jobs, [np.zeros((6, 1)), np.zeros((1, 4))])


@pytest.mark.parametrize(
    ("job", "operands", "message"),
    [
        ({"m": 0}, {}, "m of a job must be in 1..4294967295, not 0"),
        ({"rows": 13}, {}, "rows of a job must be in 1..12, not 13"),
        ({"k": 37}, {}, "k of a job must be in 1..36, not 37"),
        ({"n": 7}, {}, "n of a job must be in 1..6, not 7"),
        ({"flags": 32}, {}, "flags of a job must be in 0..31, with 4 only where there is noise"),
        ({"flags": 4}, {}, "flags of a job must be in 0..31, with 4 only where there is noise"),
        ({}, {"x": np.zeros((2, 30), np.uint8)}, "x must have the shape (1, 30), not (2, 30)"),
        ({}, {"x": np.full((1, 30), 16, np.uint8)},
         "activation codes must be in 0..15, not 16"),
        ({}, {"w": np.zeros((6, 4, 3, 2), np.uint64)},
         "w must have the shape (6, 4, 3, 1), not (6, 4, 3, 2)"),
        ({}, {"transfer": np.zeros((24, 36), np.int16)},
         "transfer must have the shape (24, 37), not (24, 36)"),
        ({}, {"noise": np.zeros(8, np.int16)}, "noise must have the shape (0,), not (8,)"),
        ({}, {"states": np.zeros(6, np.uint32)}, "states must have the shape (0,), not (6,)"),
        ({}, {"e": np.zeros(5, np.uint64)}, "e must have the shape (6,), not (5,)"),
    ],
)  # fmt: skip
def test_jobs_are_checked(job: dict[str, int], operands: dict[str, Any], message: str) -> None:
    """Each field and each array that does not fit the macro is refused by name."""
    node = _node()
    spec = layer_spec(node)
    good, held = layer_jobs(spec, node, np.zeros((1, 30), np.int8))[0]
    check_job(spec, good, held)
    with pytest.raises(ValueError, match=r"^pim: ") as caught:
        check_job(spec, replace(good, **job), replace(held, **operands))
    assert str(caught.value).startswith(f"pim: {message}")


def test_dtypes_are_checked() -> None:
    """An array of another dtype is a TypeError."""
    node = _node()
    job, held = layer_jobs(layer_spec(node), node, np.zeros((1, 30), np.int8))[0]
    with pytest.raises(TypeError, match=r"^pim: w must be uint64, not int64$"):
        check_job(layer_spec(node), job, replace(held, w=held.w.astype(np.int64)))
