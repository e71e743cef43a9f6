# SPDX-License-Identifier: Apache-2.0
"""The PIM macro's result, bit by bit, in torch.

Written from docs/engines/pim.md, section 1, and from nothing else: column values are plain matrix
products of cells and slices, where the simulator and the hardware count bits.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.reference.w4a8 import EXACT_FLOAT32, epilogue_fixed, tensor_of
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_RELU, FLAG_WIDE, Job, Operands, check_job
from cosil.packed.generators import WORD, xorshift32_rows

BLOCK = 1 << 21
"""Conversions that are computed at once, so that memory does not grow with the job."""

NEGATE = np.uint64(1 << 54)


class Result(NamedTuple):
    """Outputs of a job and the generators' states after it.

    Attributes
    ----------
    y : int8[M, n] or int16[M, n]
    states : int64[A]
    """

    y: Tensor
    states: Tensor


def reference(spec: PimSpec, job: Job, operands: Operands) -> Result:
    """Return the result of one job.

    Parameters
    ----------
    spec : PimSpec
        The macro; its timing parameters have no influence on the result.
    job : Job
        Descriptor.
    operands : Operands
        What the macro holds in the job.

    Returns
    -------
    Result
        int16 where the job is `wide`, else int8; states are empty without noise hardware.

    Raises
    ------
    ValueError, TypeError
        If the macro cannot run the job (`cosil.lowering.pim.check_job`).
    """
    check_job(spec, job, operands)
    columns = job.n * spec.planes
    tile = Tile(
        spec=spec,
        rows=job.rows,
        value_min=spec.value_min,
        cells=cells(spec, operands.w, job.k, job.rows),
        transfer=tensor_of(operands.transfer[:columns].astype(np.int32)),
        noise=tensor_of(operands.noise.astype(np.int32)),
        states=tensor_of(operands.states.astype(np.int64)),
    )
    acc = tile.accumulate(tensor_of(operands.x))
    y = rescale(acc, operands.e, relu=job.has(FLAG_RELU), wide=job.has(FLAG_WIDE))
    return Result(y, tile.states)


def cells(spec: PimSpec, words: NDArray[np.uint64], k: int, rows: int) -> Tensor:
    """Return what the columns hold, float32[n, P, K], of packed words uint64[n, P.Q, G, words].

    Row r of group g is bit r % 64 of word r // 64; input g * rows + r is that row.
    """
    n, planes, groups, length = words.shape
    wide = words.reshape(n, planes, groups, length, 1) >> np.arange(64, dtype=np.uint64)
    bits = (wide & np.uint64(1)).astype(np.float32).reshape(n, planes, groups, length * 64)
    bits = bits[..., :rows].reshape(n, planes, groups * rows)[..., :k]
    grouped = tensor_of(np.ascontiguousarray(bits)).reshape(n, spec.planes, spec.cell_bits, k)
    factors = 2.0 ** torch.arange(spec.cell_bits)
    if spec.decomposition == "native":
        factors[-1] = -factors[-1]
    return torch.einsum("npqk,q->npk", grouped, factors)


@dataclass(eq=False)
class Tile:
    """The macro as it computes one tile of a layer: its columns, and generators that go on.

    Attributes
    ----------
    spec : PimSpec
        The macro.
    rows : int
        Rows of a group.
    value_min : int
        Value of the first entry of a transfer table.
    cells : float32[n, P, K]
        Integers.
    transfer : int32[n.P, entries] or int32[1, entries]
        Tables, sixteenths of an LSB.
    noise : int32[2**noise_bits]
        Noise table; all 0, or empty, where nothing is added.
    states : int64[A]
        States of the generators; advanced by :meth:`accumulate`; empty without noise hardware.
    """

    spec: PimSpec
    rows: int
    value_min: int
    cells: Tensor
    transfer: Tensor
    noise: Tensor
    states: Tensor

    @property
    def groups(self) -> int:
        """G, groups of rows."""
        return -(-self.cells.shape[2] // self.rows)

    def accumulate(self, x: Tensor) -> Tensor:
        """Return the accumulators of the next vectors.

        Parameters
        ----------
        x : uint8[M, K]
            Codes.

        Returns
        -------
        int64[M, n]
        """
        block = max(1, BLOCK // (self.spec.slices * self.groups * self.spec.columns))
        return torch.cat([self._accumulate(x[i : i + block]) for i in range(0, x.shape[0], block)])

    def _accumulate(self, x: Tensor) -> Tensor:
        spec = self.spec
        n, planes, k = self.cells.shape
        columns = self.cells.reshape(n * planes, k)
        weights = torch.tensor(spec.plane_weights, dtype=torch.float32)
        # Column values, and an output's codes times their weights, are sums of integers that stay
        # below 2**24, in whatever order BLAS adds them.
        assert max(-spec.value_min, spec.value_max) <= EXACT_FLOAT32
        assert spec.code_max * float(weights.abs().sum()) <= EXACT_FLOAT32
        noise = self._noise(x.shape[0])
        acc = torch.zeros(x.shape[0], n, dtype=torch.int64)
        for s in range(spec.slices):
            shift = spec.slice_bits * (spec.slices - 1 - s)
            slices = ((x >> shift) & (spec.slice_levels - 1)).float()
            for g in range(self.groups):
                part = slice(g * self.rows, (g + 1) * self.rows)
                value = slices[:, part] @ columns[:, part].t()
                code = self._convert(value.long(), None if noise is None else noise[:, s, g])
                total = code.reshape(-1, n, planes).float() @ weights
                acc += total.long() << shift
        return acc

    def _convert(self, value: Tensor, noise: Tensor | None) -> Tensor:
        """Return the codes, int32[B, n.P], of values int64[B, n.P]."""
        rows, entries = self.transfer.shape
        entry = value + (torch.arange(rows) * entries - self.value_min)
        if noise is None:
            return self._quiet.reshape(-1)[entry]
        return self._codes(self.transfer.reshape(-1)[entry] + noise)

    @functools.cached_property
    def _quiet(self) -> Tensor:
        """Code of each entry of the transfer tables without noise."""
        return self._codes(self.transfer)

    def _codes(self, sixteenths: Tensor) -> Tensor:
        return ((sixteenths + 8) >> 4).clamp(self.spec.code_min, self.spec.code_max)

    def _noise(self, vectors: int) -> Tensor | None:
        """Return the noise of the next vectors' columns, int32[B, S, G, n.P]; step all ADCs.

        Column c is converted at position c mod M by ADC c div M.
        """
        spec = self.spec
        if not spec.noise_bits:
            return None
        shape = (vectors, spec.slices, self.groups, spec.mux)
        states, steps = self.states, math.prod(shape)
        self.states = xorshift32_jump(states, steps)
        if not self.noise.any():
            return None
        columns = self.cells.shape[0] * self.cells.shape[1]
        draws = xorshift32_draws(states[: -(-columns // spec.mux)], steps).reshape(*shape, -1)
        by_column = self.noise[draws >> (32 - spec.noise_bits)].transpose(3, 4)
        return by_column.reshape(*shape[:3], -1)[..., :columns]


def rescale(acc: Tensor, columns: NDArray[np.uint64], *, relu: bool, wide: bool) -> Tensor:
    """Return sat(RNE((±16 acc + bias) * mult / 2**shift)) of int64[M, n]; bit 54 negates acc.

    Parameters
    ----------
    columns : uint64[n]
        Bias int32, sixteenths of an LSB, in bits 0..31, mult 32..47, shift 48..53, negate 54.

    Returns
    -------
    int8[M, n], or int16[M, n] where `wide`
    """
    negate = tensor_of((columns & NEGATE) != 0)
    return epilogue_fixed(16 * torch.where(negate, -acc, acc), columns, relu=relu, wide=wide)


def xorshift32_draws(states: Tensor, count: int) -> Tensor:
    """Return the next `count` states, at least one, of generators int64[A], int64[count, A].

    Runs of consecutive states, each begun by jumps, advance side by side, one step at a time.
    """
    steps = 1 << ((count - 1).bit_length() + 1) // 2
    known = states[None]
    while known.shape[0] * steps < count:
        known = torch.cat([known, xorshift32_jump(known, known.shape[0] * steps)])
    runs = torch.empty(known.shape[0], steps, states.shape[0], dtype=torch.int64)
    for i in range(steps):
        known = known ^ ((known << 13) & WORD)
        known = known ^ (known >> 17)
        known = known ^ ((known << 5) & WORD)
        runs[:, i] = known
    return runs.reshape(-1, states.shape[0])[:count]


def xorshift32_jump(states: Tensor, steps: int) -> Tensor:
    """Return int64 states after a number of steps: the GF(2) matrix, applied byte by byte."""
    tables = _jump_tables(steps)
    result = torch.zeros_like(states)
    for byte in range(4):
        result ^= tables[byte][(states >> (8 * byte)) & 255]
    return result


@functools.lru_cache(maxsize=64)
def _jump_tables(steps: int) -> Tensor:
    """Return what each byte of a state adds to the state after so many steps, int64[4, 256]."""
    rows = xorshift32_rows(steps)
    tables = torch.zeros(4, 256, dtype=torch.int64)
    for bit in range(32):
        column = sum((row >> bit & 1) << i for i, row in enumerate(rows))
        byte, place = divmod(bit, 8)
        # Numbers with this bit as the highest: those without it, plus the bit's column.
        tables[byte, 1 << place : 2 << place] = tables[byte, : 1 << place] ^ column
    return tables
