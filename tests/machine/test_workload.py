# SPDX-License-Identifier: Apache-2.0
"""Workload files: totals as published, rows as commands, refusals with their line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cosil.cli import cli
from cosil.errors import CosilError
from cosil.lowering.attention import (
    HeadsCommand,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from cosil.lowering.workload import (
    COLUMNS,
    Schedule,
    commands,
    passes,
    read_workload,
    totals,
    workload_text,
)
from cosil.machine.plots import layers_figure, roofline_figure
from cosil.machine.spec import load_machine
from cosil.machine.summary import workload_to_dict
from cosil.machine.workload import run_workload, synthetic
from cosil.registry import engine_of

_LINE = "{},{},{},64.0,{},{},{},-1,-1,{},4,{},{},True,False,False,-1"


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
    return path


def _line(
    iteration: int, layer: int, head: int, length: int, keys: object, values: object,
    *, bits: object = -1, requant: str = "False",
) -> str:  # fmt: skip
    return _LINE.format(iteration, layer, head, length, keys, bits, requant, values, bits)


def test_totals_of_the_released_file(data_folder: Path) -> None:
    """Rows, sums, operations, bytes and beats of the dense GPT-2-medium file (design notes 3.6)."""
    got = totals(read_workload(data_folder / "spatten_traces/gpt2-medium-ptb-per0.csv"))
    assert (got.rows, got.length, got.keys, got.values) == (12288, *[12_392_448] * 3)
    assert round(got.flops / 1e6, 1) == 3172.5
    assert (got.bytes, got.bytes // 512) == (1_989_672_960, 3_886_080)
    assert (got.key_beats, got.value_beats) == (3_108_864, 1_554_432)


def test_totals_by_hand(tmp_path: Path) -> None:
    """Counts are rounded up to 8; 6-bit keys have an LSB pass only where the file says so."""
    path = _write(
        tmp_path / "w.csv",
        _line(0, 0, 0, 9, 9, 3),
        _line(0, 0, 1, 9, 9, 8, bits=6),
        _line(0, 1, 0, 9, 5, 0, bits=6, requant="True"),
        "configs/some.yml" + "," * 16,
    )
    got = totals(read_workload(path))
    assert (got.rows, got.length, got.keys, got.values) == (3, 27, 23, 11)
    assert got.flops == 2 * 64 * (23 + 11)
    assert got.bytes == 8 * (16 * 12 + 8 * 8) + 8 * (16 * 6 + 8 * 6) + 8 * (8 * 10)
    assert (got.key_beats, got.value_beats) == (2 * 2 + 2 + 1 * 2, 1 + 1 + 0)


def test_rows_become_commands(tmp_path: Path) -> None:
    """A layer with fewer keys prunes tokens before it, one with fewer rows heads."""
    path = _write(
        tmp_path / "w.csv",
        _line(0, 0, 0, 9, 9, 3), _line(0, 0, 1, 9, 9, 3, bits=6),
        _line(0, 1, 0, 9, 5, 2, bits=4, requant="True"),
        _line(1, 0, 0, 10, 6, 1),
    )  # fmt: skip
    first, second = passes(read_workload(path))
    template = RowCommand(
        n=1, values=0, key_msb=1, key_lsb=2, value=3, head=0, mult=4, shift=5, out_mult=6,
        out_shift=7,
    )  # fmt: skip
    layers = list(commands(first, template, clear=True))
    assert [number for number, _ in layers] == [0, 1]
    assert [command for _, each in layers for command in each] == [
        ResetCommand(9),
        replace(template, n=9, values=3, lsb_low=0, lsb_high=4095),
        replace(template, n=9, values=3, head=1, msb_bits=6, value_bits=6),
        HeadsCommand(2, 1),
        TokensCommand(9, 5),
        replace(template, n=5, values=2, msb_bits=4, value_bits=4, lsb_low=0, lsb_high=4095),
    ]
    ((_, later),) = commands(second, template, clear=False)
    assert later[:2] == [
        ResetCommand(10, clear_tokens=False, clear_heads=False),
        TokensCommand(10, 6),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (_line(0, 0, 0, 9, 10, 1), "key_fetch_num must be an integer in 1..9, not '10'"),
        (_line(0, 0, 0, 9, "x", 1), "key_fetch_num must be an integer in 1..9, not 'x'"),
        (_line(0, 0, 0, 9, "nan", 1), "key_fetch_num must be an integer in 1..9, not 'nan'"),
        (_line(0, 0, 0, 9, 4, 5), "value_fetch_num must be an integer in 0..4, not '5'"),
        (_line(0, 0, 64, 9, 9, 1), "head_id must be an integer in 0..63, not '64'"),
        (_line(0, 0, 0, 9, 9, 1, bits=7), "quant_key_bit must be 4, 6, 8, 10, 12 or -1, not 7"),
        (_line(0, 0, 0, 9, 9, 1, bits=6, requant="1"), "if_requant must be True or False, not '1'"),
        ("0,0", "there must be 17 cells, not 2"),
        ("0" * 5000, "a line may have 4096 characters"),
    ],
)
def test_hostile_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    """One line: the file, the line's number, what is required and what is there."""
    path = _write(tmp_path / "w.csv", line)
    with pytest.raises(CosilError) as error:
        read_workload(path)
    assert str(error.value) == f"{path}, line 2: {message}"


def test_impossible_orders_are_refused(tmp_path: Path) -> None:
    """Keys cannot come back in a pass, rows go forward, and the header is fixed."""
    good = _line(0, 0, 0, 9, 5, 1)
    cases = {
        _line(0, 1, 0, 9, 6, 1): "key_fetch_num may not grow in a pass: 5, then 6",
        _line(0, 1, 0, 8, 5, 1): "sentence_length_L must be the pass's 9, not 8",
        good: "iteration, layer, head must follow (0, 0, 0), not (0, 0, 0)",
    }
    path = tmp_path / "w.csv"
    for line, message in cases.items():
        _write(path, good, line)
        with pytest.raises(CosilError) as error:
            read_workload(path)
        assert str(error.value) == f"{path}, line 3: {message}"
    for content, start in ((b"a,b\n", "the columns must be"), (b"\xff\xfe\n", " is no CSV")):
        path.write_bytes(content)
        with pytest.raises(CosilError, match=start):
            read_workload(path)
    with pytest.raises(CosilError, match=r"there must be at least one row$"):
        read_workload(_write(path))


def test_a_workload_runs(tmp_path: Path) -> None:
    """Bytes moved are the file's counts, not rounded; the command prints the same."""
    path = _write(
        tmp_path / "w.csv",
        _line(0, 0, 0, 9, 9, 3), _line(0, 1, 0, 9, 5, 2, bits=6),
        _line(1, 0, 0, 10, 10, 10), _line(1, 1, 0, 10, 6, 0, bits=6, requant="True"),
    )  # fmt: skip
    machine = load_machine("spatten-512")
    run = run_workload(machine, read_workload(path), seed=3)
    first, second = run.layers
    assert run.cycles == sum(first.cycles_by_cause.values()) + sum(second.cycles_by_cause.values())
    assert first.counts["k_msb_bytes"] == 64 * (9 + 10)
    assert second.counts["k_msb_bytes"] == 48 * (5 + 6)
    assert (first.counts["k_lsb_bytes"], second.counts["k_lsb_bytes"]) == (32 * (9 + 10), 32 * 6)
    assert (first.counts["v_bytes"], second.counts["v_bytes"]) == (64 * (3 + 10), 48 * 2)
    assert run.bytes == 64 * (9 + 10 + 3 + 10) + 48 * (5 + 6 + 2) + 32 * (9 + 10 + 6)
    assert first.macs == 64 * (2 * (9 + 10) + 3 + 10)
    assert 0 < run.roof_cycles < run.cycles
    command = ["simulate", "--workload", str(path), "--machine", "spatten-512"]
    said = CliRunner().invoke(cli, [*command, "--seed", "3", "--json"])
    assert json.loads(said.output) == json.loads(json.dumps(workload_to_dict(run)))
    shown = CliRunner().invoke(cli, [*command, "--seed", "3"])
    assert "values: synthetic: lfsr32_leap, seed 3" in shown.output
    assert re.search(r"layer 1 +attention +64x8/radix", shown.output)
    refused = CliRunner().invoke(cli, [*command, "--check"])
    assert refused.exit_code == 2
    few = CliRunner().invoke(cli, [*command[:-1], "w4a8-16x16-os"])
    assert "a workload needs an attention engine" in few.output


def test_energy_of_a_workload(tmp_path: Path) -> None:
    """Each layer is priced as a network's would be; bytes cost what the memory's table says."""
    rows = [_line(0, 0, 0, 9, 9, 3), _line(0, 1, 0, 9, 5, 2, bits=6)]
    machine = load_machine("spatten-512")
    run = run_workload(machine, read_workload(_write(tmp_path / "w.csv", *rows)))
    model = engine_of(run.spec).load("energy")
    for layer in run.layers:
        priced = model.energy(
            run.spec, layer.counts, technology=machine.technology, memory=machine.memory.energy
        )
        assert layer.energy == priced
    total = workload_to_dict(run)["total"]
    assert total["energy_pj"] == pytest.approx(sum(total["energy_by_component_pj"].values()))
    assert total["energy_low_pj"] < total["energy_pj"] < total["energy_high_pj"]
    # Another memory: what goes through it costs more, all else is the same.
    slow = replace(machine, memory=replace(machine.memory, energy="lpddr4"))
    far = workload_to_dict(run_workload(slow, read_workload(tmp_path / "w.csv")))["total"]
    assert far["cycles"] == total["cycles"]
    near, far = (each["energy_by_component_pj"] for each in (total, far))
    assert far.pop("memory (lpddr4)") > near.pop("memory (hbm2)") > 0
    assert near == far


def test_figures_of_a_workload(tmp_path: Path) -> None:
    """Three images; the layers' bars add up to the cycles, the roof is the engine's multipliers."""
    path = _write(tmp_path / "w.csv", _line(0, 0, 0, 9, 9, 3), _line(0, 1, 0, 9, 5, 2, bits=6))
    folder = tmp_path / "figures"
    command = ["simulate", "--workload", str(path), "--machine", "spatten-512"]
    said = CliRunner().invoke(cli, [*command, "--plot", str(folder)])
    assert said.exit_code == 0
    assert sorted(each.name for each in folder.iterdir()) == [
        "energy.png", "layers.png", "roofline.png",
    ]  # fmt: skip
    assert all(f"wrote {each}" in said.output for each in folder.iterdir())
    run = run_workload(load_machine("spatten-512"), read_workload(path))
    bars = layers_figure(run).axes[0]
    drawn = sum(bar.get_width() for bars in bars.containers for bar in bars)  # type: ignore[attr-defined]
    assert drawn == run.cycles
    texts = [text.get_text() for text in roofline_figure(run).axes[0].texts]
    assert "512 MAC/cycle" in texts
    assert "512 B/cycle" in texts
    assert {"layer 0", "layer 1"} <= set(texts)


def test_lines_that_do_not_fit_the_engine(tmp_path: Path) -> None:
    """The message names the file's line and the engine's limit."""
    machine = load_machine("spatten-512")
    rows = read_workload(_write(tmp_path / "w.csv", _line(0, 0, 0, 1025, 9, 3)))
    message = r"^x, line 2: sentence_length_L may be 1024 on this engine, not 1025$"
    with pytest.raises(CosilError, match=message):
        run_workload(machine, rows, source="x")


def test_values_are_of_the_named_generator() -> None:
    """The first token's first code takes the first draw; a query's code the low 12 bits."""
    spec = load_machine("spatten-512").attention
    assert spec is not None
    memory, queries = synthetic(spec, 2, seed=1)
    state = 1
    for _ in range(32):
        state = state >> 1 ^ (0x80200003 if state & 1 else 0)
    assert int(memory.key_msb[0, 0]) & 0xFF == state & 0xFF
    assert int(memory.key_lsb[0, 0]) == state >> 8 & 15
    assert int(memory.value[0, 0]) & 0xFF == state >> 12 & 0xFF
    assert queries.shape == (61, 64)
    assert queries.min() >= -2048
    assert queries.max() <= 2047
    assert np.abs(queries.astype(float).mean()) < 100


def test_schedules_are_the_released_ones(tmp_path: Path) -> None:
    """The staircase of GPT-2-small: 921, 716, 204 and 102 keys; 184, 143, 40 and 20 values."""
    path = tmp_path / "s.csv"
    command = [
        "workload", "--heads", "12", "--keys", "0.9,0.7,0.2x4,0.1x6", "--values", "0.2",
        "--key-bits", "6", "--value-bits", "6", "--requantised", "0.25", "-o", str(path),
    ]  # fmt: skip
    assert CliRunner().invoke(cli, command).exit_code == 0
    rows = read_workload(path)
    assert len(rows) == 32 * 12 * 12
    first, last = rows[: 12 * 12], rows[-12 * 12 :]
    assert {(row.length, row.keys, row.values) for row in first} == {(993, 993, 198)}
    assert [(row.keys, row.values) for row in last[::12]] == [
        (921, 184), (716, 143), *[(204, 40)] * 4, *[(102, 20)] * 6,
    ]  # fmt: skip
    assert {(row.length, row.key_bits, row.value_bits) for row in last} == {(1024, 6, 6)}
    assert sum(row.lsb for row in rows) == len(rows) // 4


def test_heads_are_pruned_as_released(tmp_path: Path) -> None:
    """GPT-2-medium keeps 16, 13 and 10 heads: 12,288 rows become 11,328."""
    schedule = Schedule((16,) * 16 + (13,) * 6 + (10,) * 2, (1024,) * 24)
    assert len(schedule.rows()) == 11_328
    path = tmp_path / "m.csv"
    path.write_text(workload_text(schedule.rows()), encoding="utf-8")
    assert read_workload(path) == schedule.rows()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keys", "0.5,0.6"], r"^error: schedule: keys may not grow"),
        (["--heads", "4,5"], r"^error: schedule: heads may not grow"),
        (["--keys", "1.5"], r"^error: --keys must be a list like 0\.9,0\.7,204x4, not '1\.5'"),
        (["--keys", "nan"], r"^error: --keys must be a list like"),
        (["--keys", "3x99999"], r"^error: --keys must be a list like"),
        (["--heads", "0.5"], r"^error: --heads must be counts, not '0\.5'"),
        (["--values", "2"], r"^error: schedule: values and requantised must be in 0\.\.1"),
        (["--passes", "1025"], r"^error: schedule: passes must be in 1\.\.1024, not 1025"),
    ],
)
def test_impossible_schedules_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    """In one line, and no file is written."""
    path = tmp_path / "s.csv"
    command = ["workload", "--heads", "4", "--keys", "9", "-o", str(path), *options]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert re.match(message, result.output)
    assert not path.exists()
