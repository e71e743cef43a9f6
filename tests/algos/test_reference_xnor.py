# SPDX-License-Identifier: Apache-2.0
"""The reference of the XNOR array against a count of mismatches, input by input."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.reference.xnor import reference
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_RELU, FLAG_WIDE, Job, Operands


@st.composite
def cases(draw: st.DrawFn) -> tuple[XnorSpec, Job, Operands]:
    """Draw a job whose words are random, within what the array takes."""
    epilogue = draw(st.sampled_from(["threshold", "fixed"]))
    k = draw(st.sampled_from([1, 2, 5, 63, 64, 65, 130]))
    n, classes = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    spec = XnorSpec(pe=1, simd=1, weights=draw(st.sampled_from(["binary", "ternary"])),
                    epilogue=epilogue, max_inputs=k, max_outputs=n,
                    border_classes=classes)  # fmt: skip
    pool = draw(st.integers(1, 4)) if epilogue == "threshold" else 1
    job = Job(m=pool * draw(st.integers(1, 3)), k=k, n=n, pool=pool, classes=classes,
              flags=draw(st.integers(0, 31)))  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    words = -(-k // 64)
    used = np.array([(1 << min(max(k - 64 * j, 0), 64)) - 1 for j in range(words)], np.uint64)
    x, w = (rng.integers(0, 2**64, (*shape, words), dtype=np.uint64) & used
            for shape in ((job.m,), (n, spec.weight_planes)))  # fmt: skip
    if spec.weights == "ternary":
        w[:, 0] &= w[:, 1]
    low = rng.integers(-k - 2, k + 3, n) * (1 if epilogue == "threshold" else 16)
    e = low.astype(np.int32).view(np.uint32).astype(np.uint64)
    e |= rng.integers(0, 2, n, dtype=np.uint64) << np.uint64(54)
    if epilogue == "fixed":
        e |= rng.integers(0, 2**16, n, dtype=np.uint64) << np.uint64(32)
        e |= rng.integers(0, 26, n, dtype=np.uint64) << np.uint64(48)
    base = rng.integers(0, 2 * k + 1, (classes, n)).astype(np.uint16)
    border = rng.integers(0, classes, job.m).astype(np.uint8)
    return spec, job, Operands(x, border, w, base, e)


def expected(spec: XnorSpec, job: Job, operands: Operands) -> list[list[int]]:
    """Return y by section 1, bit by bit, in Python's integers and fractions."""
    rows: list[list[int]] = []
    for v in range(job.m):
        row: list[int] = []
        for o in range(job.n):
            mismatches = 0
            for i in range(job.k):
                j, bit = divmod(i, 64)
                signs = [int(words[j]) >> bit & 1 for words in (operands.x[v], *operands.w[o])]
                mismatches += signs[0] != signs[1] and all(signs[2:])
            s = int(operands.base[operands.border[v], o]) - 2 * mismatches
            e = int(operands.e[o])
            low = (e & 0xFFFFFFFF) - ((e >> 31 & 1) << 32)
            negative = e >> 54 & 1
            if spec.epilogue == "threshold":
                row.append(int((s >= low) != negative))
                continue
            exact = Fraction((16 * (-s if negative else s) + low) * (e >> 32 & 0xFFFF),
                             1 << (e >> 48 & 63))  # fmt: skip
            limit = 32768 if job.flags & FLAG_WIDE else 128
            least = 0 if job.flags & FLAG_RELU else -limit
            row.append(min(max(round(exact), least), limit - 1))
        rows.append(row)
    return [
        [max(column) for column in zip(*rows[i : i + job.pool], strict=True)]
        for i in range(0, job.m, job.pool)
    ]


@settings(max_examples=80)
@given(cases())
def test_reference_is_the_page(case: tuple[XnorSpec, Job, Operands]) -> None:
    """Every output is what section 1 says of its bits; a window's bit is the OR of its vectors'."""
    spec, job, operands = case
    y = reference(spec, job, operands).numpy()
    wide = spec.epilogue == "fixed" and job.flags & FLAG_WIDE
    assert y.dtype == (np.int16 if wide else np.int8)
    assert expected(spec, job, operands) == y.tolist()


def test_extreme_sums() -> None:
    """32,767 inputs that all match, or all mismatch, give exact sums with base 0, K and 2 K."""
    k = 32767
    spec = XnorSpec(pe=1, simd=1, epilogue="fixed", max_inputs=k, max_outputs=1, border_classes=3)
    ones = np.full(512, 2**64 - 1, np.uint64)
    ones[-1] >>= np.uint64(1)
    x = np.stack([ones, np.zeros_like(ones)] * 3)
    base = np.array([[0], [k], [2 * k]], np.uint16)
    border = np.repeat(np.arange(3, dtype=np.uint8), 2)
    e = np.array([1 << 32 | 6 << 48], np.uint64)
    job = Job(m=6, k=k, n=1, classes=3, flags=FLAG_WIDE)
    y = reference(spec, job, Operands(x, border, ones[None, None], base, e)).ravel().tolist()
    assert y == [round(Fraction(16 * s, 64)) for s in (0, -2 * k, k, -k, 2 * k, 0)]


def refused() -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Return changes of job and operands, and what they are refused with."""
    stray = np.full((2, 1), 1 << 5, np.uint64)
    sign = np.array([[[1], [0]]] * 3, np.uint64)
    return [
        ({"m": 0}, {}, r"m of a job must be in 1\.\.4294967295, not 0"),
        ({"k": 9}, {}, r"k of a job must be in 1\.\.8, not 9"),
        ({"n": 5}, {}, r"n of a job must be in 1\.\.4, not 5"),
        ({"pool": 65}, {}, r"pool of a job must be in 1\.\.64, not 65"),
        ({"pool": 3}, {}, "m of a job must be a multiple of pool = 3, not 2"),
        ({"classes": 3}, {}, r"classes of a job must be in 1\.\.2, not 3"),
        ({"flags": 32}, {}, r"flags of a job must be in 0\.\.31, not 32"),
        ({}, {"x": np.zeros((2, 2), np.uint64)}, r"x must have the shape \(2, 1\), not \(2, 2\)"),
        ({}, {"x": stray}, "bits of x at or above K = 5 must be 0"),
        ({}, {"w": np.full((3, 2, 1), 1 << 5, np.uint64)}, "bits of w at or above K = 5 must be 0"),
        ({}, {"w": sign}, "the sign bit of a weight 0 must be 0"),
        ({}, {"border": np.array([0, 2], np.uint8)}, r"border must be in 0\.\.1, not 2"),
        ({}, {"base": np.full((2, 3), 11, np.uint16)}, r"base must be in 0\.\.10, not 11"),
        ({}, {"e": np.full(3, 1 << 55, np.uint64)}, r"e must be in 0\.\.36028797018963967, not 36"),
    ]


@pytest.mark.parametrize(("job", "operands", "message"), refused())
def test_impossible_jobs_are_refused(
    job: dict[str, Any], operands: dict[str, Any], message: str
) -> None:
    """What the array cannot run raises before anything is computed."""
    spec = XnorSpec(pe=1, simd=1, weights="ternary", max_inputs=8, max_outputs=4, border_classes=2)
    fields: dict[str, Any] = {"m": 2, "k": 5, "n": 3, "classes": 2, **job}
    arrays: dict[str, Any] = {
        "x": np.zeros((2, 1), np.uint64), "border": np.zeros(2, np.uint8),
        "w": np.zeros((3, 2, 1), np.uint64), "base": np.zeros((2, 3), np.uint16),
        "e": np.zeros(3, np.uint64), **operands,
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"^xnor: {message}"):
        reference(spec, Job(**fields), Operands(**arrays))


def test_wrong_dtypes_are_refused() -> None:
    """Signed base values are refused by name."""
    spec = XnorSpec(pe=1, simd=1, epilogue="fixed", max_inputs=8, max_outputs=4)
    zeros = Operands(np.zeros((1, 1), np.uint64), np.zeros(1, np.uint8),
                     np.zeros((1, 1, 1), np.uint64), np.zeros((1, 1), np.int16),
                     np.zeros(1, np.uint64))  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(TypeError, match=r"^xnor: base must be uint16, not int16$"):
        reference(spec, Job(1, 1, 1), zeros)
    with pytest.raises(ValueError, match=r"^xnor: pool of a job must be in 1\.\.1, not 2$"):
        reference(spec, Job(2, 1, 1, pool=2), zeros)
