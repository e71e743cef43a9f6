# SPDX-License-Identifier: Apache-2.0
"""The PIM macro in RTL against simulator, reference and the laws of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_NOISE, FLAG_RELU, FLAG_TRANSFER, FLAG_WEIGHTS, FLAG_WIDE, Job
from verif.lib.mutants import Mutant
from verif.lib.report import assert_caught, assert_passed
from verif.lib.toolchain import Simulator
from verif.pim import operands as make
from verif.pim.cases import Case, input_beats, result_beats
from verif.pim.check import expect, streams, verify
from verif.pim.generate import mutant_cases, random_case, sensitive_job
from verif.pim.laws import Seen, broken_laws, has_closed_form, milestones
from verif.pim.specs import LARGE, SMALL

CASES = 32
"""For each of the five models: 160 in all, of one to four jobs each."""

Hdl = Callable[[str], Simulator]


def _params(specs: dict[str, PimSpec]) -> list[object]:
    # Two groups, so that two workers build and run side by side, each model in one of them.
    return [
        pytest.param(spec, id=name, marks=pytest.mark.xdist_group(f"bench_{i % 2}"))
        for i, (name, spec) in enumerate(specs.items())
    ]


def _check(spec: PimSpec, seeds: range, simulator: Simulator) -> None:
    cases = [random_case(spec, seed) for seed in seeds]
    broken = mutant_cases(spec, streams(spec))
    on_streams = 4 * len(streams(spec))
    assert len(streams(spec)) == (7 if spec.noise_bits else 6)
    assert len(broken) > on_streams
    # The jobs are right as long as nothing is broken, so it is the mutant that is caught.
    whole = [*cases, *(replace(case, mutant=Mutant.NONE) for case in broken)]
    outcomes = verify(spec, [*whole, *broken], simulator)
    assert_passed(outcomes[: len(whole)], len(seeds) + len(broken))
    assert_caught(outcomes[len(whole) :])


@pytest.mark.cosim
@pytest.mark.parametrize("spec", _params(SMALL))
def test_rtl_equals_simulator_and_reference(spec: PimSpec, hdl: Hdl) -> None:
    """Bits, cycles and counts are equal, the laws hold, and broken hardware is caught."""
    _check(spec, range(CASES), hdl("verilator"))


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_0")
def test_icarus_agrees(hdl: Hdl) -> None:
    """A second simulator, which knows undefined values, gives the same verdicts on a subset."""
    _check(SMALL["native"], range(500, 504), hdl("icarus"))


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.parametrize("spec", _params(LARGE))
def test_larger_macros(spec: PimSpec, hdl: Hdl) -> None:
    """The same on taller, wider and finer macros, and on the pairs of axes that are left out."""
    _check(spec, range(1000, 1020), hdl("verilator"))


# -- the bench itself ------------------------------------------------------------------------------

TINY = PimSpec(
    "differential", rows=3, columns=5, groups=2, weight_bits=3, activation_bits=2, adc_bits=3,
    mux=1, noise_bits=2, epilogue_lanes=2,
)  # fmt: skip


def _tiny_case() -> Case:
    return Case("tiny", [sensitive_job(TINY, np.random.default_rng(3))])


def test_beats_are_laid_out_as_the_page_says() -> None:
    """Bit by bit: transfer by position and value, noise before states, codes from row 0, keep."""
    spec = replace(TINY, columns=4, mux=2, epilogue_lanes=2)
    job, operands = sensitive_job(spec, np.random.default_rng(3))
    x = np.arange(24, dtype=np.uint8).reshape(4, 6) & 3
    job, operands = replace(job, m=4, k=5), replace(operands, x=x[:, :5])
    beats = input_beats(spec, job, operands, padding=1)
    words = [4, 5, 2, 3, FLAG_WEIGHTS | FLAG_TRANSFER | FLAG_NOISE | FLAG_WIDE, 0, 0, 0]
    assert beats["i_job"] == [sum(word << 32 * i for i, word in enumerate(words))]
    assert beats["i_w"] == operands.w.ravel().tolist()
    assert len(beats["i_t"]) == 2 * spec.entries
    # Position 1, value 3: column 1 of ADC 0 and column 3, of ADC 1.
    entry = beats["i_t"][spec.entries + 3]
    bits = operands.transfer.view(np.uint16)
    assert entry == int(bits[1, 3]) | int(bits[3, 3]) << 16
    assert [beat & 0xFFFF for beat in beats["i_n"][:4]] == operands.noise.view(np.uint16).tolist()
    assert beats["i_n"][4:] == operands.states.tolist()
    assert beats["i_e"] == [int(operands.e[0]) | int(operands.e[1]) << 64]
    # Vector 0 is 0 1 2 | 3 0, and above K is anything.
    assert beats["i_x"][0] == 0b10_01_00
    assert beats["i_x"][1] & 0b1111 == 0b00_11
    assert result_beats(spec, [[-2, 5]]) == [0b1_11_0000000000000101_1111111111111110]
    assert result_beats(replace(spec, columns=6), [[1, 2, 3], [4, 5, 6]]) == [
        0b0_11 << 32 | 2 << 16 | 1, 0b0_01 << 32 | 3, 0b0_11 << 32 | 5 << 16 | 4,
        0b1_01 << 32 | 6,
    ]  # fmt: skip


def test_what_means_nothing_is_anything() -> None:
    """Codes past K, parameters past n and the upper half of a noise entry are filled."""
    job, operands = sensitive_job(TINY, np.random.default_rng(3))
    job = replace(job, n=1, k=1, rows=2)
    operands = replace(operands, w=operands.w[:1, :, :1], x=operands.x[:, :1], e=operands.e[:1])
    seen = [input_beats(TINY, job, operands, padding) for padding in range(60)]
    assert {beats["i_x"][0] >> 2 for beats in seen} == set(range(16))
    assert len({beats["i_e"][0] >> 64 for beats in seen}) == 60
    assert len({beats["i_n"][0] >> 16 for beats in seen}) == 60
    assert len({beats["i_n"][0] & 0xFFFF for beats in seen}) == 1


def test_states_must_follow_from_the_job_before() -> None:
    """A case whose second job states other generators is refused, as nothing would show it."""
    (job, operands) = _tiny_case().jobs[0]
    later = replace(job, flags=0)
    states = make.advanced(operands.states, job.m * TINY.steps(job.k) * TINY.mux)
    expect(TINY, Case("right", [(job, operands), (later, replace(operands, states=states))]))
    with pytest.raises(AssertionError, match=r"^wrong: the states are not those of the job before"):
        expect(TINY, Case("wrong", [(job, operands), (later, operands)]))


def _ideal(spec: PimSpec, job: Job) -> Seen:
    """Return what a monitor may see of a job without stalls, step by step as section 5 has it."""
    loads = spec.load_beats(job.k, job.n, job.rows)
    steps = spec.steps(job.k, job.rows)
    seen = Seen()
    for step in range(job.m * steps):
        d = max(loads.values()) + 1 + step * spec.period
        u = d + spec.row_cycles + 1
        seen.launch.append(d)
        seen.sample.append(u - 1)
        seen.convert += range(u, u + spec.convert_cycles)
        if step % steps == steps - 1:
            f = u + spec.convert_cycles - 1 + 4
            seen.write.append(f)
            seen.output += [f + 1 + 7 + i for i in range(-(-job.n // spec.epilogue_lanes))]
    return seen


LOADS = FLAG_WEIGHTS | FLAG_TRANSFER | FLAG_NOISE


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_laws_hold_for_what_the_page_says(spec: PimSpec) -> None:
    """Steps by the rules give the interval and the full latency, and each broken rule is told."""
    job = Job(4, spec.rows + 1, 1, spec.rows, LOADS if spec.noise_bits else LOADS & ~FLAG_NOISE)
    right = _ideal(spec, job)
    cycles = right.output[-1] + 1
    assert broken_laws(spec, job, right, cycles, stalled=False) == []
    marks = milestones(spec, job, right)
    assert {name: len(each) for name, each in marks.items()} == dict.fromkeys(marks, 4)
    assert marks["last_output"][-1] == cycles - 1

    def told(change: Callable[[Seen], object], *, stalled: bool = True) -> str:
        seen = _ideal(spec, job)
        change(seen)
        return "; ".join(broken_laws(spec, job, seen, cycles, stalled=stalled))

    def late(name: str, index: int) -> Callable[[Seen], None]:
        def change(seen: Seen) -> None:
            getattr(seen, name)[index] += 1

        return change

    assert "u = d + t_row + 1" in told(late("sample", 1))
    assert "f = q + 4" in told(late("write", 0))
    assert "f = q + 4" in told(late("convert", -1))
    assert told(lambda seen: seen.launch.pop()).startswith("launch: ")
    assert told(lambda seen: seen.output.append(0)).startswith("output: ")

    def early(seen: Seen) -> None:
        seen.launch[2:] = [d - seen.launch[2] + seen.launch[1] for d in seen.launch[2:]]

    assert "d(i) >= d(i-1) + t_row" in told(early)
    # What is allowed under stalls breaks the closed forms without them.
    assert told(late("output", 1)) == ""
    assert told(late("output", 1), stalled=False) == "law broken: II of output"
    later = broken_laws(spec, job, right, cycles + 1, stalled=False)
    assert later == ["law broken: cycles"]
    assert broken_laws(spec, job, right, cycles + 1, stalled=True) == []


def test_banks_and_converter_are_kept_apart() -> None:
    """No step takes a bank that holds a sample, and no sample is converted before it is there."""
    spec = SMALL["native-single"]
    job = Job(2, 6, 1, 6, LOADS)
    seen = _ideal(spec, job)
    seen.launch[1] -= 1
    seen.sample[1] -= 1
    assert broken_laws(spec, job, seen, 0, stalled=True) == ["law broken: d(i) >= e(i-banks) - 1"]
    seen = _ideal(spec, job)
    seen.convert[: spec.convert_cycles] = [c - 1 for c in seen.convert[: spec.convert_cycles]]
    assert "law broken: c >= u" in broken_laws(spec, job, seen, 0, stalled=True)


def test_cases_cover_what_they_should() -> None:
    """The random cases reach every style, awkward shapes, loads left out, laws of every kind."""
    seen: Counter[str] = Counter()
    for name, spec in SMALL.items():
        low, high = 16 * spec.code_min - 24, 16 * spec.code_max + 24
        for seed in range(CASES):
            case = random_case(spec, seed)
            seen["one stream"] += len(case.stalls) == 1
            seen["all streams"] += len(case.stalls) > 1
            seen["several jobs"] += len(case.jobs) > 1 + bool(spec.noise_bits)
            for number, (job, operands) in enumerate(case.jobs):
                lawful = not case.stalls and has_closed_form(spec, job)
                seen[f"laws on {name}"] += lawful
                seen["laws, m > 1"] += lawful and job.m > 1
                seen["outputs leave more slowly"] += not has_closed_form(spec, job)
                seen["m = 1"] += job.m == 1
                seen["k = 1"] += job.k == 1
                seen["n = 1"] += job.n == 1 < spec.outputs
                seen["n = O"] += job.n == spec.outputs
                seen["last beat not full"] += job.n % spec.epilogue_lanes != 0
                seen["one group"] += job.groups == 1
                seen["all groups"] += job.groups == spec.groups
                seen["short last group"] += job.k % job.rows != 0
                seen["short groups"] += job.rows < spec.rows
                seen["second word of rows"] += job.rows > 64
                for flag, what in (
                    (FLAG_WEIGHTS, "cells"), (FLAG_TRANSFER, "transfer"), (FLAG_NOISE, "noise"),
                ):  # fmt: skip
                    left = number and not job.has(flag) and (flag != FLAG_NOISE or spec.noise_bits)
                    seen[f"{what} left from before"] += bool(left)
                seen["noise left to a random job"] += (
                    bool(spec.noise_bits) and 0 < number < len(case.jobs) - 1
                    and not job.has(FLAG_NOISE)
                )  # fmt: skip
                seen["relu"] += job.has(FLAG_RELU)
                seen["wide"] += job.has(FLAG_WIDE)
                seen["negate"] += bool((operands.e >> np.uint64(54)).any())
                seen["zero vector"] += bool((operands.x == 0).all(axis=1).any())
                top = (1 << spec.activation_bits) - 1
                seen["largest vector"] += bool((operands.x == top).all(axis=1).any()) and job.k > 1
                columns = operands.transfer[: spec.outputs * spec.planes]
                ends = bool((columns <= -32000).any() or (columns >= 32000).any())
                seen["ends of int16"] += ends
                alike = bool((columns == columns[0]).all())
                seen["one table for all"] += alike and not ends
                seen["a table of each column"] += not alike and bool(
                    ((columns >= low) & (columns <= high)).all()
                )
                if spec.noise_bits:
                    seen["no noise drawn"] += not operands.noise.any()
                    seen["noise of many LSB"] += bool((abs(operands.noise.astype(int)) > 999).any())
                    seen["noise of an LSB"] += 0 < int(abs(operands.noise.astype(int)).max()) < 100
    assert min(seen.values()) >= 8, seen
    assert len(seen) == 35
