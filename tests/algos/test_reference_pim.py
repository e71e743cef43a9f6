# SPDX-License-Identifier: Apache-2.0
"""The PIM reference against a conversion-by-conversion oracle in plain Python integers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference.pim import Result, reference, xorshift32_draws
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_RELU, FLAG_WIDE, Job, Operands
from cosil.lowering.pim_transfer import Grid
from cosil.packed import bitplane
from cosil.packed.decomposition import DECOMPOSITIONS, encoding

IDENTITY = 1 << 32 | 4 << 48
"""Column parameters that give acc: 16 acc * 1 / 2**4."""


def step(state: int) -> int:
    state = (state ^ (state << 13)) % 2**32
    state ^= state >> 17
    return (state ^ (state << 5)) % 2**32


def oracle(
    spec: PimSpec, job: Job, operands: Operands, w: np.ndarray
) -> tuple[list[list[int]], list[int]]:
    """Return outputs and final states, one conversion after the other, of weight codes [n, K]."""
    states = [int(state) for state in operands.states]
    x = operands.x.tolist()
    rows: list[list[int]] = []
    for vector in range(job.m):
        acc = [0] * job.n
        for s in range(spec.slices):
            place = spec.slices - 1 - s
            for group in range(-(-job.k // job.rows)):
                inputs = range(group * job.rows, min((group + 1) * job.rows, job.k))
                draws: dict[int, int] = {}
                for position in range(spec.mux):
                    for adc in range(len(states)):
                        states[adc] = step(states[adc])
                        draws[adc * spec.mux + position] = states[adc]
                for o in range(job.n):
                    for p in range(spec.planes):
                        v = 0
                        for k in inputs:
                            digit = x[vector][k] // spec.slice_levels**place % spec.slice_levels
                            code = int(w[o, k])
                            if spec.decomposition == "bit_serial":
                                code = code // 2**p % 2
                            elif spec.decomposition == "differential":
                                code = max(code if p == 0 else -code, 0)
                            v += code * digit
                        c = o * spec.planes + p
                        x16 = int(operands.transfer[c, v - spec.value_min])
                        if draws:
                            index = draws[c] // 2 ** (32 - spec.noise_bits)
                            x16 += int(operands.noise[index])
                        code = min(max((x16 + 8) // 16, spec.code_min), spec.code_max)
                        weight = 1
                        if spec.decomposition == "bit_serial":
                            weight = -(2**p) if p == spec.weight_bits - 1 else 2**p
                        elif p == 1:
                            weight = -1
                        acc[o] += spec.slice_levels**place * weight * code
        rows.append([rescaled(job, int(operands.e[o]), acc[o]) for o in range(job.n)])
    return rows, states


def rescaled(job: Job, column: int, acc: int) -> int:
    bias = (column % 2**32 + 2**31) % 2**32 - 2**31
    mult, shift, negate = column >> 32 & 0xFFFF, column >> 48 & 63, column >> 54 & 1
    y = round(Fraction((16 * (-acc if negate else acc) + bias) * mult, 2**shift))
    limit = 32768 if job.has(FLAG_WIDE) else 128
    return min(max(y, 0 if job.has(FLAG_RELU) else -limit), limit - 1)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[PimSpec, Job, Operands, np.ndarray]:
    """Draw a macro, a job and operands, corner values often."""
    decomposition = draw(st.sampled_from(DECOMPOSITIONS))
    weight_bits, activation_bits = draw(st.integers(2, 8)), draw(st.integers(1, 8))
    slice_bits = draw(st.sampled_from([m for m in (1, 2, 4, 8) if activation_bits % m == 0]))
    planes = {"bit_serial": weight_bits, "differential": 2, "native": 1}[decomposition]
    mux = draw(st.sampled_from([planes, 2 * planes, 1]))
    spec = PimSpec(
        decomposition,
        rows=draw(st.sampled_from([1, 2, 5, 66] if slice_bits < 8 else [1, 2])),
        columns=mux * draw(st.integers(-(-planes // mux), 4 if mux > 1 else 2 * planes)),
        groups=3,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        slice_bits=slice_bits,
        adc_bits=draw(st.integers(2, 10)),
        mux=mux,
        noise_bits=draw(st.sampled_from([0, 2, 5])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, spec.rows))
    job = Job(
        m=draw(st.integers(1, 3)),
        k=draw(st.integers(1, 3 * rows)),
        n=draw(st.integers(1, spec.outputs)),
        rows=rows,
        flags=draw(st.sampled_from([0, FLAG_RELU, FLAG_WIDE, FLAG_RELU | FLAG_WIDE])),
    )
    most = 2 ** (weight_bits - 1) - 1
    least = -most - (decomposition != "differential")
    w = rng.integers(least, most + 1, (job.n, job.k))
    w[0] = draw(st.sampled_from([least, most]))
    x = rng.integers(0, 2**activation_bits, (job.m, job.k)).astype(np.uint8)
    x[0] = draw(st.sampled_from([0, 2**activation_bits - 1]))
    if draw(st.booleans()):
        transfer = rng.integers(-(2**15), 2**15, (spec.columns, spec.entries)).astype(np.int16)
    else:
        grid = Grid(decomposition, weight_bits, slice_bits, spec.rows, spec.adc_bits,
                    draw(st.sampled_from(["A", "B"])), draw(st.integers(1, 3)),
                    draw(st.integers(-2, 3)))  # fmt: skip
        transfer = np.repeat(grid.table()[None], spec.columns, axis=0)
    bias = rng.integers(-(2**31), 2**31, job.n) >> rng.integers(0, 31, job.n)
    mult, shift = rng.integers(0, 2**16, job.n), rng.integers(0, 40, job.n)
    e = bias % 2**32 | mult << 32 | shift << 48 | rng.integers(0, 2, job.n) << 54
    adcs = spec.adcs if spec.noise_bits else 0
    operands = Operands(
        x=x,
        w=bitplane.encode(w, encoding=encoding(decomposition), bits=weight_bits, rows=rows).words,
        transfer=transfer,
        noise=rng.integers(-99, 99, spec.noise_entries).astype(np.int16),
        states=rng.integers(1, 2**32, adcs).astype(np.uint32),
        e=e.astype(np.uint64),
    )
    return spec, job, operands, w


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_reference_is_the_oracle(case: tuple[PimSpec, Job, Operands, np.ndarray]) -> None:
    """Every output and every generator's final state, for what the page's section 1 says."""
    spec, job, operands, w = case
    rows, states = oracle(spec, job, operands, w)
    result = reference(spec, job, operands)
    assert rows == result.y.tolist()
    assert states == result.states.tolist()
    assert result.y.dtype == (torch.int16 if job.has(FLAG_WIDE) else torch.int8)


def lossless(spec: PimSpec, seed: int) -> tuple[Result, np.ndarray]:
    """Return y of a job on grid A with k = 1, and X.W^T."""
    rng = np.random.default_rng(seed)
    most = 2 ** (spec.weight_bits - 1) - 1
    w = rng.integers(-most, most + 1, (spec.outputs, 50))
    w[0] = most
    x = rng.integers(0, 2**spec.activation_bits, (40, 50)).astype(np.uint8)
    x[0] = x.max()
    grid = Grid(
        spec.decomposition, spec.weight_bits, spec.slice_bits, spec.rows, spec.adc_bits, "A"
    )
    job = Job(40, 50, spec.outputs, spec.rows, FLAG_WIDE)
    operands = Operands(
        x=x,
        w=bitplane.encode(w, encoding=encoding(spec.decomposition), bits=spec.weight_bits,
                          rows=spec.rows).words,
        transfer=np.repeat(grid.table()[None], spec.columns, axis=0),
        noise=np.zeros(0, np.int16),
        states=np.zeros(0, np.uint32),
        e=np.full(spec.outputs, IDENTITY, np.uint64),
    )  # fmt: skip
    return reference(spec, job, operands), x.astype(np.int64) @ w.T


@pytest.mark.parametrize(
    ("decomposition", "adc_bits", "slice_bits"),
    [("bit_serial", 4, 1), ("bit_serial", 6, 2), ("differential", 7, 1), ("native", 8, 1)],
)
def test_lossless_converters_give_the_product(
    decomposition: str, adc_bits: int, slice_bits: int
) -> None:
    """With an LSB of one unit and codes for every value, a macro is an integer matrix product."""
    spec = PimSpec(decomposition, rows=15, columns=32, activation_bits=4, slice_bits=slice_bits,
                   adc_bits=adc_bits, mux=8, noise_bits=0)  # fmt: skip
    assert spec.code_max >= spec.value_max
    result, product = lossless(spec, 1)
    np.testing.assert_array_equal(product, result.y.numpy())
    poorer, product = lossless(replace(spec, adc_bits=adc_bits - 1), 1)
    assert (poorer.y.numpy() != product).any(), "one bit less must clip"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=3), st.integers(1, 40))
def test_draws_are_steps(states: list[int], count: int) -> None:
    """Doubling jumps give what so many single steps give, for each generator."""
    found = xorshift32_draws(torch.tensor(states), count)
    assert found.shape == (count, len(states))
    for row in found.tolist():
        states = [step(state) for state in states]
        assert states == row


def test_states_go_on_from_block_to_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is computed in blocks of one vector draws what it draws at once."""
    spec = PimSpec(rows=8, columns=16, mux=4, noise_bits=4)
    rng = np.random.default_rng(3)
    w = rng.integers(-8, 8, (4, 20))
    job = Job(7, 20, 4, 8, FLAG_WIDE)
    operands = Operands(
        x=rng.integers(0, 16, (7, 20)).astype(np.uint8),
        w=bitplane.encode(w, rows=8).words,
        transfer=np.repeat(Grid("bit_serial", 4, 1, 8, 7).table()[None], 16, axis=0),
        noise=rng.integers(-40, 40, 16).astype(np.int16),
        states=np.arange(1, 5, dtype=np.uint32),
        e=np.full(4, IDENTITY, np.uint64),
    )
    whole = reference(spec, job, operands)
    monkeypatch.setattr("algos.reference.pim.BLOCK", 1)
    parts = reference(spec, job, operands)
    assert torch.equal(whole.y, parts.y)
    assert torch.equal(whole.states, parts.states)
    assert oracle(spec, job, operands, w) == (whole.y.tolist(), whole.states.tolist())


def test_largest_accumulator() -> None:
    """The most negative sum of the widest macro, 256 groups of -128 * 1023 * 255, is exact."""
    spec = PimSpec(rows=1, columns=16, groups=256, weight_bits=8, activation_bits=8, adc_bits=10,
                   mux=8, noise_bits=0)  # fmt: skip
    transfer = np.full((16, spec.entries), -32768, np.int16)
    transfer[7::8] = 32767
    job = Job(1, 256, 2, 1, FLAG_WIDE)
    operands = Operands(
        x=np.zeros((1, 256), np.uint8),
        w=np.zeros((2, 8, 256, 1), np.uint64),
        transfer=transfer,
        noise=np.zeros(0, np.int16),
        states=np.zeros(0, np.uint32),
        e=np.array([0x80000000 | 65535 << 32 | 40 << 48, 0x7FFFFFFF | 1 << 32 | 23 << 48 | 1 << 54],
                   np.uint64),
    )  # fmt: skip
    acc = -256 * 128 * 1023 * 255
    assert acc.bit_length() + 1 == spec.acc_bits
    exact = [
        round(Fraction((16 * acc - 2**31) * 65535, 2**40)),
        round(Fraction(-16 * acc + 2**31 - 1, 2**23)),
    ]
    assert [exact] == reference(spec, job, operands).y.tolist()
    assert max(map(abs, exact)) < 2**15, "saturation would hide the sum"


def test_jobs_that_the_macro_cannot_run_are_refused() -> None:
    """The edge check stands before the computation."""
    spec = PimSpec(noise_bits=0)
    job = Job(1, 1, 65, 1)
    none = np.zeros(0, np.uint32)
    operands = Operands(
        x=np.zeros((1, 1), np.uint8),
        w=np.zeros((65, 4, 1, 1), np.uint64),
        transfer=np.zeros((256, 129), np.int16),
        noise=np.zeros(0, np.int16),
        states=none,
        e=np.zeros(65, np.uint64),
    )
    with pytest.raises(ValueError, match=r"^pim: n of a job must be in 1..64, not 65$"):
        reference(spec, job, operands)
