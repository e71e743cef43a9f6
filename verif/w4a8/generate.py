# SPDX-License-Identifier: Apache-2.0
"""Random jobs for the W4A8 bench: awkward shapes, corner operands, gaps in every memory image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from verif.lib.generate import break_each, random_stalls
from verif.w4a8.cases import STREAMS, Case

LATENCIES = (1, 2, 2, 3, 7, 20)

_WAVES = 500
"""Bound on tiles x K (os) or rows x passes (ws) of a job: it sets the time that a case takes."""

_F32_CORNERS = (
    0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0x00000000, 0x80000000, 0x3F800000,
)  # fmt: skip
_F16_CORNERS = (0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3800, 0xB800, 0x3C00, 0x0000, 0x8001)


def random_case(spec: W4A8Spec, seed: int, *, jobs: int | None = None) -> Case:
    """Return the case of a seed: one to three jobs, stalls on all, one or no stream."""
    rng = np.random.default_rng([seed, 0xC0511])
    count = jobs or int(rng.choice([1, 1, 1, 2, 3]))
    kind, stalls = random_stalls(rng, seed, STREAMS)
    return Case(
        name=f"seed {seed}, {kind} stalls",
        jobs=[random_job(spec, rng) for _ in range(count)],
        stalls=stalls,
        latency=int(rng.choice(LATENCIES)),
    )


def mutant_cases(spec: W4A8Spec, streams: list[str], seed: int = 1) -> list[Case]:
    """Return every mutant on every stream, each on a job that the unbroken array does right.

    The stall pattern makes the broken stream the one that the job waits for, so that a cycle lost
    on it is a cycle of the job.
    """

    def whole(number: int, stream: str) -> Case:
        rng = np.random.default_rng([seed, number])
        job = make_job(spec, rng, spec.array_rows, spec.array_cols, 9, style="dense", group=4)
        return Case(stream, [job], _critical(stream))

    return break_each(streams, whole)


def _critical(stream: str) -> dict[str, NDArray[np.bool_]]:
    if stream in ("i_job", "o_y"):
        return {}
    name = stream[2:] if stream.startswith("i_") else f"{stream[2:]}_req"
    late = np.zeros(1024, dtype=np.bool_)
    late[:96] = True
    return {name: late}


def random_job(spec: W4A8Spec, rng: np.random.Generator) -> tuple[Job, Operands]:
    """Return a job of a random awkward shape and style."""
    rows, cols, chunk = spec.array_rows, spec.array_cols, spec.chunk
    near = (rows - 1, rows, rows + 1, 2 * rows + 1, cols - 1, cols, cols + 1, 2 * cols - 1)
    m_max = 3 * spec.acc_rows if spec.dataflow == "ws" and spec.acc_rows <= 16 else 40
    m = _pick(rng, (1, 1, 2, 3, 5, 7, 11, spec.acc_rows + 1, *near), m_max)
    n = _pick(rng, (1, 1, 2, 3, 5, 7, 13, *near), 40)
    k = _pick(
        rng, (1, 2, 3, 7, 8, 9, 13, 16, 17, 31, 64, chunk - 1, chunk, chunk + 1, 3 * chunk - 2),
        min(spec.max_k, 200),
    )  # fmt: skip
    per_wave = (rows, cols, 1) if spec.dataflow == "os" else (1, cols, rows)
    while True:
        cost = -(-m // per_wave[0]) * -(-n // per_wave[1]) * -(-k // per_wave[2])
        if cost <= _WAVES:
            break
        m, n, k = (m + 1) // 2, (n + 1) // 2, k
    style = str(rng.choice(["random", "random", "corner", "sparse", "extreme"]))
    return make_job(spec, rng, m, n, k, style=style)


def _pick(rng: np.random.Generator, values: tuple[int, ...], high: int) -> int:
    return int(rng.choice([v for v in values if 1 <= v <= high]))


def make_job(
    spec: W4A8Spec, rng: np.random.Generator, m: int, n: int, k: int, *, style: str,
    group: int | None = None,
) -> tuple[Job, Operands]:  # fmt: skip
    """Return a job of a given shape.

    Parameters
    ----------
    spec : W4A8Spec
        The array.
    rng : Generator
        Source of operands, bases and strides.
    m, n, k : int
        Shape.
    style : {"random", "dense", "corner", "sparse", "extreme"}
        Uniform operands; no zeros and moderate scales, so that every operand shows in the result;
        scales from the corners of their formats; mostly zeros, whole tokens too; -8 times -128.
    group : int, optional
        Codes that share a scale; random where absent.
    """
    group = group or int(rng.choice([1, 2, 3, 4, 8, 16, 128, k]))
    groups = -(-k // group)
    codes, nibbles = _codes(rng, m, n, k, style)
    stored = nibbles + 8 if spec.weight_encoding == "offset" else nibbles & 15

    # What lies before, between and after the rows must not matter, so it is not zero.
    a, a_base, a_stride = _rows(rng, codes.view(np.uint8), np.dtype(np.uint32), 8)
    w, w_base, w_stride = _rows(rng, stored.astype(np.uint8), np.dtype(np.uint32), 4)
    s, s_base, s_stride = np.zeros(0, np.uint16), 0, n
    if spec.scales == "group":
        scales = _f16_scales(rng, (groups, n), style)
        s, s_base, s_stride = _rows(rng, scales, np.dtype(np.uint16), 16)
        s &= np.where(np.isfinite(s.view(np.float16)), 0xFFFF, 0xBFFF).astype(np.uint16)
    e_base, r_base, y_base = (int(v) for v in rng.integers(0, 50, 3))
    r = np.zeros(0, np.uint32)
    flags = 0
    if spec.epilogue == "fp16":
        e = _f32_scales(rng, e_base + n, style)
        r = _f32_scales(rng, r_base + m, style)
    else:
        e = _columns(rng, e_base + n, k, spec, style)
        flags = int(rng.integers(4)) if style != "dense" else 2
    y_stride = n + int(rng.choice([0, 0, 1, 5]))
    job = Job(
        m, n, k, group, a_base, a_stride, w_base, w_stride, s_base, s_stride, e_base,
        r_base if spec.epilogue == "fp16" else 0, y_base, y_stride, flags,
    )  # fmt: skip
    return job, Operands(a=a, w=w, s=s, e=e, r=r)


def _codes(
    rng: np.random.Generator, m: int, n: int, k: int, style: str
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return activations int8[M, K] and weights int4[N, K]."""
    a = rng.integers(-128, 128, (m, k), dtype=np.int8)
    w = rng.integers(-8, 8, (n, k), dtype=np.int8)
    if style == "extreme":
        a[:], w[:] = rng.choice([-128, 127]), rng.choice([-8, 7])
        a[rng.random((m, k)) < 0.1] = -128
    elif style == "sparse":
        a[rng.random((m, k)) < 0.8] = 0
        a[rng.integers(m)] = 0
        w[rng.random((n, k)) < 0.5] = 0
    elif style == "dense":
        a, w = np.abs(a | 64), np.abs(w | 1)
    return a, w


def _rows(
    rng: np.random.Generator, rows: NDArray[Any], word: np.dtype[Any], bits: int
) -> tuple[NDArray[Any], int, int]:
    """Return an image with `rows` of elements of `bits` bits, the base and the stride in words."""
    per_word = word.itemsize * 8 // bits
    count, length = rows.shape
    words = -(-length // per_word)
    base, stride = int(rng.integers(0, 40)), words + int(rng.choice([0, 0, 1, 3]))
    image = rng.integers(
        0, np.iinfo(word).max, base + count * stride + 1, dtype=word, endpoint=True
    )
    for index in range(count):
        start = base + index * stride
        elements = [
            image[start : start + words] >> np.array(bits * i, word)
            & np.array((1 << bits) - 1, word)
            for i in range(per_word)
        ]
        row = np.stack(elements, axis=1).ravel()
        row[:length] = rows[index]
        packed = np.zeros(words, word)
        for i in range(per_word):
            packed |= row[i::per_word].astype(word) << np.array(bits * i, word)
        image[start : start + words] = packed
    return image, base, stride


def _f16_scales(rng: np.random.Generator, shape: tuple[int, int], style: str) -> NDArray[np.uint16]:
    """Return finite float16 bits; halves among them, which make ties."""
    bits = rng.uniform(0.5, 14.0, shape).astype(np.float16).view(np.uint16)
    if style == "dense":
        return bits
    ties = rng.choice(np.array([0x3800, 0x3E00, 0x4100, 0xB800, 0xBE00], np.uint16), shape)
    bits = np.where(rng.random(shape) < 0.3, ties, bits)
    if style == "corner":
        corners = rng.choice(np.array(_F16_CORNERS, np.uint16), shape)
        bits = np.where(rng.random(shape) < 0.6, corners, bits)
    return bits.astype(np.uint16)


def _f32_scales(rng: np.random.Generator, count: int, style: str) -> NDArray[np.uint32]:
    """Return float32 bits that keep most results finite, or corners of the format."""
    scale = np.exp2(rng.uniform(-12, -2, count)) * rng.choice([-1, 1], count)
    bits = scale.astype(np.float32).view(np.uint32)
    if style == "corner":
        corners = rng.choice(np.array(_F32_CORNERS, np.uint32), count)
        sign = rng.integers(0, 2, count, dtype=np.uint32) << 31
        bits = np.where(rng.random(count) < 0.4, corners ^ sign, bits)
    return bits.astype(np.uint32)


def _columns(
    rng: np.random.Generator, count: int, k: int, spec: W4A8Spec, style: str
) -> NDArray[np.uint64]:
    """Return bias | mult | shift whose results fill the output range, or corners."""
    size = 4.0 * 70 * np.sqrt(k) * (16 if spec.scales == "group" else 1)
    bias = (rng.uniform(-1, 1, count) * size).astype(np.int64)
    mult = rng.integers(1, 1 << 16, count)
    width = np.log2(mult * size / 64).astype(np.int64)
    shift = np.clip(width + rng.integers(-1, 3, count), 0, 63)
    if style == "corner":
        bias = np.where(
            rng.random(count) < 0.3, rng.choice([-(1 << 31), (1 << 31) - 1], count), bias
        )
        # Powers of two as multipliers and small shifts make ties.
        mult = np.where(rng.random(count) < 0.5, rng.choice([0, 1, 0x8000, 0xFFFF], count), mult)
        shift = np.where(rng.random(count) < 0.5, rng.choice([0, 1, 4, 49, 63], count), shift)
    elif style == "dense":
        bias, mult, shift = bias * 0, mult | 0x8000, np.full(count, 16)
    return (
        (bias & 0xFFFFFFFF).astype(np.uint64)
        | mult.astype(np.uint64) << np.uint64(32)
        | shift.astype(np.uint64) << np.uint64(48)
    )
