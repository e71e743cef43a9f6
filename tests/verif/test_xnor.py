# SPDX-License-Identifier: Apache-2.0
"""The XNOR array in RTL against simulator, reference and the laws of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import (
    FLAG_BASE,
    FLAG_COLUMNS,
    FLAG_RELU,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from cosil.packed import bits
from verif.lib.jobs import Cycle
from verif.lib.mutants import Mutant
from verif.lib.report import assert_caught, assert_passed
from verif.lib.toolchain import Simulator
from verif.xnor import operands as make
from verif.xnor.cases import input_beats, result_beats
from verif.xnor.check import streams, verify
from verif.xnor.contents import Contents
from verif.xnor.counts import causes
from verif.xnor.generate import mutant_cases, random_case
from verif.xnor.laws import QUEUE_BEATS, Seen, broken_laws, milestones
from verif.xnor.specs import LARGE, SMALL

CASES = 40
"""For each of the three models: 120 in all, of one to four jobs each."""

LOADS = FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS

Hdl = Callable[[str], Simulator]


def _params(specs: dict[str, XnorSpec]) -> list[object]:
    # Two groups, so that two workers build and run side by side, each model in one of them.
    return [
        pytest.param(spec, id=name, marks=pytest.mark.xdist_group(f"bench_{i % 2}"))
        for i, (name, spec) in enumerate(specs.items())
    ]


def _check(spec: XnorSpec, seeds: range, simulator: Simulator) -> None:
    cases = [random_case(spec, seed) for seed in seeds]
    broken = mutant_cases(spec, streams(spec))
    assert len(streams(spec)) == 6
    assert len(broken) > 24
    # The jobs are right as long as nothing is broken, so it is the mutant that is caught.
    whole = [*cases, *(replace(case, mutant=Mutant.NONE) for case in broken)]
    outcomes = verify(spec, [*whole, *broken], simulator)
    assert_passed(outcomes[: len(whole)], len(seeds) + len(broken))
    assert_caught(outcomes[len(whole) :])


@pytest.mark.cosim
@pytest.mark.parametrize("spec", _params(SMALL))
def test_rtl_equals_simulator_and_reference(spec: XnorSpec, hdl: Hdl) -> None:
    """Bits, cycles and counts are equal, the laws hold, and broken hardware is caught."""
    _check(spec, range(CASES), hdl("verilator"))


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_1")
def test_icarus_agrees(hdl: Hdl) -> None:
    """A second simulator, which knows undefined values, gives the same verdicts on a subset."""
    _check(SMALL["ternary"], range(500, 504), hdl("icarus"))


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.parametrize("spec", _params(LARGE))
def test_larger_arrays(spec: XnorSpec, hdl: Hdl) -> None:
    """The same on wider and deeper arrays, and on the pairs of axes that are left out."""
    _check(spec, range(1000, 1020), hdl("verilator"))


# -- the bench itself ------------------------------------------------------------------------------

TINY = XnorSpec(
    pe=2, simd=3, weights="ternary", epilogue="fixed", max_inputs=6, max_outputs=4,
    border_classes=2,
)  # fmt: skip
"""Two folds of either."""


def _tiny_job() -> tuple[Job, Operands]:
    """Return a job whose last input and last output are lane 0 of their last fold."""
    job = Job(m=2, k=4, n=3, classes=2, flags=LOADS | FLAG_WIDE)
    signs = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    nonzero = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1]])
    x = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    return job, Operands(
        x=bits.pack(x),
        border=np.array([1, 0], dtype=np.uint8),
        w=bits.pack(np.stack([signs, nonzero], axis=1)),
        base=np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint16),
        e=np.array([10, 11, 12], dtype=np.uint64),
    )


def test_beats_are_laid_out_as_the_page_says() -> None:
    """Bit by bit: tiles with the sign plane low, classes outer, 0 past K and n, keep, last."""
    job, operands = _tiny_job()
    beats = input_beats(TINY, job, operands, padding=1)
    words = [2, 4, 3, 1, 2, LOADS | FLAG_WIDE, 0, 0]
    assert beats["i_job"] == [sum(word << 32 * i for i, word in enumerate(words))]
    # Non-zero bits of outputs 1 and 0, then their signs; input 0 is the low bit of each.
    assert beats["i_w"] == [
        0b110_011_010_001, 0b000_001_000_001, 0b000_101_000_100, 0b000_001_000_000,
    ]  # fmt: skip
    assert beats["i_c"] == [1 | 2 << 16, 3, 4 | 5 << 16, 6]
    assert beats["i_e"] == [10 | 11 << 64, 12]
    assert [beat & 0b111 for beat in beats["i_x"][::2]] == [0b011, 0b100]
    assert [beat & 1 for beat in beats["i_x"][1::2]] == [0, 1]
    assert [beat >> 3 for beat in beats["i_x"][::2]] == [1, 0]
    none = input_beats(TINY, replace(job, flags=0), operands, padding=1)
    assert [none[f"i_{name}"] for name in "wce"] == [[], [], []]
    assert none["i_x"] == beats["i_x"]
    assert result_beats(TINY, [[-2, 5, 7]]) == [0b0_11_0000000000000101_1111111111111110,
                                                0b1_01 << 32 | 7]  # fmt: skip
    ones = replace(TINY, epilogue="threshold")
    assert result_beats(ones, [[1, 0, 1], [0, 1, 0]]) == [0b0_11_01, 0b0_01_01, 0b0_11_10,
                                                          0b1_01_00]  # fmt: skip


def test_what_means_nothing_is_anything() -> None:
    """Activations past K and the classes of later beats are filled; nothing else is."""
    job, operands = _tiny_job()
    seen = [input_beats(TINY, job, operands, padding) for padding in range(200)]
    assert len({beats["i_x"][0] for beats in seen}) == 1
    assert {beats["i_x"][1] >> 1 & 3 for beats in seen} == set(range(4))
    assert len({beats["i_x"][1] >> 3 for beats in seen}) > 100
    assert all(beats["i_w"] == seen[0]["i_w"] for beats in seen)


def test_sums_and_memories_are_what_they_are_by_hand() -> None:
    """Sums count products of signs; a job of another shape finds words by their address."""
    job, operands = _tiny_job()
    w, x = bits.unpack(operands.w, job.k), bits.unpack(operands.x, job.k)
    # Mismatches of outputs 0..2: inputs 1 and 3; 2; 0 and 2. Of vector 0: 1, 3; 0 of 1, 2; 0, 2.
    expected = [[4 - 2 * 2, 5 - 2 * 0, 6 - 2 * 2], [1 - 2 * 1, 2 - 2 * 2, 3 - 2 * 1]]
    assert make.sums(x, operands.border, w, operands.base).tolist() == expected
    contents = Contents(TINY)
    assert contents.weights(1, 1) is contents.base(1, 1, 1) is contents.columns(1) is None
    contents.load(job, operands)
    # Tiles (0, 0), (0, 1), (1, 0), (1, 1) hold K = 4. With one fold of inputs, output 2 has (0, 1).
    found = contents.weights(3, 4)
    assert found is not None
    assert found[:2].tolist() == w[:2, :, :3].tolist()
    assert found[2:].tolist() == [[[1, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    # Lanes past K are not 0: input 2 of outputs 1 and 0.
    assert contents.weights(2, 2) is None
    assert contents.weights(4, 3) is not None
    base = contents.base(4, 2, 2)
    assert base is not None
    assert base.tolist() == [[1, 2], [4, 5]]
    assert contents.base(2, 2, 2) is None
    columns = contents.columns(4)
    assert columns is not None
    assert columns.tolist() == [10, 11, 12, 0]


def _ideal(spec: XnorSpec, job: Job) -> Seen:
    """Return what a monitor may see of a job without stalls, step by step as section 5 has it."""
    seen = Seen(last_load=max(spec.load_beats(job.k, job.n, job.classes).values()))
    inputs, folds = spec.input_folds(job.k), spec.output_folds(job.n)
    u = seen.last_load + 1
    for vector in range(job.m):
        for fold in range(folds):
            for _ in range(inputs):
                seen.issue.append(u)
                if fold == 0:
                    seen.take.append(u)
                u += 1
            if vector % job.pool == job.pool - 1:
                seen.output.append(u - 1 + spec.pipeline_latency)
    for beat in range(job.m * inputs):
        free = seen.take[beat - QUEUE_BEATS] if beat >= QUEUE_BEATS else 0
        seen.input.append(max(free, seen.input[-1] if seen.input else 0) + 1)
    return seen


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_laws_hold_for_what_the_page_says(spec: XnorSpec) -> None:
    """Steps by the rules give II and the full latency, and each broken rule is told."""
    pool = 2 if spec.epilogue == "threshold" else 1
    job = Job(6, spec.simd, spec.max_outputs, pool, spec.border_classes, LOADS)
    right = _ideal(spec, job)
    cycles = right.output[-1] + 1
    assert broken_laws(spec, job, right, cycles, stalled=False) == []
    marks = milestones(spec, job, right)
    assert {name: len(each) for name, each in marks.items()} == dict.fromkeys(marks, 6)
    assert marks["last_output"][-1] == cycles - 1
    assert [cycle == -1 for cycle in marks["last_output"][:2]] == [pool == 2, False]

    def told(change: Callable[[Seen], object], *, stalled: bool = True) -> str:
        seen = _ideal(spec, job)
        change(seen)
        return "; ".join(broken_laws(spec, job, seen, cycles, stalled=stalled))

    def late(name: str, first: int) -> Callable[[Seen], None]:
        def change(seen: Seen) -> None:
            times = getattr(seen, name)
            times[first:] = [t + 1 for t in times[first:]]

        return change

    soonest = "law broken: steps are issued as soon as they may be"
    assert told(late("output", 0)) == "law broken: o_y = u + LAT"
    assert told(late("take", 1)).startswith("law broken: the first fold takes beats")
    assert told(lambda seen: seen.issue.pop()).startswith("issue: ")
    assert told(lambda seen: seen.output.append(0)).startswith("output: ")
    assert told(lambda seen: seen.input.__setitem__(0, seen.take[0])).startswith(
        "law broken: a beat is usable from the next cycle on"
    )
    assert told(lambda seen: seen.input.__setitem__(4, seen.take[0])) == (
        "law broken: the queue has 4 places"
    )

    def idle(seen: Seen) -> None:
        # The last step and its output are a cycle later, for no reason.
        seen.issue[-1] += 1
        seen.output[-1] += 1
        if seen.take[-1] == seen.issue[-1] - 1:
            seen.take[-1] += 1

    assert told(idle) == soonest

    def held(seen: Seen) -> None:
        # The same, and the pipeline stands while the beat before waits.
        idle(seen)
        seen.held.append(seen.issue[-1] - 1)

    in_flight = sum(seen_at > right.issue[-1] for seen_at in right.output)
    if in_flight == 1:
        assert told(held) == ""
    assert soonest in told(lambda seen: seen.held.append(seen.issue[-1]))
    assert "cycles" in "; ".join(broken_laws(spec, job, right, cycles + 1, stalled=False))
    assert broken_laws(spec, job, right, cycles + 1, stalled=True) == []

    def waits(seen: Seen) -> None:
        # The first beat comes late: lawful with stalls.
        for name in ("issue", "take", "input", "output"):
            late(name, 0)(seen)
        seen.input[0] = seen.take[0] - 1
        seen.input[1:4] = seen.take[0:3]
        seen.input[4:] = [t + 1 for t in seen.take[:-4]]

    assert told(waits) == ""
    assert "u(0) = max(L + 1, 2)" in told(waits, stalled=False)


def test_a_cycle_without_a_cause_is_told() -> None:
    """Steps that remain, and nothing that holds them up, are none of the page's causes."""
    fields = {name: [i, 1] for i, name in enumerate(("issue", "load", "starved", "remain"))}
    seen = {Cycle(0b1001, held=False): 3, Cycle(0b1001, held=True): 2, Cycle(0, held=False): 4}
    whole = {"compute": 5, "stalled_out": 0, "load": 0, "stalled_in": 0, "drain": 4}
    assert causes(seen, fields) == whole
    assert causes({**seen, Cycle(0b1000, held=False): 1}, fields) == {**whole, "no cause": 1}


def test_cases_cover_what_they_should() -> None:
    """The random cases reach every style, awkward shapes, loads left out, laws of every kind."""
    seen: Counter[str] = Counter()
    for name, spec in SMALL.items():
        for seed in range(CASES):
            case = random_case(spec, seed)
            seen["one stream"] += len(case.stalls) == 1
            seen["all streams"] += len(case.stalls) > 1
            seen["several jobs"] += len(case.jobs) > 1
            if seed % 4 == 3:
                job = case.jobs[0][0]
                seen["a convolution"] += job.m > 1
                seen["a padded convolution"] += job.classes > 1
            for number, (job, operands) in enumerate(case.jobs):
                before = case.jobs[number - 1][0] if number else job
                seen[f"laws on {name}"] += not case.stalls
                seen["nothing to load"] += not case.stalls and not job.flags & LOADS
                seen["m = 1"] += job.m == 1
                seen["k = 1"] += job.k == 1
                seen["k not a multiple"] += job.k % spec.simd != 0
                seen["k is the most"] += job.k == spec.max_inputs
                seen["k of two words"] += job.k > 64
                seen["n not a multiple"] += job.n % spec.pe != 0
                seen["n is the most"] += job.n == spec.max_outputs
                seen["NF = 1 = SF"] += spec.interval(job.k, job.n) == 1
                seen["NF = 1 < SF"] += job.n <= spec.pe < spec.max_outputs and job.k > spec.simd
                seen["SF = 1 < NF"] += job.n > spec.pe and job.k <= spec.simd
                seen["a window in an array of one fold"] += (
                    job.pool > 1 and spec.output_folds_max == 1 and job.k <= spec.simd
                )
                for flag, what in (
                    (FLAG_WEIGHTS, "weights"), (FLAG_BASE, "base"), (FLAG_COLUMNS, "columns"),
                ):  # fmt: skip
                    seen[f"{what} left from before"] += not job.has(flag)
                seen["weights in other folds"] += not job.has(FLAG_WEIGHTS) and (
                    spec.input_folds(before.k) != spec.input_folds(job.k)
                )
                seen["base in other folds"] += not job.has(FLAG_BASE) and (
                    spec.output_folds(before.n) != spec.output_folds(job.n) and job.classes > 1
                )
                seen["classes"] += len(set(operands.border.tolist())) > 2
                seen["base of 2 K"] += bool((operands.base == 2 * job.k).any())
                plus = np.bitwise_count(operands.w[:, 0]).sum(axis=-1)
                seen["all +1"] += bool((plus == job.k).any()) and job.k > 1
                seen["all -1"] += bool((plus == 0).any()) and spec.weights == "binary"
                if spec.weights == "ternary":
                    used = np.bitwise_count(operands.w[:, 1]).sum(axis=-1)
                    seen["no weight but 0"] += bool((used == 0).any())
                    seen["all -1 or +1"] += bool((used == job.k).all()) and job.k > 1
                if spec.epilogue == "fixed":
                    seen["relu"] += job.has(FLAG_RELU)
                    seen["wide"] += job.has(FLAG_WIDE)
                    continue
                w, x = bits.unpack(operands.w, job.k), bits.unpack(operands.x, job.k)
                thr = operands.e.astype(np.uint32).view(np.int32).astype(np.int64)
                flip = (operands.e >> np.uint64(54)).astype(bool)
                s = make.sums(x, operands.border, w, operands.base)
                seen["ties"] += bool((s == thr).any())
                seen["one below"] += bool((s == thr - 1).any())
                for end, at in (("least", -(1 << 31)), ("largest", (1 << 31) - 1)):
                    seen[f"thr is the {end}"] += bool((thr == at).any())
                    seen[f"thr is the {end}, flipped"] += bool(((thr == at) & flip).any())
                top = 1 << spec.sum_bits - 1
                seen["thr beside the sum's range"] += bool(np.isin(thr, [-top - 1, top]).any())
                seen["a window"] += job.pool > 1
                seen["several windows"] += job.m > job.pool > 1
                seen["a large window"] += job.pool == 64
                ones = ((s >= thr) ^ flip).reshape(-1, job.pool, job.n)
                seen["a window with one 1"] += job.pool > 1 and bool((ones.sum(axis=1) == 1).any())
    assert min(seen.values()) >= 6, seen
    assert len(seen) == 44
