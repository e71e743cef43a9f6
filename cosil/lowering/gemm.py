# SPDX-License-Identifier: Apache-2.0
"""Matrix products and convolutions as jobs of the W4A8 engine.

A job points into memory images (docs/engines/w4a8.md, sections 3 and 4). Weight words, group
scales and column parameters enter the images as the packed tensor holds them; only the int8
activations are laid out here, four codes to a 32-bit word. Every check of shapes and formats is
made at this edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.conv import Pair, check_codes, conv_geometry, conv_images, im2col
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands
from cosil.packed.network import Node
from cosil.packed.tensor import PackedTensor


def gemm_job(
    spec: W4A8Spec,
    codes: NDArray[np.int8],
    weight: PackedTensor,
    *,
    epilogue: NDArray[np.uint64] | None = None,
    row_scales: NDArray[np.float32] | None = None,
    relu: bool = False,
    wide: bool = False,
) -> tuple[Job, Operands]:
    """Lower Y = X.W^T to one job.

    Parameters
    ----------
    spec : W4A8Spec
        The array. Its `scales`, `weight_encoding`, `epilogue` and `max_k` must suit the weight.
    codes : int8[M, K]
        Activation codes.
    weight : PackedTensor
        int4, logical shape (N, K).
    epilogue : uint64[N], optional
        Column parameters of the fixed epilogue: bias in bits 0..31, mult 32..47, shift 48..53.
    row_scales : float32[M], optional
        Row scales of the fp16 epilogue; the column scales are the weight's `channel` scales.
    relu, wide : bool
        Flags of the fixed epilogue: clamp at 0; int16 instead of int8 output.

    Returns
    -------
    job : Job
        Bases 0, dense rows, y_stride N.
    operands : Operands
        Memory images. `w`, `s` and `e` share memory with the packed tensor where NumPy allows it.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If the weight does not suit the array, or shapes disagree.
    """
    check_codes(codes, 2)
    n, k = _check_weight(spec, weight)
    if codes.shape[1] != k:
        raise ValueError(
            f"gemm: activations have K = {codes.shape[1]}, but the weight has K = {k}; "
            "they must be equal"
        )
    e, r = _column_and_row_parameters(spec, weight, codes.shape[0], epilogue, row_scales)
    return _job(spec, codes, weight, n, 0, e, r, _flags(spec, relu=relu, wide=wide))


def conv_jobs(
    spec: W4A8Spec,
    x: NDArray[np.int8],
    weight: PackedTensor,
    *,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: NDArray[np.uint64] | None = None,
    relu: bool = False,
    wide: bool = False,
) -> list[tuple[Job, Operands]]:
    """Lower a convolution to one job per group, M = B * OH * OW, K in the order (c, kh, kw).

    The jobs of all groups point into the same weight, scale and column images; `w_base`, `s_base`
    and `e_base` select a group's output channels. Every job writes y at base 0 with stride
    N / groups; :func:`conv_output` joins them.

    Parameters
    ----------
    x : int8[B, C, H, W]
        Activation codes; padding is the code 0.
    weight : PackedTensor
        int4, logical shape (N, C / groups * kh * kw).

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If shapes disagree, the kernel does not fit, or the weight does not suit the array.
    """
    if spec.epilogue != "fixed":
        raise ValueError(
            "conv2d: a convolution needs an array with epilogue 'fixed', "
            f"not {spec.epilogue!r}; give the machine a fixed-point array"
        )
    check_codes(x, 4)
    n, k = _check_weight(spec, weight)
    channels = x.shape[1]
    if groups < 1 or channels % groups or n % groups:
        raise ValueError(
            f"conv2d: groups must divide {channels} input and {n} output channels, not {groups!r}"
        )
    if channels // groups * kernel[0] * kernel[1] != k:
        raise ValueError(
            f"conv2d: the weight has K = {k}, but {channels} channels / {groups} groups "
            f"x {kernel[0]} x {kernel[1]} = {channels // groups * kernel[0] * kernel[1]}"
        )
    columns = im2col(x, kernel, stride=stride, padding=padding, dilation=dilation)
    e, r = _column_and_row_parameters(spec, weight, columns.shape[0], epilogue, None)
    flags = _flags(spec, relu=relu, wide=wide)
    per_group = n // groups
    return [
        _job(spec, columns[:, i * k : (i + 1) * k], weight, per_group, i * per_group, e, r, flags)
        for i in range(groups)
    ]


def layer_jobs(
    spec: W4A8Spec,
    node: Node,
    codes: NDArray[np.int8],
    row_scales: NDArray[np.float32] | None = None,
) -> list[tuple[Job, Operands]]:
    """Lower a `linear` or `conv2d` node of a packed network.

    Parameters
    ----------
    codes : int8[..., K] or int8[B, C, H, W]
        Input codes. For a linear layer of mode fp16 they come from the vector unit's dynamic
        quantisation.
    row_scales : float32[M], optional
        Row scales of that quantisation; mode fp16 only.

    Raises
    ------
    ValueError
        If the node is not one that the engine runs, or does not suit the array.
    """
    if node.op not in ("linear", "conv2d"):
        raise ValueError(
            f"w4a8: node {node.name!r} must be 'linear' or 'conv2d', not {node.op!r}; "
            "other operations run on the vector unit"
        )
    mode = node.attrs.get("mode", "fixed")
    if mode != spec.epilogue:
        raise ValueError(
            f"w4a8: node {node.name!r} has mode {mode!r}, but the array's epilogue is "
            f"{spec.epilogue!r}"
        )
    weight = node.tensors["weight"]
    epilogue = node.tensors["epilogue"].words if mode == "fixed" else None
    flags: dict[str, Any] = {
        "relu": bool(node.attrs.get("relu", False)),
        "wide": bool(node.attrs.get("wide", False)),
    }
    if node.op == "linear":
        matrix = np.ascontiguousarray(codes).reshape(-1, codes.shape[-1])
        job = gemm_job(spec, matrix, weight, epilogue=epilogue, row_scales=row_scales, **flags)
        return [job]
    geometry = conv_geometry(node)
    return conv_jobs(spec, codes, weight, epilogue=epilogue, **geometry, **flags)


def layer_output(
    node: Node, in_shape: tuple[int, ...], jobs: list[Job], ys: list[NDArray[Any]]
) -> NDArray[Any]:
    """Return a node's output array from the memories that its jobs wrote.

    Parameters
    ----------
    in_shape : tuple of int
        Shape of the node's input.
    jobs, ys : list
        The jobs of :func:`layer_jobs` and, per job, the written y memory from address 0.
    """
    if node.op == "linear":
        return output(jobs[0], ys[0]).reshape(*in_shape[:-1], jobs[0].n)
    return conv_output(in_shape, jobs, ys, **conv_geometry(node))


def conv_output(
    in_shape: tuple[int, ...],
    jobs: list[Job],
    ys: list[NDArray[Any]],
    *,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> NDArray[Any]:
    """Join the outputs of a convolution's jobs, one per group, to [B, N, OH, OW]."""
    if len(jobs) != groups:
        raise ValueError(f"conv2d: {groups} jobs are required, one per group, not {len(jobs)}")
    joined = np.concatenate([output(job, y) for job, y in zip(jobs, ys, strict=True)], axis=1)
    return conv_images(joined, in_shape, kernel, stride=stride, padding=padding, dilation=dilation)


def output(job: Job, y: NDArray[Any]) -> NDArray[Any]:
    """Return the result matrix [M, N] that a job wrote into the flat memory `y`."""
    flat = np.ascontiguousarray(y).reshape(-1)
    end = job.y_base + (job.m - 1) * job.y_stride + job.n
    if flat.size < end:
        raise ValueError(
            f"gemm: the job writes up to address {end - 1}, so y must have at least {end} "
            f"elements, not {flat.size}"
        )
    rows = np.arange(job.m)[:, None] * job.y_stride
    if job.y_stride == job.n:
        return flat[job.y_base : end].reshape(job.m, job.n)
    return flat[job.y_base + rows + np.arange(job.n)]


def _job(
    spec: W4A8Spec,
    codes: NDArray[np.int8],
    weight: PackedTensor,
    n: int,
    n_base: int,
    e: NDArray[Any],
    r: NDArray[np.uint32],
    flags: int,
) -> tuple[Job, Operands]:
    """Build the job of output channels n_base .. n_base + n - 1."""
    m, k = codes.shape
    total = weight.shape[0]
    words_per_row = weight.words.shape[1]
    if spec.scales == "group":
        s = np.ascontiguousarray(weight.scales["group"], dtype=np.float16).reshape(-1)
        scales, group = s.view(np.uint16), int(weight.params["group_size"])
    else:
        scales, group = np.zeros(0, dtype=np.uint16), k
    job = Job(
        m=m,
        n=n,
        k=k,
        group=group,
        a_base=0,
        a_stride=-(-k // 4),
        w_base=n_base * words_per_row,
        w_stride=words_per_row,
        s_base=n_base,
        s_stride=total,
        e_base=n_base,
        r_base=0,
        y_base=0,
        y_stride=n,
        flags=flags,
    )
    w = np.ascontiguousarray(weight.words, dtype=np.uint32).reshape(-1)
    return job, Operands(a=_activation_words(codes), w=w, s=scales, e=e, r=r)


def _activation_words(codes: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Return int8 rows as 32-bit words, LSB first, each row padded with 0 to a whole word."""
    m, k = codes.shape
    padded = np.zeros((m, -(-k // 4) * 4), dtype=np.int8)
    padded[:, :k] = codes
    return padded.view("<u4").astype(np.uint32, copy=False).reshape(-1)


def _column_and_row_parameters(
    spec: W4A8Spec,
    weight: PackedTensor,
    m: int,
    epilogue: NDArray[np.uint64] | None,
    row_scales: NDArray[np.float32] | None,
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    n = weight.shape[0]
    if spec.epilogue == "fixed":
        if row_scales is not None:
            raise ValueError("gemm: row_scales must be None for the fixed epilogue")
        if epilogue is None:
            raise ValueError(
                f"gemm: the fixed epilogue needs column parameters uint64[{n}], not None"
            )
        _check_array("epilogue", epilogue, np.dtype(np.uint64), (n,))
        return np.ascontiguousarray(epilogue), np.zeros(0, dtype=np.uint32)
    if epilogue is not None:
        raise ValueError(
            "gemm: epilogue must be None for the fp16 epilogue; its scales are the weight's"
        )
    if row_scales is None:
        raise ValueError(f"gemm: the fp16 epilogue needs row_scales float32[{m}], not None")
    _check_array("row_scales", row_scales, np.dtype(np.float32), (m,))
    if "channel" not in weight.scales:
        raise ValueError("gemm: the fp16 epilogue needs a weight with 'channel' scales float32[N]")
    channel = weight.scales["channel"]
    _check_array("channel scales", channel, np.dtype(np.float32), (n,))
    return (
        np.ascontiguousarray(channel).view(np.uint32),
        np.ascontiguousarray(row_scales).view(np.uint32),
    )


def _flags(spec: W4A8Spec, *, relu: bool, wide: bool) -> int:
    if spec.epilogue == "fp16" and (relu or wide):
        raise ValueError("gemm: relu and wide are flags of the fixed epilogue, not of fp16")
    return FLAG_RELU * relu | FLAG_WIDE * wide


def _check_weight(spec: W4A8Spec, weight: PackedTensor) -> Pair:
    """Return (N, K) of a weight that suits the array."""
    if weight.codec != "int4":
        raise ValueError(f"gemm: a weight must have codec 'int4', not {weight.codec!r}")
    if len(weight.shape) != 2:
        raise ValueError(f"gemm: a weight must have the shape (N, K), not {weight.shape}")
    n, k = weight.shape
    if k > spec.max_k:
        raise ValueError(
            f"gemm: the weight has K = {k}, but the array's accumulator is proved for K <= max_k = "
            f"{spec.max_k}; raise max_k or split the layer"
        )
    _check_array("weight words", weight.words, np.dtype(np.uint32), (n, -(-k // 8)))
    encoding = weight.params.get("encoding")
    if encoding != spec.weight_encoding:
        raise ValueError(
            f"gemm: the weight has encoding {encoding!r}, but the array decodes "
            f"{spec.weight_encoding!r}; set weight_encoding"
        )
    group_size = int(weight.params.get("group_size", 0))
    if (group_size > 0) != (spec.scales == "group"):
        needed = "group_size > 0" if spec.scales == "group" else "group_size 0"
        raise ValueError(
            f"gemm: an array with scales {spec.scales!r} needs a weight of {needed}, "
            f"not group_size {group_size}"
        )
    if group_size:
        group = weight.scales["group"]
        _check_array("group scales", group, np.dtype(np.float16), (-(-k // group_size), n))
        if not np.isfinite(group).all():
            raise ValueError("gemm: group scales must be finite, but there are infinities or NaN")
    return n, k


def _check_array(
    name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype:
        raise TypeError(f"gemm: {name} must be {dtype}, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"gemm: {name} must have the shape {shape}, not {array.shape}")
