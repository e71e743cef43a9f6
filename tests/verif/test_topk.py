# SPDX-License-Identifier: Apache-2.0
"""The top-k engine in RTL against simulator and reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosil.engines.topk import TopkSpec
from verif.lib.mutants import Mutant
from verif.lib.report import assert_caught, assert_passed
from verif.lib.toolchain import Simulator
from verif.topk.cases import item_beats, job_word, key_rows
from verif.topk.check import streams, verify
from verif.topk.generate import key_range, mutant_cases, random_case
from verif.topk.specs import LARGE, SMALL

CASES = 40
"""For each of the six models: 240 in all, of one to six jobs each."""

Hdl = Callable[[str], Simulator]


def _check(spec: TopkSpec, seeds: range, simulator: Simulator) -> None:
    cases = [random_case(spec, seed) for seed in seeds]
    broken = mutant_cases(spec, streams(spec))
    assert len(broken) == 4 * 3
    # The jobs are right as long as nothing is broken, so it is the mutant that is caught.
    whole = [*cases, *(replace(case, mutant=Mutant.NONE) for case in broken)]
    outcomes = verify(spec, [*whole, *broken], simulator)
    assert_passed(outcomes[: len(whole)], len(seeds) + 12)
    assert_caught(outcomes[len(whole) :])


@pytest.mark.cosim
@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_rtl_equals_simulator_and_reference(spec: TopkSpec, hdl: Hdl) -> None:
    """Bits, cycles and counts are equal on jobs that overlap, and broken hardware is caught."""
    _check(spec, range(CASES), hdl("verilator"))


@pytest.mark.cosim
@pytest.mark.parametrize("name", ["radix-digits", "quick-signed"])
def test_icarus_agrees(name: str, hdl: Hdl) -> None:
    """A second simulator, which knows undefined values, gives the same verdicts on a subset."""
    _check(SMALL[name], range(500, 506), hdl("icarus"))


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE.values(), ids=LARGE)
def test_larger_engines(spec: TopkSpec, hdl: Hdl) -> None:
    """The same on more lanes, wider keys, and the sizes that attention needs."""
    _check(spec, range(1000, 1040), hdl("verilator"))


def test_beats_are_laid_out_as_the_page_says() -> None:
    """Bit by bit: two's complement keys from lane 0, indices, a run of keep bits, last."""
    spec = TopkSpec(lanes=2, key_bits=4, signed=True, max_n=5)
    assert item_beats(spec, [-1, 3, -8], [0, 2, 4]) == [
        0b0_11_010_000_0011_1111,
        0b1_01_000_100_0000_1000,
    ]
    assert item_beats(spec, [7, 6], [1, 3]) == [0b1_11_011_001_0110_0111]
    assert item_beats(spec, [], []) == [1 << 16]
    jobs = [(np.array([-1, 2, -8]), 1 << 31), (np.array([5]), 0)]
    assert job_word(jobs[0]) == 3 | 1 << 63
    rows = key_rows(spec, jobs, padding=1)
    assert [rows[0], *(row & 15 for row in rows[1:])] == [0b0010_1111, 0b1000, 0b0101]


def test_padding_is_anything() -> None:
    """Lanes that no key fills hold the best and the worst key, and others."""
    spec = TopkSpec(lanes=2, key_bits=3, max_n=2)
    seen = {key_rows(spec, [(np.array([4]), 1)], padding)[0] >> 3 for padding in range(100)}
    assert seen == set(range(8))


def test_cases_cover_what_they_should() -> None:
    """The random cases reach awkward n and k, ties, orders, every kind of stall, several jobs."""
    seen: Counter[str] = Counter()
    for spec in SMALL.values():
        low, high = key_range(spec)
        for seed in range(CASES):
            case = random_case(spec, seed)
            seen["one job"] += len(case.jobs) == 1
            seen["more jobs than stages and banks"] += len(case.jobs) > 4
            seen["all streams"] += len(case.stalls) > 1
            seen["no stalls"] += not case.stalls
            for name in case.stalls:
                seen[f"{name} alone"] += len(case.stalls) == 1
            for keys, k in case.jobs:
                n = keys.size
                seen["n = 1"] += n == 1
                seen["n < lanes"] += n < spec.lanes
                seen["n = lanes + 1"] += n == spec.lanes + 1
                seen["n a multiple"] += n % spec.lanes == 0
                seen["n = max"] += n == spec.max_n
                seen["k = 0"] += k == 0
                seen["k = 1"] += k == 1 < n
                seen["k = n - 1"] += k == n - 1 > 0
                seen["k = n"] += k == n
                seen["k > n"] += n < k < 1 << 16
                seen["k huge"] += k >= 1 << 16
                seen["k a multiple"] += 0 < k < n and k % spec.lanes == 0
                if spec.key_bits < 8:
                    continue
                ranked = np.sort(keys)[:: -1 if spec.largest else 1]
                seen["tie at the cut"] += 0 < k < n and ranked[k - 1] == ranked[k]
                seen["all equal"] += n > 2 and np.ptp(keys) == 0
                seen["ends"] += n > 2 and {low, high} <= set(keys.tolist())
                seen["rising"] += n > 4 and bool((np.diff(keys) >= 0).all())
                seen["falling"] += n > 4 and bool((np.diff(keys) <= 0).all())
    assert min(seen.values()) >= 8, seen
    assert len(seen) == 24
