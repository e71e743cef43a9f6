# SPDX-License-Identifier: Apache-2.0
"""The two models of the XNOR array against each other, the reference and the page's laws."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from algos.reference.xnor import reference
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_WEIGHTS, FLAG_WIDE, Job, Operands
from cosil.packed import bits
from sim.lib.run import Run
from sim.lib.stalls import patterns
from sim.xnor import run, values
from sim.xnor.plan import STALL_NAMES
from verif.xnor import operands as draw_operands

pytestmark = pytest.mark.xdist_group("sim-xnor")

NEGATE = 1 << 54


@dataclass(frozen=True)
class Case:
    """A job on an array."""

    spec: XnorSpec
    job: Job
    operands: Operands
    stalls: dict[str, NDArray[np.bool_]]


def make_operands(spec: XnorSpec, job: Job, seed: int) -> Operands:
    """Return operands that stress the arithmetic."""
    rng = np.random.default_rng(seed)
    w = draw_operands.weights(spec, rng, job)
    x = draw_operands.activations(rng, job, w)
    border = rng.integers(job.classes, size=job.m).astype(np.uint8)
    rows = draw_operands.base(rng, job, w)
    e = draw_operands.columns(spec, rng, job, draw_operands.sums(x, border, w, rows))
    return draw_operands.packed_operands(x, border, w, rows, e)


def loads(job: Job) -> dict[str, bool]:
    """Return what a job loads, as the spec's methods are asked for it."""
    flags = {"load_weights": FLAG_WEIGHTS, "load_base": FLAG_BASE, "load_columns": FLAG_COLUMNS}
    return {name: job.has(flag) for name, flag in flags.items()}


@st.composite
def specs(draw: st.DrawFn) -> XnorSpec:
    """Draw a small array; words of inputs are cut anywhere, and trees have one to three stages."""
    pe, simd = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 7, 9, 64, 65, 130]))
    return XnorSpec(
        pe,
        simd,
        draw(st.sampled_from(["binary", "ternary"])),
        draw(st.sampled_from(["threshold", "fixed"])),
        max_inputs=4 * simd - draw(st.integers(0, min(3, simd - 1))),
        max_outputs=3 * pe,
        border_classes=draw(st.integers(1, 4)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw an array, a job whose shape stresses its edges, and stalls."""
    spec = draw(specs())
    pool = draw(st.sampled_from([1, 1, 2, 5])) if spec.epilogue == "threshold" else 1
    job = Job(
        m=pool * draw(st.sampled_from([1, 3, 8])),
        k=draw(st.sampled_from([1, spec.simd, spec.simd + 1, 3 * spec.simd, spec.max_inputs])),
        n=draw(st.sampled_from([1, spec.pe, 2 * spec.pe + 1, spec.max_outputs])),
        pool=pool,
        classes=draw(st.integers(1, spec.border_classes)),
        flags=draw(st.integers(0, 31)),
    )
    seed = draw(st.integers(0, 2**31))
    drawn = patterns(draw(st.sampled_from(["random", "bursty"])), seed, STALL_NAMES, 61)
    stalls = {name: row for name, row in drawn.items() if draw(st.booleans())}
    job = replace(job, k=min(job.k, spec.max_inputs), n=min(job.n, spec.max_outputs))
    return Case(spec, job, make_operands(spec, job, seed), stalls)


def assert_same(a: Run, b: Run) -> None:
    """Everything that the hardware must reproduce is equal."""
    assert a.y.dtype == b.y.dtype
    assert a.y.tolist() == b.y.tolist()
    assert a.cycles_by_cause == b.cycles_by_cause
    assert a.counts == b.counts
    assert a.events.tolist() == b.events.tolist()
    assert a.cycles == b.cycles == sum(b.cycles_by_cause.values())


@settings(max_examples=200)
@given(cases())
def test_models_agree_under_any_stalls(case: Case) -> None:
    """Outputs are the reference's; cycles, causes, counts and marks are equal."""
    stepped, fast = (
        run(case.spec, case.job, case.operands, stalls=case.stalls, step=step, trace=True)
        for step in (True, False)
    )
    assert_same(stepped, fast)
    expected = reference(case.spec, case.job, case.operands).numpy()
    assert expected.dtype == fast.y.dtype
    assert expected.tolist() == fast.y.tolist()


@settings(max_examples=100)
@given(cases())
def test_closed_forms_without_stalls(case: Case) -> None:
    """Cycles are `XnorSpec.latency`, and from vector to vector `XnorSpec.interval`, exactly."""
    spec, job = case.spec, case.job
    result = run(spec, job, case.operands, trace=True)
    assert result.cycles == spec.latency(job.m, job.k, job.n, job.classes, **loads(job))
    interval = spec.interval(job.k, job.n)
    for event in ("first_issue", "last_issue"):
        assert {b - a for a, b in pairwise(result.events[event].tolist())} <= {interval}
    outputs = result.events["last_output"].tolist()
    ends = outputs[job.pool - 1 :: job.pool]
    assert {b - a for a, b in pairwise(ends)} <= {interval * job.pool}
    assert set(outputs) - set(ends) <= {-1}


@settings(max_examples=60)
@given(cases())
def test_counts_are_those_of_the_page(case: Case) -> None:
    """What is read, counted, added and moved follows from spec and job, as stated."""
    spec, job = case.spec, case.job
    result = run(spec, job, case.operands, stalls=case.stalls)
    output_folds, input_folds = -(-job.n // spec.pe), -(-job.k // spec.simd)
    beats = spec.load_beats(job.k, job.n, job.classes, **loads(job))
    products = job.m * job.k * job.n
    assert result.counts == {
        "xnor": products,
        "weight_reads": job.m * output_folds * input_folds,
        "base_reads": job.m * output_folds,
        "column_reads": job.m * output_folds,
        "input_writes": job.m * input_folds,
        "input_reads": job.m * input_folds * (output_folds - 1),
        "accumulates": job.m * input_folds * job.n,
        "results": job.m * job.n,
        "outputs": job.m // job.pool * job.n,
        **{f"{stream}_beats": count for stream, count in beats.items()},
        "x_beats": job.m * input_folds,
        "y_beats": job.m // job.pool * output_folds,
        "job_beats": 1,
    }
    peak = spec.pe * spec.simd
    assert result.utilisation == pytest.approx(products / result.cycles / peak)


HAND = XnorSpec(2, 2, max_inputs=4, max_outputs=4, border_classes=1)


@pytest.mark.parametrize("step", [True, False])
def test_cycles_of_one_job_are_those_of_the_page(step: bool) -> None:
    """The page's rules, by hand: two vectors of four steps, one register in the tree."""
    job = Job(2, 4, 3, flags=FLAG_WEIGHTS | FLAG_BASE)

    def times(job: Job = job, **stalled: set[int]) -> tuple[list[Any], dict[str, int]]:
        stalls = {name: np.isin(np.arange(100), list(at)) for name, at in stalled.items()}
        operands = make_operands(HAND, job, 0)
        result = run(HAND, job, operands, stalls=stalls, step=step, trace=True)
        return result.events.tolist(), dict(result.cycles_by_cause)

    # Four beats of weights: loaded in 5. A step issued in u leaves, if it is a fold's last, in u+6.
    causes = {"compute": 8, "stalled_out": 0, "load": 5, "stalled_in": 0, "drain": 6}
    assert times() == ([(0, 5, 8, 14), (1, 9, 12, 18)], causes)
    # The first beat, visible in 12, waits until 14: all that is behind it stands for two cycles.
    assert times(y={12, 13}) == (
        [(0, 5, 8, 16), (1, 9, 14, 20)],
        causes | {"stalled_out": 2},
    )
    # The first beat of inputs comes in 7 and is usable in 8.
    assert times(x=set(range(7))) == (
        [(0, 8, 11, 17), (1, 12, 15, 21)],
        causes | {"stalled_in": 3},
    )
    # Loaded in 24. Four beats wait; the fifth has a place from 25 on and comes in 40.
    events, _ = times(replace(job, m=3), w=set(range(20)), x=set(range(25, 40)))
    assert events == [(0, 24, 27, 33), (1, 28, 31, 37), (2, 41, 44, 50)]


@pytest.mark.parametrize("step", [True, False])
def test_sums_by_hand(step: bool) -> None:
    """Mismatches where a weight is not 0, base of the class, ties, flip, and OR over a window."""
    spec = XnorSpec(1, 4, "ternary", max_inputs=4, max_outputs=4, border_classes=2)
    # Weights (+1, -1, 0, +1) and (0, 0, 0, -1); inputs (+1, +1, -1, -1), all -1, all +1, all -1.
    w = np.array([[[0b1001], [0b1011]], [[0b0000], [0b1000]]], dtype=np.uint64)
    x = np.array([[0b0011], [0b0000], [0b1111], [0b0000]], dtype=np.uint64)
    border = np.array([0, 0, 0, 1], dtype=np.uint8)
    base = np.array([[3, 1], [4, 0]], dtype=np.uint16)
    # Mismatches (2, 0), (2, 0), (1, 1), (2, 0): sums (-1, 1), (-1, 1), (1, -1), (0, 0).
    e = np.array([0, NEGATE], dtype=np.uint64)
    operands = Operands(x, border, w, base, e)

    def bits_of(pool: int, e: NDArray[np.uint64]) -> list[list[int]]:
        job = Job(4, 4, 2, pool, classes=2)
        return run(spec, job, replace(operands, e=e), step=step).y.tolist()

    assert bits_of(1, e) == [[0, 0], [0, 0], [1, 1], [1, 0]]
    assert bits_of(2, e) == [[0, 0], [1, 1]]
    # Thresholds 1 and -1, none flipped; then the least: gamma = 0 and a negative constant.
    assert bits_of(1, np.array([1, 2**32 - 1], dtype=np.uint64)) == [[0, 1], [0, 1], [1, 1], [0, 1]]
    assert bits_of(1, np.array([2**31, 2**31 | NEGATE], dtype=np.uint64)) == [[1, 0]] * 4


@pytest.mark.parametrize("weights", ["binary", "ternary"])
def test_the_longest_rows(weights: Any) -> None:
    """32767 inputs of which all differ, or none: no byte, half-word or sum is full."""
    k, n = 32767, 3
    spec = XnorSpec(3, 512, weights, "fixed", max_inputs=k, max_outputs=n, border_classes=1)
    ones = bits.pack(np.ones((n, k), dtype=np.uint8))
    w = np.stack([ones] * spec.weight_planes, axis=1)
    x = np.stack([ones[0], np.zeros_like(ones[0])])
    base = np.array([[0, k, 2 * k]], dtype=np.uint16)
    e = np.full(n, 1 << 32 | 5 << 48, dtype=np.uint64)
    job = Job(2, k, n, flags=FLAG_WIDE)
    result = run(spec, job, Operands(x, np.zeros(2, np.uint8), w, base, e))
    # s / 2, ties to even: 0, k, 2 k and -2 k, -k, 0.
    assert result.y.tolist() == [[0, 16384, k], [-k, -16384, 0]]


@pytest.mark.parametrize("epilogue", ["threshold", "fixed"])
def test_blocks_of_vectors_join(epilogue: Any) -> None:
    """A job of several blocks gives what its windows give one job after the other."""
    spec = XnorSpec(4, 9, epilogue=epilogue, max_inputs=36, max_outputs=70)
    pool = 3 if epilogue == "threshold" else 1
    vectors = 3 * (2 * values.BLOCK_VECTORS // 3 + 7)
    job = Job(vectors, 33, 69, pool, classes=4, flags=FLAG_WIDE)
    operands = make_operands(spec, job, 3)
    whole = run(spec, job, operands).y
    for first in range(0, vectors, 30):
        part = slice(first, first + 30)
        some = replace(operands, x=operands.x[part], border=operands.border[part])
        y = run(spec, replace(job, m=some.x.shape[0]), some).y
        assert whole[first // pool : (first + 30) // pool].tolist() == y.tolist()


def test_long_stalls_of_the_output() -> None:
    """A sink that is ready in one cycle of 300 holds every beat; both models agree."""
    spec = XnorSpec(2, 3, max_inputs=12, max_outputs=8)
    job = Job(12, 7, 7, 2, flags=FLAG_WEIGHTS)
    stalls = {"y": np.arange(300) != 17}
    operands = make_operands(spec, job, 4)
    stepped, fast = (
        run(spec, job, operands, stalls=stalls, step=step, trace=True) for step in (True, False)
    )
    assert_same(stepped, fast)
    assert fast.cycles_by_cause["stalled_out"] > 250 * (fast.counts["y_beats"] - 1)


@pytest.mark.nojit
@pytest.mark.parametrize("epilogue", ["threshold", "fixed"])
@pytest.mark.parametrize("weights", ["binary", "ternary"])
def test_kernels_are_plain_python(weights: Any, epilogue: Any) -> None:
    """Both models give the reference's result in equal cycles, compiled or interpreted."""
    spec = XnorSpec(3, 5, weights, epilogue, max_inputs=80, max_outputs=9)
    job = Job(4, 71, 8, 2 if epilogue == "threshold" else 1, classes=2, flags=FLAG_WEIGHTS)
    operands = make_operands(spec, job, 5)
    stalls = patterns("random", 3, STALL_NAMES, 31)
    stepped, fast = (run(spec, job, operands, stalls=stalls, step=step) for step in (True, False))
    assert_same(stepped, fast)
    assert reference(spec, job, operands).tolist() == fast.y.tolist()


def test_refusals() -> None:
    """What the array cannot run is refused with one exact sentence."""
    job = Job(2, 4, 3)
    operands = make_operands(HAND, job, 0)

    def refused(
        message: str, error: type[Exception] = ValueError, job: Job = job, **others: Any
    ) -> None:
        stalls = others.pop("stalls", None)
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            run(HAND, job, replace(operands, **others), stalls=stalls)

    refused("xnor: k of a job must be in 1..4, not 5", job=replace(job, k=5))
    refused("xnor: m of a job must be a multiple of pool = 3, not 2", job=replace(job, pool=3))
    refused("xnor: x must be uint64, not int64", TypeError, x=operands.x.astype(np.int64))
    refused("xnor: e must have the shape (3,), not (4,)", e=np.zeros(4, dtype=np.uint64))
    refused("xnor: bits of x at or above K = 4 must be 0", x=operands.x | np.uint64(16))
    refused("stalls: unknown stream 'q'; known are w, c, e, x, y", stalls={"q": np.zeros(2, bool)})
    refused("stalls: x must be free in at least one cycle", stalls={"x": np.ones(2, bool)})
