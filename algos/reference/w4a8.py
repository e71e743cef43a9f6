# SPDX-License-Identifier: Apache-2.0
"""The W4A8 engine's result, bit by bit, in torch.

Written from docs/engines/w4a8.md, sections 1 to 4, and from nothing else: it decodes the memory
words itself and shares no code with the simulator or the hardware.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands

EXACT_FLOAT32 = 2**24
EXACT_FLOAT64 = 2**53


def reference(spec: W4A8Spec, job: Job, operands: Operands) -> Tensor:
    """Return the result of one job.

    Parameters
    ----------
    spec : W4A8Spec
        The array; its dataflow and its size have no influence on the result.
    job : Job
        Descriptor.
    operands : Operands
        Memory images; what lies past their end reads as 0.

    Returns
    -------
    float16[M, N], int8[M, N] or int16[M, N]
        Epilogue fp16, fixed, fixed with the flag `wide`.

    Raises
    ------
    ValueError
        If K exceeds the spec's `max_k`, for which the accumulator is proved.
    """
    if job.k > spec.max_k:
        raise ValueError(f"w4a8: K must be at most max_k = {spec.max_k}, not {job.k}")
    x = unpack_int8(_rows(operands.a, job.a_base, job.m, job.a_stride, -(-job.k // 4)), job.k)
    w = unpack_int4(
        _rows(operands.w, job.w_base, job.n, job.w_stride, -(-job.k // 8)),
        job.k,
        spec.weight_encoding,
    )
    if spec.scales == "group":
        groups = -(-job.k // job.group)
        bits = _rows(operands.s, job.s_base, groups, job.s_stride, job.n).view(np.float16)
        w = requantise(w, tensor_of(bits), job.group)
    acc = integer_matmul(x, w)
    columns = _rows(operands.e, job.e_base, 1, 0, job.n)[0]
    if spec.epilogue == "fp16":
        s_ch = tensor_of(columns.view(np.float32))
        a_s = tensor_of(_rows(operands.r, job.r_base, 1, 0, job.m)[0].view(np.float32))
        return epilogue_fp16(acc, s_ch, a_s)
    relu, wide = bool(job.flags & FLAG_RELU), bool(job.flags & FLAG_WIDE)
    return epilogue_fixed(acc, columns, relu=relu, wide=wide)


def unpack_int8(words: NDArray[np.uint32], k: int) -> Tensor:
    """Return int8[M, k] of uint32[M, ceil(k / 4)]: byte i of a word is bits 8 i .. 8 i + 7."""
    shifts = torch.arange(0, 32, 8)
    bytes_ = (tensor_of(words.astype(np.int64))[..., None] >> shifts) & 255
    return bytes_.flatten(-2)[:, :k].to(torch.uint8).view(torch.int8)


def unpack_int4(words: NDArray[np.uint32], k: int, encoding: str) -> Tensor:
    """Return int8[N, k] of uint32[N, ceil(k / 8)]: nibble i of a word is bits 4 i .. 4 i + 3.

    Encoding ``twos`` is two's complement, ``offset`` is the code + 8.
    """
    shifts = torch.arange(0, 32, 4)
    nibbles = ((tensor_of(words.astype(np.int64))[..., None] >> shifts) & 15).flatten(-2)
    codes = nibbles - 8 if encoding == "offset" else nibbles - 16 * (nibbles >= 8)
    return codes[:, :k].to(torch.int8)


def requantise(w: Tensor, scales: Tensor, group: int) -> Tensor:
    """Return clamp(RNE(q * s_g), -128, 127).

    Parameters
    ----------
    w : int8[N, K]
        int4 codes.
    scales : float16[ceil(K / group), N]
        Scale of group k // group.
    group : int
        Codes of a row that share a scale.

    Returns
    -------
    int8[N, K]
        The product of a 4-bit code and an 11-bit significand is exact in float32, so rounding
        happens once.
    """
    k = w.shape[1]
    s = scales.float().t().repeat_interleave(group, dim=1)[:, :k]
    return torch.round(w.float() * s).clamp(-128, 127).to(torch.int8)


def integer_matmul(x: Tensor, w: Tensor) -> Tensor:
    """Return X.W^T of int8[M, K] and int8[N, K], exactly, int64[M, N].

    Float BLAS gives the integer result in any order of summation while K * max|x| * max|w| does not
    exceed 2**24 (float32) or 2**53 (float64), since every partial sum is then an exact integer.
    """
    bound = x.shape[1] * magnitude(x) * magnitude(w)
    if bound <= EXACT_FLOAT32:
        return (x.float() @ w.float().t()).long()
    assert bound <= EXACT_FLOAT64
    return (x.double() @ w.double().t()).long()


def magnitude(x: Tensor) -> int:
    """Return max|x| of an integer tensor, 0 if it is empty."""
    if not x.numel():
        return 0
    low, high = torch.aminmax(x)
    return max(-int(low), int(high))


def epilogue_fp16(acc: Tensor, s_ch: Tensor, a_s: Tensor) -> Tensor:
    """Return f16(f32(f32(f32(acc) * s_ch[n]) * a_s[m])), NaN as 0x7E00.

    Parameters
    ----------
    acc : int64[M, N]
    s_ch : float32[N]
    a_s : float32[M]

    Returns
    -------
    float16[M, N]
    """
    assert magnitude(acc) <= EXACT_FLOAT64
    return to_half(acc.float() * s_ch * a_s[:, None])


def epilogue_fixed(
    acc: Tensor, columns: NDArray[np.uint64], *, relu: bool = False, wide: bool = False
) -> Tensor:
    """Return sat(RNE((acc + bias[n]) * mult[n] / 2**shift[n])), clamped at 0 before where `relu`.

    Parameters
    ----------
    acc : int64[M, N]
    columns : uint64[N]
        bias int32 in bits 0..31, mult 32..47, shift 48..53.

    Returns
    -------
    int8[M, N], or int16[M, N] where `wide`
    """
    bias, mult, shift = unpack_columns(columns)
    y = rne_shift((acc + bias) * mult, shift)
    if relu:
        y = y.clamp(min=0)
    if wide:
        return y.clamp(-32768, 32767).to(torch.int16)
    return y.clamp(-128, 127).to(torch.int8)


def unpack_columns(columns: NDArray[np.uint64]) -> tuple[Tensor, Tensor, Tensor]:
    """Return bias, mult and shift, int64[N] each, of fixed-point column parameters uint64[N]."""
    low = (columns & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)
    mult = (columns >> np.uint64(32)) & np.uint64(0xFFFF)
    shift = (columns >> np.uint64(48)) & np.uint64(63)
    parts = (low, mult, shift)
    bias, mult, shift = (tensor_of(part.astype(np.int64)) for part in parts)
    return bias, mult, shift


def rne_shift(value: Tensor, shift: Tensor | int) -> Tensor:
    """Return value / 2**shift of int64, rounded to nearest, ties to even; shift 0..63."""
    shift = torch.as_tensor(shift)
    quotient = value >> shift
    rest = value - (quotient << shift)
    half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 1)
    up = (rest > half) | ((rest == half) & (quotient & 1 == 1))
    return quotient + (up & (shift > 0)).long()


def to_half(x: Tensor) -> Tensor:
    """Round float32 to float16, to nearest even; overflow to infinity, NaN as 0x7E00."""
    half = x.to(torch.float16)
    return torch.where(torch.isnan(x), torch.full_like(half, torch.nan), half)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """Return a tensor of the same values; memory is shared unless the array is read-only."""
    # torch warns about a read-only array, and the words of a loaded network are one.
    return torch.as_tensor(array if array.flags.writeable else array.copy())


def _rows(memory: NDArray[Any], base: int, rows: int, stride: int, width: int) -> NDArray[Any]:
    """Return memory[base + r * stride + i], 0 past the end; contiguous [rows, width]."""
    address = base + np.arange(rows)[:, None] * stride + np.arange(width)
    padded = np.append(memory.reshape(-1), np.zeros(1, dtype=memory.dtype))
    return padded[np.minimum(address, memory.size)]
