# SPDX-License-Identifier: Apache-2.0
"""The simulator's vector unit and the reference, written apart from each other, give equal bits.

Inputs are drawn as bits, so that subnormals, infinities, NaN, -0 and ties occur; that the common
definition is also the intended function is the claim of tests/algos/test_reference_vector.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.lib.float_ops import KVCache as ReferenceCache
from algos.reference import vector as reference
from cosil.lowering import tables
from cosil.packed import ops, raw
from cosil.packed.network import Node
from sim import vector
from sim.vector import KVCache, add_bias, apply, quantize_rows

pytestmark = pytest.mark.xdist_group("vector")  # one process compiles the kernels

SEEDS = st.integers(0, 2**32 - 1)
CORNERS = np.array(
    [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x4800, 0xC800, 0x47FF],
    dtype=np.uint16,
).view(np.float16)
"""Zeros, least and largest subnormal, least normal, 1, the largest values, 8, -8, just below 8."""
SPECIAL = np.array([0x7C00, 0xFC00, 0x7E00], dtype=np.uint16).view(np.float16)


def _halves(rng: np.random.Generator, *shape: int, special: bool = False) -> np.ndarray:
    """Random float16 of three kinds: normal values, any finite bits, corners."""
    values = (rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 4)).astype(np.float16)
    wild = rng.integers(0, 0x7C00, shape).astype(np.uint16)
    wild |= (rng.integers(0, 2, shape) << 15).astype(np.uint16)
    kind = rng.integers(0, 12, shape)
    values = np.where(kind == 0, wild.view(np.float16), values)
    corners = np.concatenate([CORNERS, SPECIAL]) if special else CORNERS
    return np.where(kind == 1, rng.choice(corners, shape), values)


def _same(expected: torch.Tensor, actual: np.ndarray) -> None:
    array = expected.numpy()
    assert array.dtype == actual.dtype
    assert array.shape == actual.shape
    unsigned = f"u{array.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(array).view(unsigned), np.ascontiguousarray(actual).view(unsigned)
    )


def _check(node: Node, *inputs: np.ndarray) -> np.ndarray:
    """Run a node on both sides, assert equal bits and return the result."""
    actual = apply(node, *inputs)
    _same(reference.apply(node, tuple(torch.from_numpy(x) for x in inputs)), actual)
    return actual


def _node(op: str, attrs: dict[str, Any] | None = None, **constants: np.ndarray) -> Node:
    tensors = {name: raw.encode(array) for name, array in constants.items()}
    return Node("node", op, (), attrs or {}, tensors)


def test_every_operation_is_there() -> None:
    """Both sides know the operations of the packed format that are not the engine's, no other."""
    expected = {name for name, entries in ops.OPS.items() if entries[0].engine != "w4a8"}
    assert expected == set(reference.operations())
    assert expected == set(vector._HANDLERS)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_integer_operations(seed: int) -> None:
    """Quantize, add, requantize and relu agree, saturation, ties and -128 included."""
    rng = np.random.default_rng(seed)
    scale = float(np.ldexp(rng.random() + 0.5, rng.integers(-8, 3)))
    wild = rng.integers(0, 2**32, 50, dtype=np.uint32).view(np.float32)
    wild[np.isnan(wild)] = np.inf
    ties = rng.integers(-300, 300, 99).astype(np.float32) * np.float32(0.5) * np.float32(scale)
    x = np.concatenate([ties, wild]).reshape(1, -1)
    a = _check(_node("quantize", {"scale": scale}), x)
    b = rng.integers(-128, 128, a.shape).astype(np.int8)
    attrs = {"mul_a": int(rng.integers(0, 65536)), "mul_b": int(rng.integers(0, 4))}
    attrs |= {"shift": int(rng.integers(0, 64)), "relu": bool(rng.integers(0, 2))}
    _check(_node("add", attrs), a, b)
    wide = rng.integers(-32768, 32768, (3, 40)).astype(np.int16)
    attrs = {"mul": int(rng.integers(0, 65536)), "shift": int(rng.integers(0, 25))}
    _check(_node("requantize", attrs), wide)
    _check(_node("requantize", attrs), a)
    _check(_node("relu"), wide)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_pooling(seed: int) -> None:
    """Average and maximum agree for every kernel, stride and padding, -128 everywhere included."""
    rng = np.random.default_rng(seed)
    kernel = rng.integers(1, 4, 2).tolist()
    attrs = {
        "kernel": kernel,
        "stride": rng.integers(1, 4, 2).tolist(),
        "padding": [int(rng.integers(0, size // 2 + 1)) for size in kernel],
    }
    x = rng.choice([-128, 127, 0, 3, -50], (2, 3, 7, 5)).astype(np.int8)
    _check(_node("maxpool", attrs), x)
    mul, shift = int(rng.integers(0, 65536)), int(rng.integers(0, 20))
    _check(_node("avgpool", attrs | {"mul": mul, "shift": shift, "count_include_pad": True}), x)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_half_operations(seed: int) -> None:
    """Sums, products (broadcast too), scale, relu, bias agree on any bits, infinity and NaN too."""
    rng = np.random.default_rng(seed)
    a, b = _halves(rng, 2, 5, 6, special=True), _halves(rng, 2, 5, 6, special=True)
    with np.errstate(invalid="ignore"):
        for op in ("add", "mul"):
            _check(_node(op), a, b)
            _check(_node(op), a, b[0, 0])
        _check(_node("scale", {"factor": float(np.float32(rng.standard_normal()))}), a)
        _check(_node("relu"), a)
        bias = _halves(rng, 6)
        _same(reference.add(torch.from_numpy(a), torch.from_numpy(bias)), add_bias(a, bias))


@pytest.mark.parametrize("table", [tables.gelu_table, tables.silu_table], ids=["gelu", "silu"])
def test_activation_on_every_input(table: Callable[[], np.ndarray]) -> None:
    """Table functions agree on all 65,536 inputs; every NaN becomes the canonical one."""
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    _check(_node("gelu", table=table()), x[None])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, d=st.sampled_from([1, 2, 3, 5, 8, 31, 32, 33]))
def test_normalisation(seed: int, d: int) -> None:
    """Both norms agree for sizes about powers of two, with overflow to infinity and NaN in rows."""
    rng = np.random.default_rng(seed)
    x = _halves(rng, 2, 3, d, special=bool(rng.integers(0, 2)))
    gamma = rng.standard_normal(d).astype(np.float32)
    beta = rng.standard_normal(d).astype(np.float32)
    eps = float(rng.choice([0.0, 1e-5, 1e-6]))
    with np.errstate(invalid="ignore"):
        _check(_node("layernorm", {"eps": eps}, gamma=gamma, beta=beta), x)
        _check(_node("layernorm", {"eps": eps}, gamma=gamma), x)
        _check(_node("rmsnorm", {"eps": eps}, gamma=gamma), x)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_quantize_rows(seed: int) -> None:
    """Codes and scales of the dynamic quantisation agree: zero, subnormal and largest rows too."""
    rng = np.random.default_rng(seed)
    x = _halves(rng, 2, 6, 7)
    x[0, 0] = 0
    x[0, 1] = np.float16(2.0**-24) * rng.integers(-63, 64, 7)  # a_s rounds to 0
    x[0, 2] = np.float16(2.0**-24) * rng.integers(-300, 300, 7)  # a_s is subnormal
    x[0, 3, 0] = 65504
    codes, scales = quantize_rows(x)
    expected_codes, expected_scales = reference.quantize_rows(torch.from_numpy(x))
    _same(expected_codes, codes)
    _same(expected_scales, scales)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_attention(seed: int) -> None:
    """Attention agrees for each rotary style, head grouping, mask, odd size; with a cache too."""
    rng = np.random.default_rng(seed)
    kv_heads, share = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    dim, length = int(rng.choice([2, 4, 6, 8])), int(rng.integers(1, 10))
    style = str(rng.choice(["none", "half", "interleaved"]))
    attrs = {
        "heads": kv_heads * share,
        "kv_heads": kv_heads,
        "head_dim": dim,
        "causal": bool(rng.integers(0, 2)),
        "scale": float(rng.choice([1.0, 0.125, dim**-0.5, -30.0])),
        "rope": style,
    }
    constants = {"exp": tables.exp2_table()}
    if style != "none":
        cos, sin = tables.rope_tables(12, dim)
        constants |= {"cos": cos, "sin": sin}
    node = _node("attention", attrs, **constants)
    width = kv_heads * dim
    gain = np.float16(rng.choice([0.1, 1.0, 8.0]))
    shapes = ((2, length, width * share), (2, length, width), (2, length, width))
    inputs = [(rng.standard_normal(shape)).astype(np.float16) * gain for shape in shapes]
    inputs[2] = _halves(rng, 2, length, width, special=True)
    with np.errstate(invalid="ignore"):
        _check(node, *inputs)
        ours, theirs = KVCache(), ReferenceCache()
        for step in range(2):
            parts = [x[:, step::2] for x in inputs]
            if not parts[0].shape[1]:
                break
            expected = reference.apply(node, tuple(map(torch.from_numpy, parts)), theirs)
            _same(expected, apply(node, *parts, cache=ours))
            theirs.commit(parts[0].shape[1])
            ours.commit(parts[0].shape[1])
        assert theirs.length == ours.length


def test_movement() -> None:
    """Operations without arithmetic agree, position rows and a reversed slice bound included."""
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, (2, 4, 6, 5)).astype(np.int8)
    _check(_node("flatten", {"start_dim": 2}), x)
    _check(_node("reshape", {"shape": [-1, 8, 15]}), x)
    _check(_node("slice", {"dim": 2, "start": 1, "stop": -1, "step": 2}), x)
    _check(_node("pad_channels", {"before": 1, "after": 3}), x)
    _check(_node("transpose", {"perm": [0, 3, 1, 2]}), x)
    _check(_node("concat", {"dim": 1}), x, x[:, :1])
    table = _halves(rng, 9, 3)
    ids = rng.integers(0, 9, (2, 4)).astype(np.int32)
    _check(_node("embedding", table=table), ids)
    _check(_node("embedding", {"positions": True}, table=table), ids)


REFUSED = [
    (_node("quantize", {"scale": 1.0}), np.array([[np.nan]], np.float32), r"^quantize: .* NaN$"),
    (
        _node("embedding", table=np.zeros((3, 2), np.float16)),
        np.array([[0, 3]], np.int32),
        r"^node: token numbers must be in 0\.\.2, not 0\.\.3$",
    ),
    (
        _node("embedding", {"positions": True}, table=np.zeros((3, 2), np.float16)),
        np.zeros((1, 4), np.int32),
        r"^node: position 3 is past the table of 3 positions$",
    ),
    (
        _node("conv2d"),
        np.zeros((1, 1)),
        r"^vector: node 'node' must be one of quantize, .*conv2d'$",
    ),
]


@pytest.mark.parametrize(("node", "x", "message"), REFUSED, ids=["nan", "id", "position", "op"])
def test_refusals_agree(node: Node, x: np.ndarray, message: str) -> None:
    """What one side refuses the other refuses, with the same message."""
    with pytest.raises(ValueError, match=message):
        apply(node, x)
    with pytest.raises(ValueError, match=message):
        reference.apply(node, (torch.from_numpy(x),))


def test_infinite_activations_and_scores_are_refused() -> None:
    """An infinite or NaN activation, and a score that overflows float32, name their place."""
    for bad in (np.inf, np.nan):
        x = np.ones((3, 4), dtype=np.float16)
        x[1, 2] = bad
        message = r"^fc: activations must be finite, but row 1 holds an infinity or NaN$"
        with pytest.raises(ValueError, match=message):
            quantize_rows(x, "fc")
        with pytest.raises(ValueError, match=message):
            reference.quantize_rows(torch.from_numpy(x), "fc")
    attrs = {"heads": 1, "kv_heads": 1, "head_dim": 2, "causal": False, "scale": 3e38}
    node = _node("attention", attrs, exp=tables.exp2_table())
    q = np.full((1, 2, 2), 2.0, dtype=np.float16)
    with pytest.raises(ValueError, match=r"^node: attention scores must be finite$"):
        apply(node, q, q, q)
    with pytest.raises(ValueError, match=r"^node: attention scores must be finite$"):
        reference.apply(node, (torch.from_numpy(q),) * 3)


@pytest.mark.nojit
def test_kernels_as_plain_python() -> None:
    """A small case of each kernel; with NUMBA_DISABLE_JIT=1 it reads them as plain Python."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 3, 4)).astype(np.float16)
    one = np.ones(4, dtype=np.float32)
    _check(_node("layernorm", {"eps": 1e-5}, gamma=one, beta=one), x)
    _check(_node("silu", table=tables.silu_table()), x)
    _check(_node("add"), x, x)
    _check(_node("scale", {"factor": 0.3}), x)
    cos, sin = tables.rope_tables(4, 2)
    attrs = {"heads": 2, "kv_heads": 2, "head_dim": 2, "causal": True, "scale": 0.7, "rope": "half"}
    _check(_node("attention", attrs, exp=tables.exp2_table(), cos=cos, sin=sin), x, x, x)
    codes, _ = quantize_rows(x)
    _same(reference.quantize_rows(torch.from_numpy(x))[0], codes)
    _check(_node("quantize", {"scale": 0.1}), x.astype(np.float32))
    _check(_node("add", {"mul_a": 3, "mul_b": 5, "shift": 3}), codes, codes)
    pool = {"kernel": [2, 2], "stride": [1, 2], "padding": [1, 0]}
    _check(_node("maxpool", pool), codes.reshape(1, 1, 3, 4))
    _check(_node("avgpool", pool | {"mul": 3, "shift": 2}), codes.reshape(1, 1, 3, 4))
    _check(_node("requantize", {"mul": 3, "shift": 2}), codes)
