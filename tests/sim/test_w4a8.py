# SPDX-License-Identifier: Apache-2.0
"""The two models of the W4A8 array against each other, the torch reference and the contract."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from algos.reference.w4a8 import reference
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE, Job, Operands
from sim.lib.stalls import KINDS, pattern, patterns
from sim.w4a8 import run
from sim.w4a8.plan import STALL_NAMES

pytestmark = pytest.mark.xdist_group("sim-w4a8")


@dataclass(frozen=True)
class Case:
    """A job with its memories, somewhere inside larger images."""

    spec: W4A8Spec
    job: Job
    operands: Operands
    stalls: dict[str, NDArray[np.bool_]]
    memory_latency: int


def make_job(
    spec: W4A8Spec,
    m: int,
    n: int,
    k: int,
    group: int,
    seed: int = 0,
    *,
    flags: int = 0,
    corner: bool = False,
) -> tuple[Job, Operands]:
    """Return random (or corner) words at odd bases and strides; some images end too early."""
    rng = np.random.default_rng(seed)
    a_stride, w_stride = -(-k // 4) + int(rng.integers(3)), -(-k // 8) + int(rng.integers(3))
    s_stride = n + int(rng.integers(3))
    a_base, w_base, s_base, e_base, r_base = (int(x) for x in rng.integers(5, size=5))
    groups = -(-k // group)
    a = rng.integers(2**32, size=a_base + m * a_stride, dtype=np.uint64).astype(np.uint32)
    w = rng.integers(2**32, size=w_base + n * w_stride, dtype=np.uint64).astype(np.uint32)
    if corner:
        a[:] = rng.choice(
            np.array([0, 0x80808080, 0x7F7F7F7F, 0x807F0001], dtype=np.uint32), a.size
        )
        w[:] = rng.choice(
            np.array([0, 0x88888888, 0x77777777, 0x8F087178], dtype=np.uint32), w.size
        )
    if rng.random() < 0.2:
        a, w = a[: max(1, a.size - 3)], w[: max(1, w.size - 2)]
    s = rng.integers(2**16, size=s_base + groups * s_stride).astype(np.uint16)
    if not corner:
        s = (rng.normal(size=s.size) * 8).astype(np.float16).view(np.uint16)
    s[(s & 0x7C00) == 0x7C00] &= np.uint16(0x83FF)  # infinite or NaN: make it subnormal
    if spec.epilogue == "fp16":
        bits = rng.integers(2**32, size=e_base + n, dtype=np.uint64).astype(np.uint32)
        e = bits if corner else (rng.random(bits.size, dtype=np.float32) * 0.01).view(np.uint32)
        r = rng.random(r_base + m, dtype=np.float32).view(np.uint32)
        if corner:
            r = rng.integers(2**32, size=r.size, dtype=np.uint64).astype(np.uint32)
    else:
        shift = rng.integers(0 if corner else 8, 64 if corner else 30, size=e_base + n)
        bits = rng.integers(2**48, size=e_base + n, dtype=np.uint64)
        bits &= np.uint64(2**64 - 1 if corner else 0xFFFF00000FFF)
        e = bits | shift.astype(np.uint64) << np.uint64(48)
        r = np.zeros(0, dtype=np.uint32)
    job = Job(
        m, n, k, group, a_base, a_stride, w_base, w_stride, s_base, s_stride, e_base, r_base,
        7, n, flags,
    )  # fmt: skip
    return job, Operands(a, w, s if spec.scales == "group" else s[:0], e, r)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a spec, a shape that stresses its edges, stalls and a memory latency."""
    dataflow = draw(st.sampled_from(["os", "ws"]))
    rows = draw(st.sampled_from([1, 2, 4, 8] if dataflow == "ws" else [1, 2, 3, 4, 5, 7]))
    cols = draw(st.integers(1, 9))
    spec = W4A8Spec(
        rows,
        cols,
        dataflow,
        draw(st.sampled_from(["channel", "group"])),
        draw(st.sampled_from(["", "twos", "offset"])),
        draw(st.sampled_from(["fp16", "fixed"])),
        draw(st.integers(1, cols)),
        acc_rows=draw(st.sampled_from([16, 32])),
        prefetch_chunks=draw(st.sampled_from([2, 4, 8])),
        double_buffer=draw(st.sampled_from([True, True, False])),
    )

    def size(edge: int) -> int:
        near = [1, 2, max(1, edge - 1), edge, edge + 1, 2 * edge + 1, 7, 13, 23, 37]
        return draw(st.sampled_from(near))

    m, n = size(rows), size(cols)
    k = draw(st.sampled_from([1, 2, 3, 5, 8, rows + 1, spec.chunk - 1 or 1, spec.chunk + 1, 61]))
    group = draw(st.sampled_from([1, 2, 3, 5, 16, k, 1000]))
    seed = draw(st.integers(0, 2**31))
    flags = 0
    if spec.epilogue == "fixed":
        flags = draw(st.sampled_from([0, FLAG_RELU, FLAG_WIDE, FLAG_RELU | FLAG_WIDE]))
    job, operands = make_job(spec, m, n, k, group, seed, flags=flags, corner=draw(st.booleans()))
    kind = draw(st.sampled_from([*KINDS, "some"]))
    if kind == "some":
        chosen = draw(st.lists(st.sampled_from(STALL_NAMES), unique=True, max_size=3))
        stalls = {name: pattern("bursty", seed + i, 61) for i, name in enumerate(chosen)}
    else:
        stalls = patterns(kind, seed, STALL_NAMES)
    return Case(spec, job, operands, stalls, draw(st.sampled_from([1, 2, 3, 6, 33])))


def bits(y: NDArray[np.generic]) -> NDArray[np.generic]:
    return y.view(np.uint16) if y.dtype == np.float16 else y


@settings(max_examples=150)
@given(cases())
def test_models_agree_under_any_stalls(case: Case) -> None:
    """Both give the torch reference's bits, and the same cycles, causes, counts and events."""
    stepped, fast = (
        run(
            case.spec,
            case.job,
            case.operands,
            stalls=case.stalls,
            memory_latency=case.memory_latency,
            step=step,
            trace=True,
        )
        for step in (True, False)
    )
    expected = reference(case.spec, case.job, case.operands).numpy()
    assert expected.dtype == stepped.y.dtype == fast.y.dtype
    np.testing.assert_array_equal(bits(expected), bits(stepped.y))
    np.testing.assert_array_equal(bits(expected), bits(fast.y))
    assert stepped.cycles == fast.cycles
    assert stepped.cycles_by_cause == fast.cycles_by_cause
    assert sum(fast.cycles_by_cause.values()) == fast.cycles
    assert stepped.counts == fast.counts
    np.testing.assert_array_equal(stepped.events, fast.events)
    assert case.job.m * case.job.n * case.job.k == stepped.counts["mac"]
    assert case.job.m * case.job.n == stepped.counts["epilogue"]


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("late", [30, 40, 61])
def test_last_waves_keep_their_distance(dataflow: str, late: int) -> None:
    """A tile stalled in its middle overtakes neither the shadow chain nor the accumulation."""
    spec = W4A8Spec(8, 4, dataflow, "group", acc_rows=16)
    m, k = (9, 3) if dataflow == "os" else (2, 24)
    job, operands = make_job(spec, m, 9, k, 1, late)
    # os: the scales of waves 0 and 1 come in time, that of wave 2 late and the next tile's at once
    # after it; ws: likewise the activations of rows 0 and 1.
    stalled = np.zeros(300, dtype=np.bool_)
    stalled[5 if dataflow == "os" else 4 : late] = True
    stalls = {"s" if dataflow == "os" else "a": stalled}
    result = run(spec, job, operands, stalls=stalls, step=True)
    expected = reference(spec, job, operands).numpy()
    np.testing.assert_array_equal(bits(expected), bits(result.y))
    assert run(spec, job, operands, stalls=stalls).cycles == result.cycles


@pytest.mark.parametrize("scales", ["channel", "group"])
def test_long_sums_are_exact(scales: str) -> None:
    """Sums beyond 2**24, where float32 would round, stay exact in both models."""
    spec = W4A8Spec(4, 4, "os", scales, epilogue="fixed", max_k=65536)
    k = 20_000
    job, operands = make_job(spec, 2, 3, k, 5_000, 1, flags=FLAG_WIDE, corner=True)
    a = np.full_like(operands.a, 0x80808080)
    operands = replace(operands, a=a)
    result = run(spec, job, operands)
    np.testing.assert_array_equal(reference(spec, job, operands).numpy(), result.y)
    np.testing.assert_array_equal(run(spec, job, operands, step=True).y, result.y)


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize(("shape", "bar"), [((1024, 1024, 1024), 0.99), ((512, 512, 64), 0.95)])
def test_steady_state_wastes_nothing(
    dataflow: str, shape: tuple[int, int, int], bar: float
) -> None:
    """A 16x16 array is at least 99 % busy at 1024^3 and 95 % at 512 x 512 x 64."""
    spec = W4A8Spec(16, 16, dataflow)
    job, operands = make_job(spec, *shape, shape[2])
    assert run(spec, job, operands).utilisation >= bar


@pytest.mark.nojit
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_kernels_are_plain_python(dataflow: str) -> None:
    """Both models give the reference's bits and equal cycles, compiled or interpreted."""
    spec = W4A8Spec(2, 3, dataflow, "group", acc_rows=16, epilogue_lanes=2)
    job, operands = make_job(spec, 3, 4, 5, 2, 4)
    stalls = patterns("random", 3, STALL_NAMES, 31)
    stepped = run(spec, job, operands, stalls=stalls, step=True)
    fast = run(spec, job, operands, stalls=stalls)
    expected = reference(spec, job, operands).numpy()
    np.testing.assert_array_equal(bits(expected), bits(stepped.y))
    np.testing.assert_array_equal(bits(expected), bits(fast.y))
    assert (stepped.cycles, stepped.counts) == (fast.cycles, fast.counts)


def test_refusals() -> None:
    """What the engine does not admit is refused with one exact sentence."""
    spec = W4A8Spec(4, 4, scales="group", epilogue="fixed", max_k=64)
    job, operands = make_job(spec, 2, 2, 8, 8)

    def refused(message: str, error: type[Exception] = ValueError, **changes: object) -> None:
        arguments: dict[str, object] = {"job": job, "operands": operands} | changes
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            run(spec, arguments.pop("job"), arguments.pop("operands"), **arguments)  # type: ignore[arg-type]

    refused("w4a8: k of a job must be in 1..64, not 65", job=replace(job, k=65))
    refused("w4a8: m of a job must be in 1..4294967295, not 0", job=replace(job, m=0))
    refused("w4a8: a_stride of a job must be in 2..4294967295, not 1", job=replace(job, a_stride=1))
    refused("w4a8: memory_latency must be at least 1 cycle, not 0", memory_latency=0)
    refused(
        "w4a8: operand e must be a one-dimensional uint64 array, not 1-dimensional uint32",
        TypeError,
        operands=replace(operands, e=operands.e.astype(np.uint32)),
    )
    refused(
        "w4a8: group scales must be finite, not infinite or NaN; pack them again",
        operands=replace(operands, s=np.full_like(operands.s, 0x7C00)),
    )
    refused("stalls: unknown stream 'b'; known are a_req, a, ", stalls={"b": np.zeros(2, bool)})
    refused("stalls: y must be free in at least one cycle", stalls={"y": np.ones(2, bool)})
    refused("stalls: y must be a one-dimensional bool array", TypeError, stalls={"y": np.zeros(2)})
