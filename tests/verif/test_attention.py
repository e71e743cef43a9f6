# SPDX-License-Identifier: Apache-2.0
"""The attention engine in RTL against simulator and reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algos.models.registry import NamedModel, load_model, topics_task
from algos.models.tasks import WindowTask
from algos.models.train import TOPICS_CONFIG, Recipe, train_topics
from algos.reference.attention import reference
from algos.rtn import compress as rtn
from algos.spatten import SpattenSettings, attach
from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from cosil.machine import attention as machine_attention
from cosil.machine.execute import execute
from cosil.machine.spec import load_machine
from sim import vector
from sim.lib.stalls import patterns
from verif.attention.cases import (
    STREAMS,
    Case,
    command_word,
    image,
    kept_beats,
    output_beats,
    query_word,
    requested,
    requests,
)
from verif.attention.check import expect, key_lists, streams, verify
from verif.attention.generate import mutant_cases, random_case
from verif.attention.invariants import Invariants
from verif.attention.specs import LARGE, SMALL
from verif.lib.mutants import Mutant
from verif.lib.report import assert_caught, assert_passed
from verif.lib.toolchain import Simulator

CASES = 30
"""For each of the two models: 60 in all, of 5 to 13 commands each."""

Hdl = Callable[[str], Simulator]


def _check(spec: AttentionSpec, seeds: range, simulator: Simulator) -> None:
    cases = [random_case(spec, seed) for seed in seeds]
    broken = mutant_cases(spec, streams(spec))
    assert len(broken) == 4 * 8
    # The commands are right as long as nothing is broken, so it is the mutant that is caught.
    whole = [*cases, *(replace(case, mutant=Mutant.NONE) for case in broken[:8])]
    outcomes = verify(spec, [*whole, *broken], simulator)
    assert_passed(outcomes[: len(whole)], len(seeds) + 8)
    assert_caught(outcomes[len(whole) :])


@pytest.mark.cosim
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=pytest.mark.xdist_group(f"attention-{name}"))
        for name, spec in SMALL.items()
    ],
)
def test_rtl_equals_simulator_and_reference(spec: AttentionSpec, hdl: Hdl) -> None:
    """Bits, requests, cycles and counts of overlapping rows are equal; broken hardware is seen."""
    _check(spec, range(CASES), hdl("verilator"))


@pytest.mark.cosim
@pytest.mark.slow
def test_icarus_agrees(hdl: Hdl) -> None:
    """A second simulator, which knows undefined values, gives the same verdicts on a subset."""
    _check(SMALL["split"], range(500, 504), hdl("icarus"))


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE.values(), ids=LARGE)
def test_larger_engines(spec: AttentionSpec, hdl: Hdl) -> None:
    """The same on more lanes, and at the sizes of trained networks."""
    _check(spec, range(1000, 1024), hdl("verilator"))


# -- trained networks --------------------------------------------------------------------------


def captured(
    model: NamedModel, spec: AttentionSpec, monkeypatch: pytest.MonkeyPatch, tokens: int,
    decode: int,
) -> Case:  # fmt: skip
    """Return what a machine gave its engine: a prefill, then token by token, of a pruned network.

    The runs of all layers and passes become one sequence of commands, their memories one behind
    the other. What the engine returned there is asserted to be the reference's answer to it.
    """
    batches = [model.task.example_inputs()[0][:1, :tokens]]
    settings = SpattenSettings(
        token_schedule="1,0.6", head_schedule="1,0.75", value_schedule="0.5", recent=2,
        rule="max_probability", threshold=0.4,
    )  # fmt: skip
    network = attach(rtn(model.graph(), batches), batches, settings)
    machine = load_machine("w4a8-16x16-attention")
    assert machine.attention is not None
    wide = replace(
        machine.attention, topk=spec.topk, pool=spec.pool, max_tokens=spec.max_tokens,
        max_heads=spec.max_heads,
    )  # fmt: skip
    machine = replace(machine, attention=wide)
    recorded: list[tuple[list[Command], Operands, np.ndarray]] = []
    real = machine_attention.run

    def record(engine: AttentionSpec, commands: Any, operands: Operands, **options: Any) -> Any:
        made = real(engine, commands, operands, **options)
        recorded.append((list(commands), operands, made.y))
        return made

    monkeypatch.setattr(machine_attention, "run", record)
    ids = batches[0].numpy()
    cache = vector.KVCache()
    execute(machine, network, {"ids": ids[:, : tokens - decode]}, cache=cache)
    for at in range(tokens - decode, tokens):
        execute(machine, network, {"ids": ids[:, at : at + 1]}, cache=cache)
    case = _joined(model.name, spec, recorded)
    answered = reference(spec, case.jobs, case.operands)
    np.testing.assert_array_equal(
        np.concatenate([y for _, _, y in recorded]), answered.output.numpy()
    )
    return case


def _joined(
    name: str, spec: AttentionSpec, runs: list[tuple[list[Command], Operands, np.ndarray]]
) -> Case:
    program: list[Command] = []
    parts: dict[str, list[np.ndarray]] = {"query": [], "key_msb": [], "key_lsb": [], "value": []}
    first = 0
    for commands, operands, _ in runs:
        for command in commands:
            if isinstance(command, RowCommand):
                command = replace(
                    command, key_msb=command.key_msb + first, key_lsb=command.key_lsb + first,
                    value=command.value + first,
                )  # fmt: skip
            program.append(command)
        for field, arrays in parts.items():
            arrays.append(getattr(operands, field))
        first += len(operands.key_msb)
    whole = {field: np.concatenate(arrays) for field, arrays in parts.items()}
    assert spec.head_dim == whole["query"].shape[1]
    return Case(name, program, operands=Operands(**whole))


def _check_captured(case: Case, spec: AttentionSpec, simulator: Simulator, rows: int) -> None:
    """Run a captured case as it is and with every stream stalled."""
    kinds = Counter(type(command) for command in case.jobs)
    assert kinds[RowCommand] > rows
    assert min(kinds[TokensCommand], kinds[HeadsCommand], kinds[ResetCommand]) > 0
    stalls = patterns("random", 1, STREAMS)
    stalled = replace(case, name=f"{case.name}, stalled", stalls=stalls, latency=7)
    redo = expect(spec, case).counts["redo_rows"]
    assert 0 < redo < kinds[RowCommand]
    assert_passed(verify(spec, [case, stalled], simulator), 2)


@pytest.mark.cosim
@pytest.mark.xdist_group("attention-split")  # one process converts the engine to Verilog
def test_a_small_trained_network(hdl: Hdl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a GPT just trained on text, prefill and token by token, with and without stalls."""
    spec = SMALL["split"]
    config = replace(TOPICS_CONFIG, dim=24, heads=3, context=spec.max_tokens)
    whole = topics_task()
    task = WindowTask(
        whole.train_ids, whole.evaluation_ids, config.context,
        (whole.calibration_source, whole.evaluation_source),
    )  # fmt: skip
    module = train_topics(task, Recipe(steps=120, batch=32, rate=8e-3), config=config)
    counts = np.bincount(task.train_ids)
    unigram = -(counts[counts > 0] * np.log(counts[counts > 0] / counts.sum())).sum() / counts.sum()
    assert task.evaluate(module, limit=40).mean_nll < unigram - 0.3
    model = NamedModel("small GPT", module, task)
    case = captured(model, spec, monkeypatch, tokens=12, decode=4)
    _check_captured(case, spec, hdl("verilator"), 40)


@pytest.mark.cosim
@pytest.mark.slow
def test_a_trained_network(hdl: Hdl, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the demo's GPT, one lane at a time."""
    spec = SMALL["one-lane"]
    case = captured(load_model("topics-gpt"), spec, monkeypatch, tokens=16, decode=3)
    _check_captured(case, spec, hdl("verilator"), 60)


@pytest.mark.cosim
@pytest.mark.slow
def test_a_published_network(hdl: Hdl, monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    """The same of stories260K, whose heads share keys and values."""
    spec = LARGE["stories"]
    model = load_model("stories260k", data_folder)
    case = captured(model, spec, monkeypatch, tokens=24, decode=4)
    _check_captured(case, spec, hdl("verilator"), 60)


# -- beats and cases ---------------------------------------------------------------------------


def test_beats_are_laid_out_as_the_page_says() -> None:
    """Bit by bit: addresses modulo 2**32, keep and plane; tag, columns, last; ids, keep, last."""
    spec = AttentionSpec(head_dim=16, multipliers=32, max_tokens=16)
    first = (2**32 - 1) | 1 << 32 | 0b11 << 64
    assert requests(spec, 2**32 - 2, [1, 3, 5]) == [first, 3 | 0b01 << 64]
    assert requests(spec, 7, [2], plane=1) == [9 | 0b101 << 64]
    assert requested(2, first) == [2**32 - 1, 1]
    assert requested(2, 9 | 0b101 << 64) == [9, None]
    low, high = output_beats(spec, 5, [-1, *range(1, 16)])
    assert low == 5 | 0xFFFF << 32 | sum(i << 32 + 16 * i for i in range(1, 8))
    assert high == 5 | sum(8 + i << 32 + 16 * i for i in range(8)) | 1 << 160
    assert kept_beats(spec, [3, 9, 12]) == [3 | 9 << 16 | 0b11 << 32, 12 | 1 << 32 | 1 << 34]
    assert query_word(np.array([-1, 2], dtype=np.int16)) == 0x002FFF
    assert image(np.array([[-2, 1], [3, 4]], dtype=np.int8)) == [0x01FE, 0x0403]
    row = RowCommand(
        n=3, values=2, key_msb=4, key_lsb=5, value=6, head=1, mult=7, shift=8, out_mult=9,
        out_shift=10, lsb_low=11, lsb_high=12, msb_bits=6, value_bits=4, tag=13,
    )  # fmt: skip
    words = [0x4610, 13, 3, 2, 4, 5, 6, 1, 7 | 8 << 16, 11 | 12 << 16, 9 | 10 << 16]
    assert command_word(row) == sum(word << 32 * i for i, word in enumerate(words))
    assert command_word(TokensCommand(9, 4, 2)) == 1 | 9 << 32 | 4 << 64 | 2 << 96
    assert command_word(ResetCommand(9)) == 0x33 | 9 << 32
    assert command_word(HeadsCommand(3, 2)) == 2 | 3 << 32 | 2 << 64


def test_lists_follow_the_commands() -> None:
    """A row reads the first n tokens of what the last selection or reset left."""
    spec = AttentionSpec(head_dim=8, multipliers=8, max_tokens=16)
    row = random_case(spec, 0).rows[0]
    program = [
        ResetCommand(5), replace(row, n=2, values=0), TokensCommand(5, 3), HeadsCommand(2, 1),
        replace(row, n=3, values=0), ResetCommand(9), replace(row, n=4, values=0),
    ]  # fmt: skip
    kept = [np.array([0, 3, 4]), np.array([1])]
    assert key_lists(spec, program, kept) == [[0, 1], [0, 3, 4], [0, 1, 2, 3]]


def test_survivors_never_grow() -> None:
    """In a pass that prunes to at most what is left, kept ids increase and are of the list."""
    spec = SMALL["split"]
    seen = 0
    for seed in range(60):
        case = random_case(spec, seed)
        kept = iter(reference(spec, case.jobs, case.operands).kept)
        tokens, total, lawful = torch.arange(spec.max_tokens), spec.max_tokens, True
        for command in case.jobs:
            match command:
                case ResetCommand():
                    tokens, total = torch.arange(command.tokens), command.tokens
                    # Tokens past the pass, and what came before it, may hold importance.
                    lawful = command.clear_tokens
                case HeadsCommand():
                    assert (next(kept).diff() > 0).all()
                case TokensCommand():
                    ids = next(kept)
                    assert (ids.diff() > 0).all()
                    lawful &= command.tokens == total and command.k <= len(tokens)
                    lawful &= command.recent == 0
                    if lawful:
                        assert set(ids.tolist()) <= set(tokens.tolist())
                        seen += len(tokens) < total
                    tokens = ids
                case RowCommand():
                    pass
    assert seen >= 3


def test_cases_cover_what_they_should() -> None:
    """The random cases reach awkward n and values, every LSB rule, ties, widths and stalls."""
    seen: Counter[str] = Counter()
    for spec in SMALL.values():
        for seed in range(CASES):
            case = random_case(spec, seed)
            expected = expect(spec, case)
            flat = expected.counts["redo_rows"]
            seen["all streams"] += len(case.stalls) > 1
            seen["no stalls"] += not case.stalls
            seen["one stream"] += len(case.stalls) == 1
            seen["redo"] += flat > 0
            seen["no redo"] += flat == 0
            seen["latency"] += case.latency > 5
            seen["tokens"] += any(isinstance(c, TokensCommand) for c in case.jobs)
            seen["heads"] += any(isinstance(c, HeadsCommand) for c in case.jobs)
            seen["reset"] += any(isinstance(c, ResetCommand) for c in case.jobs[1:])
            seen["recent"] += any(isinstance(c, TokensCommand) and c.recent for c in case.jobs)
            seen["saturated"] += any(0x7FFF == beat >> 32 & 0xFFFF for beat in expected.outputs)
            for row in case.rows:
                seen["n = 1"] += row.n == 1
                seen["n no multiple"] += row.n % spec.lanes > 0
                seen["n = max"] += row.n == spec.max_tokens
                seen["values = 0"] += row.values == 0
                seen["values = n"] += row.values == row.n
                seen["between"] += 0 < row.values < row.n
                seen["never"] += (row.lsb_low, row.lsb_high) == (1, 0)
                seen["always"] += (row.lsb_low, row.lsb_high) == (0, 4095)
                seen["sometimes"] += 0 < row.lsb_low <= row.lsb_high
                seen["mult 0"] += row.mult == 0
                seen["shift 0"] += row.shift == 0
                seen["no importance"] += not row.add_importance
                seen["wraps"] += row.key_msb > 1 << 31
                for bits in (4, 6, 8):
                    seen[f"msb {bits}"] += row.msb_bits == bits
                    seen[f"value {bits}"] += row.value_bits == bits
    assert min(seen.values()) >= 3, seen
    assert len(seen) == 30


# -- invariants --------------------------------------------------------------------------------


def _program(spec: AttentionSpec) -> list[Command]:
    row = replace(random_case(spec, 0).rows[0], n=6, values=3, value=(1 << 32) - 2)
    return [
        ResetCommand(9), row, replace(row, values=0), TokensCommand(9, 4, 1), HeadsCommand(3, 2),
        replace(row, n=4, values=2), TokensCommand(9, 3, 1),
    ]  # fmt: skip


def _say(spec: AttentionSpec, invariants: Invariants, beats: list[list[int]]) -> None:
    """Offer what a device says to `_program`: value rows and kept ids, in the program's order."""
    for number, ids in enumerate(beats):
        if number in (0, 3):
            for beat in requests(spec, (1 << 32) - 2, ids):
                invariants.value_request(beat)
        else:
            for beat in kept_beats(spec, ids):
                invariants.kept(beat)


SOUND = [[0, 2, 5], [1, 2, 5, 8], [0, 2], [1, 5], [2, 5, 8]]


def test_invariants_of_a_sound_device() -> None:
    """Resets and rows without values are passed over; a surplus beat is not."""
    spec = SMALL["split"]
    invariants = Invariants(spec, _program(spec))
    _say(spec, invariants, SOUND)
    with pytest.raises(AssertionError, match="no beat comes after the last command's"):
        invariants.kept(kept_beats(spec, [1])[0])


@pytest.mark.parametrize(
    ("at", "ids", "said"),
    [
        (0, [0, 5, 2], "kept ids increase"),
        (0, [0, 2, 6], "only kept rows are read"),
        (0, [0, 2, 3, 5], "a row reads the values that it keeps"),
        (1, [1, 5, 2, 8], "kept ids increase"),
        (1, [1, 5, 8], "a selection keeps as many as it was asked for"),
        (2, [2, 0], "kept ids increase"),
        (3, [1, 3], "only kept rows are read"),
        (4, [1, 3, 8], "no pruned token comes back within a pass"),
    ],
)
def test_invariants_notice_a_broken_device(at: int, ids: list[int], said: str) -> None:
    """One beat's rows or ids changed: the rule that they break is named."""
    spec = SMALL["split"]
    with pytest.raises(AssertionError, match=said):
        _say(spec, Invariants(spec, _program(spec)), [*SOUND[:at], ids, *SOUND[at + 1 :]])


def test_invariants_know_the_order_of_beats() -> None:
    """Values before their row's turn, or ids in place of values."""
    spec = SMALL["split"]
    with pytest.raises(AssertionError, match="beats come in the order of the commands"):
        Invariants(spec, _program(spec)).kept(kept_beats(spec, [1, 2, 5, 8])[0] | 1 << 34)
    grown = Invariants(spec, [ResetCommand(4), TokensCommand(4, 2), TokensCommand(4, 3)])
    beats = [beat for ids in ([0, 3], [0, 2, 3]) for beat in kept_beats(spec, ids)]
    for beat in beats[:-1]:
        grown.kept(beat)
    with pytest.raises(AssertionError, match="survivors do not grow"):
        grown.kept(beats[-1])
