# SPDX-License-Identifier: Apache-2.0
"""The command: help, errors in one line, exit codes, tables and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cosil.cli import COMMANDS, cli
from cosil.cli.lib import emit_table, progress
from cosil.errors import CosilError, ToolFailedError
from cosil.packed import int4, raw
from cosil.packed.file import save
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.registry import ENGINES, FACES, METHODS


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_help_imports_no_heavy_library() -> None:
    """`cosil --help` loads none of torch, numba, amaranth, matplotlib, numpy, rich, cocotb."""
    script = (
        "import sys\n"
        "sys.argv = ['cosil', '--help']\n"
        "from cosil.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'numba', 'amaranth', 'matplotlib', 'numpy', 'rich', 'cocotb'}\n"
        "    print(sorted(heavy & sys.modules.keys()), end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] 0"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """`cosil NAME --help` shows how a person would type it, and the table's line is its own."""
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"Example: cosil {name}" in " ".join(result.output.split())
    assert isinstance(cli.get_command(click.Context(cli), name), click.Command)


def test_engines_and_methods_as_json() -> None:
    """The lists are the registry's."""
    engines = json.loads(run("engines", "--json").output)["engines"]
    assert [*ENGINES] == [engine["name"] for engine in engines]
    assert [*FACES] == [*engines[0]["faces"]]
    methods = json.loads(run("methods", "--json").output)["methods"]
    assert [*METHODS] == [method["name"] for method in methods]


def test_tables_are_plain_text_where_no_terminal_reads() -> None:
    """What is piped has neither frames nor colours, and columns are aligned."""
    lines = run("methods").output.splitlines()
    assert lines[0].split()[0] == "method"
    assert "\x1b" not in "".join(lines)
    column = lines[0].index("engines")
    assert all(line[column:].startswith("w4a8") for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulat"], "error: unknown command 'simulat'\nhint: did you mean simulate?"),
        (["engines", "--jso"], "error: No such option '--jso'"),
        (["info", "nowhere.cosil"], "error: Invalid value for 'NET'"),
        (["info"], "error: Missing argument 'NET'."),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    """A slip of the hand gives one line, a hint, and no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CosilError("bad net", "look"), 2, "error: bad net\nhint: look\n"),
        (ValueError("bad value"), 2, "error: bad value\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2,
         "error: x: No such file or directory\n"),
        (ToolFailedError("yosys failed"), 1, "error: yosys failed\n"),
        (ToolFailedError("yosys failed:\nlog"), 1, "error: yosys failed:\nlog\n"),
        (RuntimeError("odd"), 1,
         "error: RuntimeError: odd\nhint: this is a defect of cosil; --debug shows where\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)  # fmt: skip
def test_errors_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    """Wrong input exits with 2, a failure with 1; a traceback needs --debug."""

    def fail(as_json: bool) -> NoReturn:
        raise error

    command = cli.get_command(click.Context(cli), "engines")
    assert command is not None
    monkeypatch.setattr(command, "callback", fail)
    result = run("engines")
    assert (code, message) == (result.exit_code, result.stderr.removeprefix("\n"))
    if isinstance(error, Exception):
        shown = run("engines", "--debug")
        assert code == shown.exit_code
        assert "Traceback" in shown.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    """`cosil engines --json | true` prints nothing on stderr."""
    line = f"{sys.executable} -c 'from cosil.cli import main; main()' engines --json | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return a packed file with one W4A8 layer of 3 x 10 weights in groups of 4."""
    weight = int4.encode(
        np.zeros((3, 10), np.int8),
        encoding="offset",
        channel=np.ones(3, np.float32),
        group=np.ones((3, 3), np.float16),
        group_size=4,
    )
    node = Node(
        "fc", "linear", ("x",), {"mode": "fixed"},
        {"weight": weight, "epilogue": raw.encode(np.full(3, 1 << 32, np.uint64))}, "w4a8",
    )  # fmt: skip
    quantize = Node("x", "quantize", ("input",), {"scale": 0.5})
    network = PackedNetwork(
        "tiny", (Value("input", "f32", (10,)),), (quantize, node), ("fc",), {"method": "rtn"}
    )
    save(network, tmp_path / "tiny.cosil")
    return tmp_path / "tiny.cosil"


def test_info_counts_what_is_stored(net: Path) -> None:
    """Bits per weight are those of the memory: padding and scales included."""
    table = json.loads(run("info", net, "--json").output)
    layer = table["nodes"][1]
    # 3 rows of 2 words, 3 float32 and 9 float16 scales: 192 + 96 + 144 bits for 30 weights.
    assert (30, 432) == (layer["weights"], layer["weight_bits"])
    assert layer["stored_bytes"] == 432 // 8 + 3 * 8
    assert table["bits_per_weight"] == 432 / 30
    assert table["stored_bytes"] == 78
    assert table["file_bytes"] == net.stat().st_size
    text = run("info", net).output
    assert "weight int4 offset g4 3x10" in text
    assert "method: rtn" in text


def test_info_refuses_a_broken_file(net: Path) -> None:
    """A truncated file is wrong input: one line, exit 2."""
    net.write_bytes(net.read_bytes()[:-1])
    result = run("info", net)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_table_aligns_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    """Integers get separators and share their last column, floats four digits."""
    emit_table(("n", "v"), [(7, "a"), (12345, "b"), (None, "c")], title="t")
    assert capsys.readouterr().out == "t\n     n  v\n     7  a\n12,345  b\n        c\n"
    emit_table(("x",), [(0.123456,)])
    assert capsys.readouterr().out == "     x\n0.1235\n"


def test_progress_draws_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file gets no control codes."""
    with progress("work", 2) as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")
