# SPDX-License-Identifier: Apache-2.0
"""Matrix products and convolutions as jobs of the PIM macro.

A job and what its streams carry (docs/engines/pim.md, sections 3 and 4), and a layer as tiles of as
many outputs as the macro has. Every check that a layer suits the macro is made at this edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.pim import PimSpec
from cosil.lowering.conv import check_codes, conv_geometry, conv_images, im2col
from cosil.lowering.operands import check_arrays
from cosil.packed import decomposition as decompose
from cosil.packed.generators import stream_state
from cosil.packed.network import Node
from cosil.packed.ops import engine_attr

FLAG_WEIGHTS = 1
FLAG_TRANSFER = 2
FLAG_NOISE = 4
FLAG_RELU = 8
FLAG_WIDE = 16


@dataclass(frozen=True, slots=True)
class Job:
    """The 8-word descriptor (docs/engines/pim.md, section 4); field order is word order."""

    m: int
    k: int
    n: int
    rows: int
    flags: int = 0

    def words(self) -> NDArray[np.uint32]:
        """Return the descriptor, uint32[8]."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([*values, 0, 0, 0], dtype=np.uint32)

    @property
    def groups(self) -> int:
        """G, row groups; the last may be short."""
        return -(-self.k // self.rows)

    def has(self, flag: int) -> bool:
        """Return whether a flag is set."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """What a job computes with, whether it loads it or finds it in the macro (the flags say).

    Attributes
    ----------
    x : uint8[M, K]
        Activation codes, 0..2**ba - 1.
    w : uint64[n, P.Q, G, ceil(rows / 64)]
        Cells as codec `bitplane` packs them: row r of a group is bit r % 64 of word r // 64.
    transfer : int16[C, V]
        Transfer tables, one row per physical column, entry v - v_min of the spec, in sixteenths of
        an LSB. Column c of a job's output o and plane p is o * P + p.
    noise : int16[2**noise_bits]
        Noise table, sixteenths of an LSB; empty without noise hardware.
    states : uint32[A]
        State of each ADC's generator when the job begins, none 0; empty without noise hardware.
    e : uint64[n]
        Column parameters: bias int32, sixteenths of an LSB, in bits 0..31, mult 32..47, shift
        48..53, negate 54.
    """

    x: NDArray[np.uint8]
    w: NDArray[np.uint64]
    transfer: NDArray[np.int16]
    noise: NDArray[np.int16]
    states: NDArray[np.uint32]
    e: NDArray[np.uint64]


def check_job(spec: PimSpec, job: Job, operands: Operands) -> None:
    """Refuse a job that the macro cannot run, or operands that are not what it says.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If a field of the job is out of range, an array has the wrong shape, or a code is too large.
    """
    limits = (("m", job.m, 2**32 - 1), ("rows", job.rows, spec.rows),
               ("k", job.k, job.rows * spec.groups), ("n", job.n, spec.outputs))  # fmt: skip
    for name, value, high in limits:
        if not 1 <= value <= high:
            raise ValueError(f"pim: {name} of a job must be in 1..{high}, not {value!r}")
    if not 0 <= job.flags < 2 * FLAG_WIDE or (job.has(FLAG_NOISE) and not spec.noise_bits):
        raise ValueError(
            f"pim: flags of a job must be in 0..{2 * FLAG_WIDE - 1}, with {FLAG_NOISE} only where "
            f"there is noise hardware, not {job.flags!r}"
        )
    shapes = {
        "x": (np.uint8, (job.m, job.k)),
        "w": (np.uint64, (job.n, spec.bit_planes, job.groups, -(-job.rows // 64))),
        "transfer": (np.int16, (spec.columns, spec.entries)),
        "noise": (np.int16, (spec.noise_entries,)),
        "states": (np.uint32, (spec.adcs if spec.noise_bits else 0,)),
        "e": (np.uint64, (job.n,)),
    }
    check_arrays("pim", operands, shapes)
    largest, top = int(operands.x.max()), (1 << spec.activation_bits) - 1
    if largest > top:
        raise ValueError(f"pim: activation codes must be in 0..{top}, not {largest}")


def layer_spec(node: Node) -> PimSpec:
    """Return the smallest macro that runs a node, with the default periphery."""
    k = node.tensors["weight"].shape[1]
    return PimSpec(
        rows=node.attrs["group_rows"],
        groups=-(-k // node.attrs["group_rows"]),
        noise_bits=_noise_bits(node),
        **{name: node.attrs[name] for name in (*_SAME, *_OF_COLUMNS)},
    )


def unsuited(spec: PimSpec, node: Node) -> list[str]:
    """Return what a macro would have to have to run a node on engine `pim`; empty if it runs it.

    Columns and mux only matter to a node whose columns differ: through transfer tables of their
    own, or noise.
    """
    attrs, tensors = node.attrs, node.tensors
    own = tensors["transfer"].shape[0] > 1 or "noise" in tensors
    same = [
        f"{name} = {attrs[name]!r}, not {getattr(spec, name)!r}"
        for name in (*_SAME, *(_OF_COLUMNS if own else ()))
        if attrs[name] != getattr(spec, name)
    ]
    needed = (
        ("rows", attrs["group_rows"], spec.rows),
        ("groups", -(-tensors["weight"].shape[1] // attrs["group_rows"]), spec.groups),
        ("noise_bits", _noise_bits(node), spec.noise_bits),
    )
    more = [f"{name} >= {least}, not {found}" for name, least, found in needed if found < least]
    return same + more


def layer_jobs(spec: PimSpec, node: Node, codes: NDArray[np.int8]) -> list[tuple[Job, Operands]]:
    """Lower a `linear` or `conv2d` node of a packed network to one job for each tile of O outputs.

    Parameters
    ----------
    spec : PimSpec
        The macro; what it must have for the node, `unsuited` says.
    node : Node
        A node on engine `pim` that has passed the checks of loading.
    codes : int8[..., K] or int8[B, C, H, W]
        Input codes; they are clamped to 0..2**ba - 1.

    Returns
    -------
    list of (Job, Operands)
        Tile i computes outputs i * O on. The first loads weights, tables and noise, the others
        weights and noise: transfer tables belong to columns and stay. A node without noise loads a
        table of zeros where the macro draws.

    Raises
    ------
    ValueError, TypeError
        If the node is not one that the macro runs, or the codes do not suit it.
    """
    _check_node(spec, node)
    if node.op == "conv2d":
        geometry = conv_geometry(node)
        geometry.pop("groups")
        rows = im2col(codes, **geometry)
    else:
        rows = codes.reshape(-1, codes.shape[-1])
        check_codes(rows, 2)
    x = rows.clip(0, min(127, (1 << spec.activation_bits) - 1)).view(np.uint8)
    weight, epilogue = node.tensors["weight"], node.tensors["epilogue"].words
    total, k = weight.shape
    if x.shape[1] != k:
        raise ValueError(f"pim: node {node.name!r} must read K = {k} codes, not {x.shape[1]}")
    transfer = macro_transfer(spec, node.tensors["transfer"].words, node.attrs["group_rows"])
    noise = _macro_noise(spec, node)
    seed = _attr(node, "noise_seed")
    flags = FLAG_WEIGHTS | FLAG_RELU * _attr(node, "relu") | FLAG_WIDE * _attr(node, "wide")
    if spec.noise_bits:
        flags |= FLAG_NOISE
    jobs: list[tuple[Job, Operands]] = []
    for tile, first in enumerate(range(0, total, spec.outputs)):
        part = slice(first, min(first + spec.outputs, total))
        job = Job(
            m=x.shape[0],
            k=k,
            n=part.stop - part.start,
            rows=node.attrs["group_rows"],
            flags=flags if tile else flags | FLAG_TRANSFER,
        )
        operands = Operands(
            x=x,
            w=weight.words[part],
            transfer=transfer,
            noise=noise,
            states=tile_states(spec, seed, tile),
            e=epilogue[part],
        )
        jobs.append((job, operands))
    return jobs


def layer_output(
    node: Node, in_shape: tuple[int, ...], jobs: Sequence[Job], ys: Sequence[NDArray[Any]]
) -> NDArray[Any]:
    """Return a node's output array from the results [m, n] of its jobs, in their order.

    `in_shape` is the shape of the node's input.
    """
    for job, y in zip(jobs, ys, strict=True):
        if y.shape != (job.m, job.n):
            raise ValueError(f"pim: a job's y must have shape {(job.m, job.n)}, not {y.shape}")
    rows = np.concatenate(ys, axis=1)
    if node.op == "linear":
        return rows.reshape(*in_shape[:-1], -1)
    geometry = conv_geometry(node)
    geometry.pop("groups")
    return conv_images(rows, in_shape, **geometry)


def tile_states(spec: PimSpec, seed: int, tile: int) -> NDArray[np.uint32]:
    """Return the state of each ADC's generator when a tile of a node begins, uint32[A].

    fmix32(seed + tile * A + ADC), 0 replaced by 1; empty without noise hardware.
    """
    adcs = spec.adcs if spec.noise_bits else 0
    first = seed + tile * spec.adcs
    return np.array([stream_state(first + adc) for adc in range(adcs)], dtype=np.uint32)


def macro_transfer(spec: PimSpec, tables: NDArray[np.int16], rows: int) -> NDArray[np.int16]:
    """Return a layer's transfer tables as the macro addresses them.

    Parameters
    ----------
    tables : int16[1 or O.P, entries]
        Tables for the values of a group of `rows` rows: one for all columns, or each column's.
    rows : int
        Rows of the layer's group, 1..N.

    Returns
    -------
    int16[C, V]
        Entries for values that so many rows cannot give repeat the nearest one; columns that no
        output uses get 0.
    """
    low, high = decompose.value_range(spec.decomposition, spec.weight_bits, spec.slice_bits, rows)
    used = spec.outputs * spec.planes
    if tables.ndim != 2 or tables.shape not in ((1, high - low + 1), (used, high - low + 1)):
        raise ValueError(
            f"pim: transfer tables of {rows} rows must have shape (1 or {used}, {high - low + 1}), "
            f"not {tables.shape}"
        )
    v = np.arange(spec.value_min, spec.value_max + 1).clip(low, high) - low
    memory = np.zeros((spec.columns, spec.entries), dtype=np.int16)
    memory[:used] = tables[:, v]
    return memory


def _macro_noise(spec: PimSpec, node: Node) -> NDArray[np.int16]:
    """Return the macro's noise table: each entry of the node's is repeated where it has fewer."""
    if "noise" not in node.tensors:
        return np.zeros(spec.noise_entries, dtype=np.int16)
    words = node.tensors["noise"].words
    return np.repeat(words, spec.noise_entries // words.shape[0])


def _noise_bits(node: Node) -> int:
    return node.tensors["noise"].shape[0].bit_length() - 1 if "noise" in node.tensors else 0


def _attr(node: Node, name: str) -> Any:
    return engine_attr(node.op, "pim", node.attrs, name)


def _check_node(spec: PimSpec, node: Node) -> None:
    if node.op not in ("linear", "conv2d") or node.engine != "pim":
        raise ValueError(
            f"pim: node {node.name!r} must be 'linear' or 'conv2d' on engine 'pim', "
            f"not {node.op!r} on {node.engine!r}"
        )
    if reasons := unsuited(spec, node):
        raise ValueError(f"pim: node {node.name!r} needs a macro with {', '.join(reasons)}")


_SAME = ("decomposition", "weight_bits", "activation_bits", "slice_bits", "adc_bits")
_OF_COLUMNS = ("columns", "mux")
