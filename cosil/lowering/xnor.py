# SPDX-License-Identifier: Apache-2.0
"""Matrix products and convolutions of signs as jobs of the XNOR array.

A job and what its streams carry (docs/engines/xnor.md, sections 3 and 4), and a layer as jobs of as
many outputs as the array holds. Every check that a layer suits the array is made at this edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.conv import (
    Borders,
    Pair,
    borders,
    check_codes,
    conv_geometry,
    conv_images,
    conv_size,
    im2col,
    pair,
    windows,
)
from cosil.lowering.operands import check_arrays
from cosil.packed import binary, bits, codecs
from cosil.packed.network import Node
from cosil.packed.ops import XNOR_POOL_MAX, engine_attr
from cosil.packed.tensor import PackedTensor

FLAG_WEIGHTS = 1
FLAG_BASE = 2
FLAG_COLUMNS = 4
FLAG_RELU = 8
FLAG_WIDE = 16

COLUMN_BITS = 55
"""Bits in use of a word of column parameters."""


@dataclass(frozen=True, slots=True)
class Job:
    """The 8-word descriptor (docs/engines/xnor.md, section 4); field order is word order."""

    m: int
    k: int
    n: int
    pool: int = 1
    classes: int = 1
    flags: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the descriptor, uint32[8]."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([*values, 0, 0], dtype=np.uint32)

    def has(self, flag: int) -> bool:
        """Return whether a flag is set."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """What a job computes with, whether it loads it or finds it in the array (the flags say).

    Attributes
    ----------
    x : uint64[M, ceil(K / 64)]
        Activation bits, 1 for +1: element k is bit k % 64 of word k // 64; bits past K are 0. The
        vectors of a pool window lie one after the other.
    border : uint8[M]
        Class of each vector, 0..classes - 1: the row of `base` that it takes.
    w : uint64[n, 1 or 2, ceil(K / 64)]
        Sign bits packed like x, 1 for +1; where the array has ternary weights then non-zero bits,
        and sign bits of weights 0 are 0.
    base : uint16[classes, n]
        0..2 K.
    e : uint64[n]
        Column parameters: threshold or bias int32 in bits 0..31, mult 32..47, shift 48..53,
        flip or negate 54.
    """

    x: NDArray[np.uint64]
    border: NDArray[np.uint8]
    w: NDArray[np.uint64]
    base: NDArray[np.uint16]
    e: NDArray[np.uint64]


def check_job(spec: XnorSpec, job: Job, operands: Operands) -> None:
    """Refuse a job that the array cannot run, or operands that are not what it says.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If a field of the job is out of range, an array has the wrong shape, or a value in it is
        impossible.
    """
    limits = (("m", job.m, 2**32 - 1), ("k", job.k, spec.max_inputs),
              ("n", job.n, spec.max_outputs),
              ("pool", job.pool, XNOR_POOL_MAX if spec.epilogue == "threshold" else 1),
              ("classes", job.classes, spec.border_classes),
              ("flags", job.flags, 2 * FLAG_WIDE - 1))  # fmt: skip
    for name, value, high in limits:
        low = 0 if name == "flags" else 1
        if not low <= value <= high:
            raise ValueError(f"xnor: {name} of a job must be in {low}..{high}, not {value!r}")
    if job.m % job.pool:
        raise ValueError(f"xnor: m of a job must be a multiple of pool = {job.pool}, not {job.m}")
    words = bits.words_of(job.k)
    shapes = {
        "x": (np.uint64, (job.m, words)),
        "border": (np.uint8, (job.m,)),
        "w": (np.uint64, (job.n, spec.weight_planes, words)),
        "base": (np.uint16, (job.classes, job.n)),
        "e": (np.uint64, (job.n,)),
    }
    check_arrays("xnor", operands, shapes)
    _check_contents(spec, job, operands)


def _check_contents(spec: XnorSpec, job: Job, operands: Operands) -> None:
    if tail := job.k % 64:
        for name in ("x", "w"):
            if (getattr(operands, name)[..., -1] >> np.uint64(tail)).any():
                raise ValueError(f"xnor: bits of {name} at or above K = {job.k} must be 0")
    if spec.weights == "ternary" and (operands.w[:, 0] & ~operands.w[:, 1]).any():
        raise ValueError("xnor: the sign bit of a weight 0 must be 0")
    for name, low, high in (
        ("border", 0, job.classes - 1),
        ("base", 0, 2 * job.k),
        ("e", 0, (1 << COLUMN_BITS) - 1),
    ):
        largest = int(getattr(operands, name).max())
        if largest > high:
            raise ValueError(f"xnor: {name} must be in {low}..{high}, not {largest}")


def layer_spec(node: Node, in_shape: tuple[int, ...]) -> XnorSpec:
    """Return the array of the default folding, or the smaller one, that just runs a node.

    `in_shape` is the shape of its input, batch first.
    """
    n, k = node.tensors["weight"].shape
    default = XnorSpec()
    return XnorSpec(
        pe=min(default.pe, n),
        simd=min(default.simd, k),
        weights="ternary" if node.tensors["weight"].codec == "ternary" else "binary",
        epilogue=node.attrs["mode"],
        max_inputs=k,
        max_outputs=n,
        border_classes=_borders(node, in_shape).classes,
    )


def unsuited(spec: XnorSpec, node: Node, in_shape: tuple[int, ...]) -> list[str]:
    """Return what an array would have to have to run a node on engine `xnor`; empty if it runs it.

    An array with ternary weights runs binary ones; more outputs than it holds are several jobs.
    `in_shape` is the shape of the node's input, batch first.
    """
    weight = node.tensors["weight"]
    reasons: list[str] = []
    if spec.epilogue != node.attrs["mode"]:
        reasons.append(f"epilogue = {node.attrs['mode']!r}, not {spec.epilogue!r}")
    if weight.codec == "ternary" and spec.weights != "ternary":
        reasons.append(f"weights = 'ternary', not {spec.weights!r}")
    needed = (
        ("max_inputs", weight.shape[1], spec.max_inputs),
        ("border_classes", _borders(node, in_shape).classes, spec.border_classes),
    )
    return reasons + [
        f"{name} >= {least}, not {found}" for name, least, found in needed if found < least
    ]


def layer_jobs(spec: XnorSpec, node: Node, codes: NDArray[np.int8]) -> list[tuple[Job, Operands]]:
    """Lower a `linear` or `conv2d` node to a job for each `max_outputs` outputs.

    Parameters
    ----------
    spec : XnorSpec
        The array; what it must have for the node, `unsuited` says.
    node : Node
        A node on engine `xnor` that has passed the checks of loading.
    codes : int8[..., K] or int8[B, C, H, W]
        Input codes; their signs count, 0 as +1.

    Returns
    -------
    list of (Job, Operands)
        Job i computes outputs i * max_outputs on; all load weights, base and columns. The vectors
        of a pool window lie one after the other, windows in the order of their results.

    Raises
    ------
    ValueError, TypeError
        If the node is not one that the array runs, or the codes do not suit it.
    """
    _check_node(spec, node, codes)
    n, k = node.tensors["weight"].shape
    edges = _borders(node, codes.shape)
    pool = _pool(node)
    x, border = _vectors(node, codes, edges)
    weight = weight_words(node.tensors["weight"], ternary=spec.weights == "ternary")
    base = _base(node, edges)
    columns = node.tensors["columns"].words
    flags = FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS
    flags |= FLAG_RELU * _attr(node, "relu") | FLAG_WIDE * _attr(node, "wide")
    jobs: list[tuple[Job, Operands]] = []
    for first in range(0, n, spec.max_outputs):
        part = slice(first, min(first + spec.max_outputs, n))
        job = Job(
            m=x.shape[0],
            k=k,
            n=part.stop - part.start,
            pool=pool[0] * pool[1],
            classes=edges.classes,
            flags=flags,
        )
        jobs.append((job, Operands(x, border, weight[part], base[:, part], columns[part])))
    return jobs


def layer_output(
    node: Node, in_shape: tuple[int, ...], jobs: Sequence[Job], ys: Sequence[NDArray[Any]]
) -> NDArray[Any]:
    """Return a node's output array from the results [m / pool, n] of its jobs, in their order.

    Bits 0 and 1 of a threshold become the codes -1 and +1. `in_shape` is the shape of the node's
    input.
    """
    for job, y in zip(jobs, ys, strict=True):
        if y.shape != (job.m // job.pool, job.n):
            raise ValueError(
                f"xnor: a job's y must have shape {(job.m // job.pool, job.n)}, not {y.shape}"
            )
    rows = np.concatenate(ys, axis=1)
    if node.attrs["mode"] == "threshold":
        rows = rows + rows - rows.dtype.type(1)
    if node.op == "linear":
        return rows.reshape(*in_shape[:-1], -1)
    return conv_images(rows, in_shape, **_geometry(node), pool=_pool(node))


def weight_words(weight: PackedTensor, *, ternary: bool) -> NDArray[np.uint64]:
    """Return sign bits, 1 for +1, and for a ternary array non-zero bits: uint64[N, planes, words].

    Raises
    ------
    ValueError
        If the weight is ternary and the array is not.
    """
    if weight.codec == "ternary":
        if not ternary:
            raise ValueError("xnor: ternary weights need an array with weights = 'ternary'")
        return weight.words
    signs = binary.plus_words(weight)
    if not ternary:
        return signs[:, None]
    used = np.broadcast_to(bits.mask(weight.shape[1], signs.shape[1]), signs.shape)
    return np.stack([signs, used], axis=1)


def _borders(node: Node, in_shape: tuple[int, ...]) -> Borders:
    """Return the classes of a node's vectors; one where nothing is padded with zeros."""
    if node.op == "linear":
        return borders((1, 1), (1, 1))
    zeros = _attr(node, "pad_value") == 0
    return borders(pair(in_shape[2:]), **_geometry(node), pool=_pool(node), zeros=zeros)


def _base(node: Node, edges: Borders) -> NDArray[np.uint16]:
    """Return base[class, n]: non-zero weights of an output, plus the sum of those that are padded.

    A padded input is driven as -1, so that its weight has to be added to make the product 0.
    """
    codes = codecs.decode(node.tensors["weight"])
    weights = codes.reshape(codes.shape[0], -1, *edges.padded.shape[1:]).sum(axis=1)
    correction = np.einsum("chw,nhw->cn", edges.padded.astype(np.int64), weights)
    return (np.count_nonzero(codes, axis=1) + correction).astype(np.uint16)


def _vectors(
    node: Node, codes: NDArray[np.int8], edges: Borders
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return the activation bits and classes of a node's vectors."""
    if node.op == "linear":
        rows = codes.reshape(-1, codes.shape[-1])
        return bits.pack(rows >= 0), np.zeros(rows.shape[0], np.uint8)
    geometry, pool, batch = _geometry(node), _pool(node), codes.shape[0]
    signs = np.where(codes < 0, np.int8(-1), np.int8(1))
    # Where the padding is 0 it is driven as -1, and `base` corrects it.
    rows = im2col(signs, **geometry, pad_value=_attr(node, "pad_value") or -1)
    size = conv_size(pair(codes.shape[2:]), **geometry)
    x = windows(bits.pack(rows > 0).reshape(batch, *size, -1), pool)
    of_image = windows(edges.positions.astype(np.uint8)[None, :, :, None], pool)
    return x, np.tile(of_image[:, 0], batch)


def _geometry(node: Node) -> dict[str, Any]:
    geometry = conv_geometry(node)
    geometry.pop("groups")
    return geometry


def _pool(node: Node) -> Pair:
    return pair(_attr(node, "pool")) if node.op == "conv2d" else (1, 1)


def _attr(node: Node, name: str) -> Any:
    return engine_attr(node.op, "xnor", node.attrs, name)


def _check_node(spec: XnorSpec, node: Node, codes: NDArray[np.int8]) -> None:
    if node.op not in ("linear", "conv2d") or node.engine != "xnor":
        raise ValueError(
            f"xnor: node {node.name!r} must be 'linear' or 'conv2d' on engine 'xnor', "
            f"not {node.op!r} on {node.engine!r}"
        )
    k = node.tensors["weight"].shape[1]
    if node.op == "linear":
        check_codes(codes.reshape(-1, codes.shape[-1]), 2)
        found = codes.shape[-1]
    else:
        check_codes(codes, 4)
        kernel = pair(node.attrs["kernel"])
        found = codes.shape[1] * kernel[0] * kernel[1]
    if found != k:
        raise ValueError(f"xnor: node {node.name!r} must read K = {k} codes, not {found}")
    if reasons := unsuited(spec, node, codes.shape):
        raise ValueError(f"xnor: node {node.name!r} needs an array with {', '.join(reasons)}")
