# SPDX-License-Identifier: Apache-2.0
"""The two models of the PIM macro against each other, the reference and the page's laws."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from algos.reference.pim import reference
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import (
    FLAG_NOISE,
    FLAG_TRANSFER,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from cosil.packed.decomposition import DECOMPOSITIONS, planes
from sim.lib.stalls import KINDS, pattern, patterns
from sim.pim import PimRun, run, values
from sim.pim.plan import STALL_NAMES
from verif.pim import operands as draw_operands

pytestmark = pytest.mark.xdist_group("sim-pim")

LOADS = FLAG_WEIGHTS | FLAG_TRANSFER | FLAG_NOISE


@dataclass(frozen=True)
class Case:
    """A job on a macro."""

    spec: PimSpec
    job: Job
    operands: Operands
    stalls: dict[str, NDArray[np.bool_]]


def make_operands(spec: PimSpec, job: Job, seed: int, **styles: str) -> Operands:
    """Return operands that stress the arithmetic; `styles` are those of `verif.pim.operands`."""
    rng = np.random.default_rng(seed)
    return Operands(
        x=draw_operands.codes(spec, rng, job.m, job.k),
        w=draw_operands.cells(spec, rng, job),
        transfer=draw_operands.transfer(spec, rng, job.rows, styles.get("transfer")),
        noise=draw_operands.noise(spec, rng, styles.get("noise")),
        states=draw_operands.states(spec, rng),
        e=draw_operands.parameters(spec, rng, job, corners=True),
    )


@st.composite
def specs(draw: st.DrawFn) -> PimSpec:
    """Draw a small macro: every way to share ADCs, to buffer samples and to cut activations."""
    decomposition = draw(st.sampled_from(DECOMPOSITIONS))
    weight_bits = draw(st.integers(2, 5))
    activation_bits, slice_bits = draw(
        st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (3, 3), (6, 3)])
    )
    per_output = planes(decomposition, weight_bits)
    shares = [mux for mux in range(1, 3 * per_output + 1)
              if mux % per_output == 0 or per_output % mux == 0]  # fmt: skip
    mux = draw(st.sampled_from(shares))
    columns = mux * draw(st.integers(-(-per_output // mux), 6))
    # Words are counted in pairs: one, two and three of them.
    rows = draw(st.sampled_from([1, 3, 20, 64, 65, 130]))
    most = (1 << slice_bits) - 1
    assume(decomposition == "bit_serial" or rows * most << weight_bits < 3000)
    return PimSpec(
        decomposition, rows, columns, 4, weight_bits, activation_bits, slice_bits,
        adc_bits=draw(st.integers(2, 8)),
        mux=mux,
        row_cycles=draw(st.sampled_from([1, 1, 2, 5, 9])),
        conversion_cycles=draw(st.sampled_from([1, 1, 2, 4])),
        double_buffer=draw(st.booleans()),
        noise_bits=draw(st.sampled_from([0, 2, 5])),
        epilogue_lanes=draw(st.integers(1, columns // per_output)),
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a macro, a job whose shape stresses its edges, and stalls."""
    spec = draw(specs())
    rows = draw(st.sampled_from([spec.rows, spec.rows, max(1, spec.rows - 3)]))
    k = draw(st.sampled_from([1, rows, min(rows + 1, 4 * rows), 4 * rows - rows // 2, 4 * rows]))
    n = draw(st.sampled_from([1, spec.outputs, max(1, spec.outputs - 1)]))
    flags = draw(st.integers(0, 31))
    if not spec.noise_bits:
        flags &= ~FLAG_NOISE
    job = Job(draw(st.sampled_from([1, 2, 5, 9])), k, n, rows, flags)
    seed = draw(st.integers(0, 2**31))
    stalled = draw(st.sampled_from([*KINDS, "some"]))
    if stalled == "some":
        chosen = draw(st.lists(st.sampled_from(STALL_NAMES), unique=True, max_size=2))
        stalls = {name: pattern("bursty", seed + i, 61) for i, name in enumerate(chosen)}
    else:
        stalls = patterns(stalled, seed, STALL_NAMES)
    return Case(spec, job, make_operands(spec, job, seed), stalls)


def assert_same(a: PimRun, b: PimRun) -> None:
    """Everything that the hardware must reproduce is equal."""
    assert a.y.dtype == b.y.dtype
    assert a.y.tolist() == b.y.tolist()
    assert a.states.tolist() == b.states.tolist()
    assert a.cycles_by_cause == b.cycles_by_cause
    assert a.counts == b.counts
    assert a.events.tolist() == b.events.tolist()
    assert a.cycles == b.cycles == sum(b.cycles_by_cause.values())


@settings(max_examples=200)
@given(cases())
def test_models_agree_under_any_stalls(case: Case) -> None:
    """Outputs and states are the reference's; cycles, causes, counts and marks are equal."""
    stepped, fast = (
        run(case.spec, case.job, case.operands, stalls=case.stalls, step=step, trace=True)
        for step in (True, False)
    )
    assert_same(stepped, fast)
    expected = reference(case.spec, case.job, case.operands)
    assert expected.y.tolist() == fast.y.tolist()
    assert expected.states.tolist() == fast.states.tolist()


@settings(max_examples=100)
@given(cases())
def test_closed_forms_without_stalls(case: Case) -> None:
    """Cycles are `PimSpec.latency`, and from vector to vector `PimSpec.interval`, exactly."""
    spec, job = case.spec, case.job
    assume(-(-job.n // spec.epilogue_lanes) <= spec.steps(job.k, job.rows) * spec.period)
    result = run(spec, job, case.operands, trace=True)
    assert result.cycles == spec.latency(
        job.m, job.k, job.n, job.rows,
        load_weights=job.has(FLAG_WEIGHTS),
        load_transfer=job.has(FLAG_TRANSFER),
        load_noise=job.has(FLAG_NOISE),
    )  # fmt: skip
    interval = spec.interval(job.k, job.n, job.rows)
    for event in ("last_conversion", "last_output"):
        assert {b - a for a, b in pairwise(result.events[event].tolist())} <= {interval}


@settings(max_examples=60)
@given(cases())
def test_counts_are_those_of_the_page(case: Case) -> None:
    """What is driven, converted, drawn, added and moved follows from spec and job, as stated."""
    spec, job = case.spec, case.job
    result = run(spec, job, case.operands, stalls=case.stalls)
    groups, steps = -(-job.k // job.rows), -(-job.k // job.rows) * spec.slices * job.m
    loads = spec.load_beats(
        job.k, job.n, job.rows,
        load_weights=job.has(FLAG_WEIGHTS),
        load_transfer=job.has(FLAG_TRANSFER),
        load_noise=job.has(FLAG_NOISE),
    )  # fmt: skip
    mac = job.m * job.k * job.n
    together = spec.mux if spec.mux < spec.planes else spec.planes
    assert result.counts == {
        "mac": mac,
        "row_drives": job.m * spec.slices * job.k,
        "cell_ops": mac * spec.slices * spec.planes * spec.cell_bits,
        "samples": steps * job.n * spec.planes,
        "conversions": steps * job.n * spec.planes,
        "draws": steps * spec.columns if spec.noise_bits else 0,
        "accumulates": steps * job.n * together,
        "results": job.m * job.n,
        **{f"{stream}_beats": beats for stream, beats in loads.items()},
        "x_beats": job.m * groups,
        "y_beats": job.m * -(-job.n // spec.epilogue_lanes),
        "job_beats": 1,
    }
    peak = spec.rows * spec.outputs / (spec.slices * spec.period)
    assert result.utilisation == pytest.approx(mac / result.cycles / peak)


def test_cycles_of_one_job_are_those_of_the_page() -> None:
    """The page's rules, by hand: one vector, two steps, a converter for two columns."""
    spec = PimSpec("native", 2, 2, 2, 3, 2, 2, 4, 2, 3, 2, noise_bits=0, epilogue_lanes=1)
    job = Job(1, 4, 2, 2, FLAG_WEIGHTS)
    result = run(spec, job, make_operands(spec, job, 0), trace=True)
    # 2 outputs x 3 bits x 2 groups x 1 word: the last word is transferred in cycle 12.
    (vector,) = result.events
    assert (vector["first_launch"], vector["last_launch"]) == (13, 16)
    # Rows are driven in 14..16 and sampled; converted in 17..20 and, the second step, in 21..24.
    assert (vector["first_conversion"], vector["last_conversion"]) == (17, 24)
    # Accumulators in 28, written then, read in 29 and 30, at the output in 36 and 37.
    assert vector["last_output"] == 37
    assert result.cycles == 38
    assert result.cycles_by_cause == {
        "convert": 8, "result": 0, "row": 3, "load": 13, "stalled_in": 0, "stalled_out": 0,
        "fill": 1, "drain": 13,
    }  # fmt: skip


def test_a_conversion_by_hand() -> None:
    """Rounding half up, clamping, noise of the draw after a step, planes, slices and negation."""
    spec = PimSpec("bit_serial", 3, 4, 1, 2, 2, 1, 2, 2, noise_bits=2, epilogue_lanes=1)
    # Weights (1, -1, -2): planes 0 and 1 hold 110 and 011. Codes (3, 1, 2): slices 101 and 110.
    w = np.array([[[[0b011]], [[0b110]]]], dtype=np.uint64)
    x = np.array([[3, 1, 2]], dtype=np.uint8)
    transfer = np.zeros((4, 4), dtype=np.int16)
    transfer[0] = [0, 7, 8, 100]  # rounds to 0, 0, 1; clamps to 3
    transfer[1] = [-9, 24, 40, 47]  # -1 clamps to 0; 2, 3, 3
    e = np.array([1 << 32 | 4 << 48 | 1 << 54], dtype=np.uint64)  # y = -acc
    # State 1 becomes 270369, 67634689, 2647435461 and 307599695: entries 0, 0, 2 and 0.
    noise = np.array([1, 0, 0, 0], dtype=np.int16)
    states = np.array([1, 5], dtype=np.uint32)
    operands = Operands(x, w, transfer, noise, states, e)
    # Slice 1: plane 0 counts 1, (7 + 1 + 8) >> 4 = 1; plane 1 counts 1, (24 + 1 + 8) >> 4 = 2.
    # Slice 0: plane 0 counts 2, (8 + 0 + 8) >> 4 = 1; plane 1 counts 1, again 2.
    acc = 2 * (1 - 2 * 2) + (1 - 2 * 2)
    for step in (True, False):
        result = run(spec, Job(1, 3, 1, 3), operands, step=step)
        assert result.y.tolist() == [[-acc]]
        # Two slices, two positions; the ADC without outputs draws too.
        assert result.states.tolist() == reference_states([1, 5], 4)


def reference_states(states: list[int], steps: int) -> list[int]:
    """Step xorshift32 by its definition."""
    for _ in range(steps):
        for j, state in enumerate(states):
            state ^= state << 13 & 0xFFFFFFFF
            state ^= state >> 17
            states[j] = state ^ (state << 5 & 0xFFFFFFFF)
    return states


@pytest.mark.parametrize("noise", ["normal", "zero"])
def test_blocks_of_vectors_join(noise: str) -> None:
    """A job of several blocks gives what its vectors give one job after the other."""
    spec = PimSpec("bit_serial", 20, 12, 2, 3, 4, 1, 4, 6, noise_bits=4)
    vectors = 2 * values.BLOCK_LANES // spec.slices + 7
    job = Job(vectors, 33, 4, 20, FLAG_WIDE)
    operands = make_operands(spec, job, 3, noise=noise, transfer="B errors")
    whole = run(spec, job, operands)
    states = operands.states
    for first in range(0, vectors, 100):
        x = operands.x[first : first + 100]
        part = run(spec, replace(job, m=len(x)), replace(operands, x=x, states=states))
        assert whole.y[first : first + 100].tolist() == part.y.tolist()
        states = part.states
    assert whole.states.tolist() == states.tolist()


def test_long_stalls_of_the_output() -> None:
    """A sink that is ready in one cycle of 300 fills the result store; both models agree."""
    spec = PimSpec("native", 5, 4, 2, 3, 2, 2, 4, 1, epilogue_lanes=1)
    job = Job(12, 9, 4, 5, LOADS)
    stalls = {"y": np.arange(300) != 17}
    operands = make_operands(spec, job, 4)
    stepped, fast = (
        run(spec, job, operands, stalls=stalls, step=step, trace=True) for step in (True, False)
    )
    assert_same(stepped, fast)
    assert fast.cycles_by_cause["result"] > 300 * (job.m - spec.result_depth - 3) * job.n


@pytest.mark.nojit
@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_kernels_are_plain_python(decomposition: Any) -> None:
    """Both models give the reference's result in equal cycles, compiled or interpreted."""
    spec = PimSpec(decomposition, 5, 8, 2, 3 if decomposition != "bit_serial" else 2, 2, 1, 4, 4,
                   noise_bits=2)  # fmt: skip
    job = Job(2, 9, spec.outputs - 1, 5, LOADS)
    operands = make_operands(spec, job, 5, noise="small")
    stalls = patterns("random", 3, STALL_NAMES, 31)
    stepped, fast = (run(spec, job, operands, stalls=stalls, step=step) for step in (True, False))
    assert_same(stepped, fast)
    assert reference(spec, job, operands).y.tolist() == fast.y.tolist()


def test_refusals() -> None:
    """What the macro cannot run is refused with one exact sentence."""
    spec = PimSpec("native", 4, 4, 2, mux=2)
    job = Job(1, 8, 2, 4)
    operands = make_operands(spec, job, 0)

    def refused(
        message: str, error: type[Exception] = ValueError, job: Job = job, **others: Any
    ) -> None:
        stalls = others.pop("stalls", None)
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            run(spec, job, replace(operands, **others), stalls=stalls)

    refused("pim: k of a job must be in 1..8, not 9", job=replace(job, k=9))
    refused("pim: n of a job must be in 1..4, not 5", job=replace(job, n=5))
    refused("pim: x must be uint8, not int8", TypeError, x=operands.x.astype(np.int8))
    refused("pim: e must have the shape (2,), not (3,)", e=np.zeros(3, dtype=np.uint64))
    refused("pim: activation codes must be in 0..15, not 16", x=np.full((1, 8), 16, np.uint8))
    refused(
        "stalls: unknown stream 'q'; known are w, t, n, e, x, y", stalls={"q": np.zeros(2, bool)}
    )
    refused("stalls: x must be free in at least one cycle", stalls={"x": np.ones(2, bool)})
