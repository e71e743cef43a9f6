# SPDX-License-Identifier: Apache-2.0
"""Parts of every bench, without a simulator."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator as AmaranthSimulator

from cosil.registry import ENGINES
from verif.lib.archive import load, save
from verif.lib.beats import grouped, packed
from verif.lib.build import build_once
from verif.lib.cases import Case
from verif.lib.events import by_cause, split, totals
from verif.lib.generate import break_each
from verif.lib.memory import Memory
from verif.lib.mutants import Mutant
from verif.lib.mutator import Mutator
from verif.lib.scoreboard import Scoreboard, Verdict
from verif.lib.streams import StreamDriver, StreamMonitor


def test_scoreboard_passes_what_is_right() -> None:
    """Every expected result, once, in any order, passes."""
    verdict = Verdict()
    board = Scoreboard({4: 7, 5: 8}, verdict)
    board.take(0, 5, 8)
    assert not board.done
    board.take(1, 4, 7)
    assert board.done
    board.finish()
    assert verdict.passed
    assert verdict.messages == []


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ([], "2 of 2 results are missing, the first at address 4"),
        ([(4, 7)], "1 of 2 results are missing, the first at address 5"),
        ([(4, 6), (5, 8)], "cycle 0: address 4: expected 0x0007, got 0x0006"),
        ([(4, 7), (5, 8), (5, 8)], "cycle 2: surplus result 0x0008 at address 5"),
        ([(4, 7), (5, 8), (9, 0)], "cycle 2: surplus result 0x0000 at address 9"),
    ],
)
def test_scoreboard_fails_what_is_wrong(takes: list[tuple[int, int]], message: str) -> None:
    """A missing, a wrong, a repeated and a surplus result each fail with where and what."""
    verdict = Verdict()
    board = Scoreboard({4: 7, 5: 8}, verdict)
    for cycle, (address, value) in enumerate(takes):
        board.take(cycle, address, value)
    board.finish()
    assert not verdict.bits_equal
    assert not verdict.passed
    assert verdict.messages == [message]


def test_scoreboard_does_not_pass_by_silence() -> None:
    """Nothing expected and nothing seen is a failure."""
    verdict = Verdict()
    Scoreboard({}, verdict).finish()
    assert not verdict.passed
    assert verdict.messages == ["no result was expected, so nothing was compared"]


@pytest.mark.parametrize(
    ("expected", "got", "messages"),
    [
        ({"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}, []),
        (
            {"a": 1, "b": [2]},
            {"a": 4, "b": [3]},
            ["a!: expected 1, got 4", "b!: expected [2], got [3]"],
        ),
        ({"a": 1}, {}, ["a!: expected 1, got nothing"]),
        ({}, {"a": 0}, ["a!: expected nothing, got 0"]),
    ],
)
def test_values_are_compared_on_both_sides(
    expected: dict[str, object], got: dict[str, object], messages: list[str]
) -> None:
    """A value that differs fails, and so does one that only one side has."""
    verdict = Verdict()
    verdict.compare("counts_equal", expected, got, "!")
    assert verdict.messages == messages
    assert verdict.counts_equal == (not messages)
    assert verdict.cycles_equal


def test_driver_follows_its_pattern() -> None:
    """A beat is offered in free cycles only, from its cycle on, and kept until it is accepted."""
    driver = StreamDriver()
    driver.start([False, True, False])
    driver.send(11, 1)
    driver.send(12, 0)
    offers: list[int | None] = []
    for cycle, ready in enumerate([True, True, False, True, True, True]):
        payload = driver.offer(cycle)
        offers.append(payload)
        if payload is not None:
            driver.sample(ready)
    # Cycles 1 and 4 are stalled; in cycle 2 the device refuses.
    assert offers == [None, None, 11, 11, None, 12]
    assert (driver.transfers, driver.refusals, driver.pending) == (2, 1, 0)


def test_driver_may_begin_in_a_stalled_cycle() -> None:
    """Only cycle 0 is free whatever the pattern says, and not the pattern's next turn."""
    driver = StreamDriver()
    driver.start([True, False], first_free=True)
    for payload in (1, 2, 3):
        driver.send(payload, 0)
    offers: list[int | None] = []
    for cycle in range(4):
        payload = driver.offer(cycle)
        offers.append(payload)
        if payload is not None:
            driver.sample(True)
    assert offers == [1, 2, None, 3]


def test_monitor_takes_only_transfers() -> None:
    """A beat counts in the cycle in which both sides agree."""
    seen: list[tuple[int, int]] = []
    monitor = StreamMonitor("o_x", lambda cycle, payload: seen.append((cycle, payload)))
    monitor.start([True, False])
    for cycle, (valid, payload) in enumerate([(True, 5), (True, 5), (False, 0), (True, 6)]):
        monitor.ready(cycle)
        monitor.sample(cycle, valid, payload)
    assert seen == [(1, 5), (3, 6)]
    assert monitor.violations == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((False, 5), "o_x withdrew a beat before the transfer, cycle 1"),
        ((True, 4), "o_x changed its payload before the transfer, cycle 1"),
    ],
)
def test_monitor_sees_broken_rules(second: tuple[bool, int], message: str) -> None:
    """A beat that goes away or changes while it waits is a violation."""
    monitor = StreamMonitor("o_x", lambda cycle, payload: None)
    monitor.start([True])
    for cycle, (valid, payload) in enumerate([(True, 5), second]):
        monitor.ready(cycle)
        monitor.sample(cycle, valid, payload)
    assert monitor.violations == [message]


def test_memory_answers_in_order_after_its_latency() -> None:
    """Addresses count units, a beat may be wider, and past the end there are zeros."""
    driver = StreamDriver()
    memory = Memory(driver, unit_bytes=2, beat_bytes=4)
    driver.start([])
    memory.load(bytes(range(1, 9)), latency=3)
    for cycle, address in enumerate([1, 3, 9]):
        memory.request(cycle, address)
    answers: dict[int, int] = {}
    for cycle in range(8):
        payload = driver.offer(cycle)
        if payload is not None:
            answers[cycle] = payload
            driver.sample(True)
    assert answers == {3: 0x06050403, 4: 0x0807, 5: 0}


def test_build_once_builds_once_and_again_after_a_failure(tmp_path: Path) -> None:
    """A folder whose build failed is built anew; one that was built is only returned."""
    calls: list[int] = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    def build(folder: Path) -> None:
        calls.append(1)
        assert list(folder.iterdir()) == []

    folder = tmp_path / "model"
    with pytest.raises(OSError, match=r"^disk full$"):
        build_once(folder, fail)
    assert build_once(folder, build) == build_once(folder, build) == folder
    assert calls == [1]


@dataclass(frozen=True)
class _Leaf:
    words: np.ndarray
    kind: Mutant


def test_archive_returns_what_was_saved(tmp_path: Path) -> None:
    """Values, arrays with their dtype and shape, dataclasses and enums survive any nesting."""
    empty, words = np.zeros((0, 3), np.int8), np.array([[1, 2**63]], np.uint64)
    tree: dict[str, Any] = {
        "leaves": [_Leaf(words, Mutant.DROPPED_BEAT), (empty, None, 1.5, "ä", True)],
        "nothing": {},
    }
    save(tmp_path / "a.npz", tree)
    back = load(tmp_path / "a.npz")
    leaf, mixed = back.pop("leaves")
    assert back == {"nothing": {}}
    assert (leaf["kind"], mixed[1:]) == (3, [None, 1.5, "ä", True])
    for expected, actual in ((words, leaf["words"]), (empty, mixed[0])):
        assert (expected.dtype, expected.tolist()) == (actual.dtype, actual.tolist())
    with pytest.raises(ValueError, match=r"^archive: 'array' may not be the only key of a mapping"):
        save(tmp_path / "b.npz", {"array": 1})


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_is_light(engine: str) -> None:
    """What the HDL simulator imports once per run loads no compiler and no tensor library."""
    code = (
        f"import sys, verif.{engine}.bench\n"
        "print(*{'torch', 'numba', 'amaranth'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def _through(mutant: Mutant, beat: int) -> list[int | None]:
    """Return what a mutator offers in each cycle when beats 10, 11, 12 come, all taken at once."""
    mutator, seen = Mutator(8, 7), list[int | None]()

    async def drive(ctx: Any) -> None:
        ctx.set(mutator.kind, mutant)
        ctx.set(mutator.beat, beat)
        ctx.set(mutator.o.ready, 1)
        payload = 10
        for _ in range(4):
            ctx.set(mutator.i.valid, payload < 13)
            ctx.set(mutator.i.payload, payload)
            seen.append(ctx.get(mutator.o.payload) if ctx.get(mutator.o.valid) else None)
            payload += ctx.get(mutator.i.ready)
            await ctx.tick()

    simulator = AmaranthSimulator(mutator)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return seen


@pytest.mark.parametrize(
    ("mutant", "beat", "seen"),
    [
        (Mutant.NONE, 1, [10, 11, 12, None]),
        (Mutant.VALID_STUCK_LOW, 0, [None] * 4),
        (Mutant.VALID_STUCK_LOW, 2, [10, 11, None, None]),
        (Mutant.FLIPPED_BIT, 0, [10 ^ 128, 11, 12, None]),
        (Mutant.FLIPPED_BIT, 2, [10, 11, 12 ^ 128, None]),
        (Mutant.DROPPED_BEAT, 1, [10, None, 12, None]),
        (Mutant.EXTRA_CYCLE, 0, [None, 10, 11, 12]),
        (Mutant.EXTRA_CYCLE, 1, [10, None, 11, 12]),
    ],
)
def test_mutator_breaks_the_beat_that_it_should(
    mutant: Mutant, beat: int, seen: list[int | None]
) -> None:
    """The beat of that number is broken, or all from it on are stuck; no other changes."""
    assert _through(mutant, beat) == seen


def test_each_mutant_is_on_each_stream_once() -> None:
    """A bench that forgets a stream or a mutant would not notice that it is blind there."""
    cases = break_each(["i_x", "o_y"], lambda number, stream: Case(stream, [number]))
    assert [case.jobs for case in cases] == [[number] for number in range(8)]
    broken = {(case.mutant, case.mutant_stream) for case in cases}
    assert broken == {(m, s) for m in list(Mutant)[1:] for s in ("i_x", "o_y")}
    assert len({case.name for case in cases}) == 8
    assert replace(cases[0], mutant=Mutant.NONE).mutant_stream == "i_x"


def test_events_are_split_by_offset_and_width() -> None:
    """Each field of a packed value is its own bits."""
    assert split(0b1_0110_1, {"a": [0, 1], "b": [1, 4], "c": [5, 1]}) == {"a": 1, "b": 6, "c": 1}


def test_events_are_summed_by_field_and_cause() -> None:
    """A field's sum weighs each value by how often it was seen; a cycle has the first cause."""
    fields = {"a": [0, 1], "b": [1, 4]}
    assert totals({0b0110_1: 2, 0b0001_0: 3, 0: 9}, fields) == {"a": 2, "b": 15}
    seen = {0b0110_1: 2, 0b0001_0: 3, 0: 9}

    def holds(value: int) -> dict[str, object]:
        return {**split(value, fields), "else": True}

    assert by_cause(seen, ["a", "b", "else"], holds) == {"a": 2, "b": 3, "else": 9}
    assert by_cause(seen, ["b", "a", "else"], holds) == {"b": 5, "a": 0, "else": 9}


def test_lanes_are_packed_from_the_low_bits() -> None:
    """Lane 0 is in the low bits, negative values in two's complement, and a rest is a beat."""
    assert packed([-1, 2, 0x15], 4) == 0x52F
    assert [[1, 2], [3]] == [list(beat) for beat in grouped([1, 2, 3], 2)]
    assert list(grouped([], 2)) == []
