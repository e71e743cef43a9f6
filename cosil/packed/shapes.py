# SPDX-License-Identifier: Apache-2.0
"""Dtype and shape of every value of a packed network.

Shapes are without the batch; 0 is a size that is known only when the network runs. Attributes that
name axes count the batch as axis 0, as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from cosil.packed import decomposition as decompose
from cosil.packed.errors import PackedFormatError
from cosil.packed.network import Node
from cosil.packed.ops import DIM_MAX, XNOR_INPUTS_MAX, XNOR_POOL_MAX, Op, attr

MAX_RANK = 7
MAX_ELEMENTS = 2**40


class ValueType(NamedTuple):
    """Dtype ("f32", "ids", "i8", "i16", "f16") and shape of a value."""

    dtype: str
    shape: tuple[int, ...]


def infer(node: Node, entry: Op, inputs: list[ValueType]) -> ValueType:
    """Return the type of a node's output; raise `PackedFormatError` where shapes disagree.

    Attributes and tensors have been checked against the table of operations before.
    """
    context = _Context(node, entry, inputs)
    result = _RULES[node.op](context)
    if len(result.shape) > MAX_RANK or max(result.shape, default=0) > DIM_MAX:
        context.fail(f"output shape {result.shape} is too large")
    if math.prod(max(1, size) for size in result.shape) > MAX_ELEMENTS:
        context.fail(f"output shape {result.shape} has more than 2^40 elements")
    return result


class _Context:
    def __init__(self, node: Node, entry: Op, inputs: list[ValueType]) -> None:
        self.node = node
        self.entry = entry
        self.inputs = inputs
        self.shape = inputs[0].shape
        self.dtype = inputs[0].dtype

    def __getitem__(self, name: str) -> Any:
        return attr(self.entry, self.node.attrs, name)

    def tensor(self, name: str) -> tuple[int, ...]:
        return self.node.tensors[name].shape

    def fail(self, detail: str, rule: str = "shape") -> None:
        raise PackedFormatError(f"node {self.node.name!r}", rule, detail)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        found = self.node.tensors.get(name)
        if found is not None and found.shape != shape:
            raise PackedFormatError(
                f"tensor {self.node.name}:{name}",
                "shape",
                f"shape must be {shape}, not {found.shape}",
            )

    def rank(self, low: int, high: int = MAX_RANK) -> None:
        if not low <= len(self.shape) <= high:
            span = f"{low}" if low == high else f"{low} to {high}"
            self.fail(f"input must have {span} axes besides the batch, not shape {self.shape}")

    def last(self, size: int, what: str) -> None:
        self.rank(1)
        if self.shape[-1] not in (0, size):
            self.fail(f"last axis of the input must be {what} = {size}, not {self.shape[-1]}")


def _same(c: _Context) -> ValueType:
    return c.inputs[0]


def _linear(c: _Context) -> ValueType:
    n, k = c.tensor("weight")
    c.last(k, "K")
    c.expect("epilogue", (n,))
    c.expect("bias", (n,))
    c.expect("columns", (n,))
    if c.entry.engine == "pim":
        _pim(c)
    if c.entry.engine == "xnor":
        _xnor(c)
    return ValueType(_engine_dtype(c), (*c.shape[:-1], n))


def _engine_dtype(c: _Context) -> str:
    if c["mode"] == "fp16":
        return "f16"
    return "i16" if c["wide"] else "i8"


def _pim(c: _Context) -> None:
    """Check what only a node on engine `pim` has; `PimSpec` states the same rules of a macro."""
    decomposition, bits = c["decomposition"], c["weight_bits"]
    planes, columns, mux = decompose.planes(decomposition, bits), c["columns"], c["mux"]
    if c["activation_bits"] % c["slice_bits"]:
        c.fail(
            f"slice_bits must divide activation_bits = {c['activation_bits']}, "
            f"not {c['slice_bits']}",
            "attribute",
        )
    if columns < planes or columns % mux or (mux % planes and planes % mux):
        c.fail(
            f"columns must be at least {planes} and a multiple of mux, and mux a multiple or a "
            f"divisor of {planes}, not {columns} and {mux}",
            "attribute",
        )
    wanted = {
        "encoding": decompose.encoding(decomposition),
        "bits": bits,
        "rows": c["group_rows"],
    }
    found = dict(c.node.tensors["weight"].params)
    if found != wanted:
        c.fail(f"weight must have the parameters {wanted}, not {found}", "weight")
    groups = -(-c.tensor("weight")[1] // c["group_rows"])
    if groups > decompose.GROUPS_MAX:
        c.fail(f"K must take at most {decompose.GROUPS_MAX} groups of rows, not {groups}")
    low, high = decompose.value_range(decomposition, bits, c["slice_bits"], c["group_rows"])
    entries, used = high - low + 1, columns // planes * planes
    if entries > decompose.VALUES_MAX:
        c.fail(f"a column must have at most {decompose.VALUES_MAX} values, not {entries}")
    if c.tensor("transfer") not in ((1, entries), (used, entries)):
        c.fail(
            f"transfer must have the shape (1, {entries}) or ({used}, {entries}), "
            f"not {c.tensor('transfer')}"
        )
    noise = c.tensor("noise") if "noise" in c.node.tensors else (4,)
    if noise not in [(1 << power,) for power in range(2, 11)]:
        c.fail(f"noise must have one axis of 4, 8, 16 .. 1024 entries, not shape {noise}")


def _xnor(c: _Context) -> None:
    """Check what only a node on engine `xnor` has."""
    if c.tensor("weight")[1] > XNOR_INPUTS_MAX:
        c.fail(f"K must be at most {XNOR_INPUTS_MAX}, not {c.tensor('weight')[1]}")
    if c["mode"] == "threshold" and (c["relu"] or c["wide"]):
        c.fail("relu and wide must be false where mode is 'threshold'", "attribute")


def _pooled(c: _Context, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of an image after its pool windows, which do not overlap."""
    pool = c["pool"]
    if c["mode"] != "threshold" and max(pool) > 1:
        c.fail("pool must be [1, 1] where mode is not 'threshold'", "attribute")
    if pool[0] * pool[1] > XNOR_POOL_MAX:
        c.fail(f"a pool window must have at most {XNOR_POOL_MAX} positions, not {pool}")
    if any(0 < found < window for found, window in zip(size, pool, strict=True)):
        c.fail(f"a pool window {pool} must fit the image {size}")
    return tuple(found // window for found, window in zip(size, pool, strict=True))


def _conv2d(c: _Context) -> ValueType:
    c.rank(3, 3)
    n, k = c.tensor("weight")
    c.expect("epilogue", (n,))
    c.expect("columns", (n,))
    channels, (kh, kw) = c.shape[0], c["kernel"]
    groups = c["groups"] if "groups" in c.entry.attrs else 1
    if c.entry.engine == "pim":
        _pim(c)
    if c.entry.engine == "xnor":
        _xnor(c)
    if channels < 1:
        c.fail("the number of channels must be fixed, not 0")
    if channels % groups or n % groups:
        c.fail(f"groups must divide {channels} input and {n} output channels, not {groups}")
    if channels // groups * kh * kw != k:
        c.fail(f"weight must have K = {channels} / {groups} x {kh} x {kw}, not {k}")
    size = _window(c, c["dilation"])
    if c.entry.engine == "xnor":
        size = _pooled(c, size)
    return ValueType(_engine_dtype(c), (n, *size))


def _window(c: _Context, dilation: tuple[int, int]) -> tuple[int, ...]:
    sizes: list[int] = []
    for axis in range(2):
        size = c.shape[axis + 1]
        reach = dilation[axis] * (c["kernel"][axis] - 1) + 1
        span = size + 2 * c["padding"][axis] - reach
        if size and span < 0:
            c.fail(
                f"a window of {reach} must fit the padded image {c.shape}, padding {c['padding']}"
            )
        sizes.append(span // c["stride"][axis] + 1 if size else 0)
    return tuple(sizes)


def _pool(c: _Context) -> ValueType:
    c.rank(3, 3)
    for pad, kernel in zip(c["padding"], c["kernel"], strict=True):
        if 2 * pad > kernel:
            c.fail(f"padding must be at most half the kernel {c['kernel']}, not {c['padding']}")
    if c.node.op == "avgpool" and not c["count_include_pad"]:
        c.fail("count_include_pad must be true", "attribute")
    return ValueType("i8", (c.shape[0], *_window(c, (1, 1))))


def _quantize(c: _Context) -> ValueType:
    return ValueType("i8", c.shape)


def _elementwise(c: _Context) -> ValueType:
    a, b = c.inputs[0].shape, c.inputs[1].shape
    shorter, longer = sorted((a, b), key=len)
    tail = longer[len(longer) - len(shorter) :]
    if any(p != q and 0 not in (p, q) for p, q in zip(shorter, tail, strict=True)):
        c.fail(f"{c.node.op} must read equal trailing shapes, not {a} and {b}")
    joined = tuple(max(p, q) for p, q in zip(shorter, tail, strict=True))
    return ValueType(c.dtype, longer[: len(longer) - len(shorter)] + joined)


def _table(c: _Context) -> ValueType:
    c.expect("table", (257,))
    return c.inputs[0]


def _norm(c: _Context) -> ValueType:
    gamma = c.tensor("gamma")
    if len(gamma) != 1:
        c.fail(f"gamma must have one axis, not shape {gamma}")
    c.last(gamma[0], "that of gamma")
    c.expect("beta", gamma)
    return c.inputs[0]


def _attention(c: _Context) -> ValueType:
    heads, dim = c["heads"], c["head_dim"]
    kv_heads = heads if c["kv_heads"] is None else c["kv_heads"]
    if heads % kv_heads:
        c.fail(f"kv_heads must divide heads = {heads}, not {kv_heads}", "attribute")
    c.expect("exp", (1025,))
    if c.entry.engine == "attention":
        _attention_program(c, heads, kv_heads, dim)
    lengths = {value.shape[0] for value in c.inputs if value.shape}
    for value, count in zip(c.inputs, (heads, kv_heads, kv_heads), strict=True):
        if len(value.shape) != 2 or value.shape[1] not in (0, count * dim):
            c.fail(f"attention must read shapes (L, {count * dim}), not {value.shape}")
    if len(lengths - {0}) > 1:
        c.fail(f"queries, keys and values must have one length, not {sorted(lengths)}")
    tables = [name for name in ("cos", "sin") if name in c.node.tensors]
    if c["rope"] == "none" and tables:
        c.fail("cos and sin must be left out where rope is 'none'", "tensors")
    if c["rope"] != "none":
        if len(tables) != 2 or dim % 2:
            c.fail(f"rope {c['rope']!r} needs cos, sin and an even head_dim, not {dim}", "tensors")
        positions = c.tensor("cos")[0]
        c.expect("cos", (positions, dim // 2))
        c.expect("sin", (positions, dim // 2))
        if max(lengths) > positions:
            c.fail(f"length {max(lengths)} must not exceed the {positions} rows of cos and sin")
    return ValueType("f16", (c.shape[0], heads * dim))


def _attention_program(c: _Context, heads: int, kv_heads: int, dim: int) -> None:
    """Check what only a node on engine `attention` has."""
    if dim & (dim - 1):
        c.fail(f"head_dim must be 8, 16, 32, 64 or 128, not {dim}", "attribute")
    if not c["lsb_bits"] and c["lsb_low"] <= c["lsb_high"]:
        c.fail("lsb_low must exceed lsb_high (never fetch) where lsb_bits is 0", "attribute")
    for name in ("query_scale", "softmax", "output"):
        c.expect(name, (heads,))
    for name in ("key_scale", "value_scale"):
        c.expect(name, (kv_heads,))


def _embedding(c: _Context) -> ValueType:
    table = c.tensor("table")
    if len(table) != 2:
        c.fail(f"table must have two axes, not shape {table}")
    c.rank(1, 1)
    if c["positions"] and c.shape[0] > table[0]:
        c.fail(f"length {c.shape[0]} must not exceed the {table[0]} rows of the table")
    return ValueType("f16", (*c.shape, table[1]))


def _axis(c: _Context, name: str) -> int:
    axis = c[name] - 1
    if axis >= len(c.shape):
        c.fail(f"{name} must be in 1..{len(c.shape)}, not {axis + 1}", "attribute")
    return axis


def _flatten(c: _Context) -> ValueType:
    axis = _axis(c, "start_dim")
    return ValueType(c.dtype, (*c.shape[:axis], math.prod(c.shape[axis:])))


def _reshape(c: _Context) -> ValueType:
    shape: tuple[int, ...] = tuple(c["shape"])
    if shape[0] != -1 or min(shape[1:], default=1) < 1:
        c.fail(
            f"shape must be -1 for the batch, then sizes of at least 1, not {shape}", "attribute"
        )
    if 0 not in c.shape and math.prod(shape[1:]) != math.prod(c.shape):
        c.fail(f"shape {shape} must hold the {math.prod(c.shape)} elements of {c.shape}")
    return ValueType(c.dtype, shape[1:])


def _slice(c: _Context) -> ValueType:
    axis = _axis(c, "dim")
    size = c.shape[axis]
    if size:
        size = len(range(*slice(c["start"], c["stop"], c["step"]).indices(size)))
        if not size:
            c.fail(
                f"slice {c['start']}:{c['stop']} must not be empty on an axis of {c.shape[axis]}"
            )
    return ValueType(c.dtype, (*c.shape[:axis], size, *c.shape[axis + 1 :]))


def _pad_channels(c: _Context) -> ValueType:
    c.rank(1)
    channels = c.shape[0] + c["before"] + c["after"] if c.shape[0] else 0
    return ValueType(c.dtype, (channels, *c.shape[1:]))


def _transpose(c: _Context) -> ValueType:
    perm: list[int] = list(c["perm"])
    if perm[0] != 0 or sorted(perm) != list(range(len(c.shape) + 1)):
        c.fail(
            f"perm must be 0 and a permutation of the axes 1..{len(c.shape)}, not {perm}",
            "attribute",
        )
    return ValueType(c.dtype, tuple(c.shape[axis - 1] for axis in perm[1:]))


def _concat(c: _Context) -> ValueType:
    axis = _axis(c, "dim")
    shapes = [value.shape for value in c.inputs]
    for shape in shapes:
        if len(shape) != len(c.shape) or any(
            i != axis and size != other and 0 not in (size, other)
            for i, (size, other) in enumerate(zip(shape, c.shape, strict=True))
        ):
            c.fail(
                f"concat must read shapes equal but in axis {axis + 1}, not {c.shape} and {shape}"
            )
    joined = [max(shape[i] for shape in shapes) for i in range(len(c.shape))]
    sizes = [shape[axis] for shape in shapes]
    joined[axis] = 0 if 0 in sizes else sum(sizes)
    return ValueType(c.dtype, tuple(joined))


_RULES: dict[str, Callable[[_Context], ValueType]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "quantize": _quantize,
    "add": _elementwise,
    "mul": _elementwise,
    "scale": _same,
    "relu": _same,
    "gelu": _table,
    "silu": _table,
    "layernorm": _norm,
    "rmsnorm": _norm,
    "attention": _attention,
    "avgpool": _pool,
    "maxpool": _pool,
    "requantize": _quantize,
    "embedding": _embedding,
    "flatten": _flatten,
    "reshape": _reshape,
    "slice": _slice,
    "pad_channels": _pad_channels,
    "transpose": _transpose,
    "concat": _concat,
}
