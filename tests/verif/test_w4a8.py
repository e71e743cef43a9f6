# SPDX-License-Identifier: Apache-2.0
"""The W4A8 array in RTL against simulator and reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from cosil.engines.w4a8 import W4A8Spec
from verif.lib.mutants import Mutant
from verif.lib.report import assert_caught, assert_passed
from verif.lib.toolchain import Simulator
from verif.w4a8.check import streams, verify
from verif.w4a8.generate import mutant_cases, random_case
from verif.w4a8.specs import LARGE, SMALL

CASES = 56
"""For each of the six models: 336 in all, the issue asks for 300."""


def _params(specs: dict[str, W4A8Spec]) -> list[object]:
    # Two groups, so that two workers build and run side by side, each model in one of them.
    return [
        pytest.param(spec, id=name, marks=pytest.mark.xdist_group(f"bench_{i % 2}"))
        for i, (name, spec) in enumerate(specs.items())
    ]


@pytest.mark.cosim
@pytest.mark.parametrize("spec", _params(SMALL))
def test_rtl_equals_simulator_and_reference(
    spec: W4A8Spec, hdl: Callable[[str], Simulator]
) -> None:
    """Bits, cycles and counts are equal on random jobs under stalls."""
    cases = [random_case(spec, seed) for seed in range(CASES)]
    assert_passed(verify(spec, cases, hdl("verilator")), CASES)


@pytest.mark.cosim
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(SMALL[name], id=name, marks=pytest.mark.xdist_group(f"bench_{i}"))
        for i, name in enumerate(("os-group-fp16", "ws-group-fp16"))
    ],
)
def test_broken_hardware_is_caught(spec: W4A8Spec, hdl: Callable[[str], Simulator]) -> None:
    """Each of the four mutants on each of all twelve streams fails, for the right reason."""
    assert len(streams(spec)) == 12
    broken = mutant_cases(spec, streams(spec))
    whole = [replace(case, mutant=Mutant.NONE) for case in broken]
    outcomes = verify(spec, [*whole, *broken], hdl("verilator"))
    # The jobs are right as long as nothing is broken, so it is the mutant that is caught.
    assert_passed(outcomes[: len(whole)], 4 * 12)
    assert_caught(outcomes[len(whole) :])


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_0")
def test_icarus_agrees(hdl: Callable[[str], Simulator]) -> None:
    """A second simulator, which knows undefined values, gives the same verdicts on a subset."""
    spec = SMALL["os-channel-fixed"]
    cases = [random_case(spec, seed, jobs=1) for seed in range(12)]
    broken = mutant_cases(spec, ["i_a", "o_y"])
    outcomes = verify(spec, [*cases, *broken], hdl("icarus"))
    assert_passed(outcomes[:12], 12)
    assert not any(outcome.verdict.passed for outcome in outcomes[12:])


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.parametrize("spec", _params(LARGE))
def test_larger_arrays(spec: W4A8Spec, hdl: Callable[[str], Simulator]) -> None:
    """The same on larger arrays and on the pairs of axes that the small ones leave out."""
    cases = [random_case(spec, seed) for seed in range(1000, 1060)]
    assert_passed(verify(spec, cases, hdl("verilator")), 60)


def test_cases_cover_what_they_should() -> None:
    """The random cases reach single and awkward shapes, every kind of stall, several jobs."""
    seen: Counter[str] = Counter()
    for spec in SMALL.values():
        for seed in range(CASES):
            case = random_case(spec, seed)
            seen["jobs"] += len(case.jobs) > 1
            seen["one stream"] += len(case.stalls) == 1
            seen["all streams"] += len(case.stalls) > 1
            seen["no stalls"] += not case.stalls
            seen[f"latency {case.latency}"] += 1
            for job, operands in case.jobs:
                seen["m = 1"] += job.m == 1
                seen["n = 1"] += job.n == 1
                seen["k = 1"] += job.k == 1
                seen["tiles"] += job.m > spec.array_rows and job.n > spec.array_cols
                seen["k not multiple of rows"] += job.k % spec.array_rows != 0
                seen["k not multiple of group"] += job.k % job.group != 0
                seen["relu"] += job.flags & 1
                seen["wide"] += job.flags >> 1
                seen["stride"] += job.y_stride > job.n
                seen["infinite scale"] += 0x7F800000 in operands.r
                seen["subnormal scale"] += 1 in operands.s or 0x007FFFFF in operands.r
    assert min(seen.values()) >= 8, seen
