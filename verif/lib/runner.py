# SPDX-License-Identifier: Apache-2.0
"""Building a simulation model once, and running cocotb tests on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cocotb_tools import config
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Icarus, Runner, Verilator

from verif.lib.build import build_once
from verif.lib.toolchain import Simulator, build_dir

TOP = "bench"
"""Name of every top module that benches build."""

_TIMESCALE = ("1ns", "1ps")
_VERILATOR_FLAGS = ("-Wno-fatal", "-O3", "--x-assign", "fast", "--noassert")
# Python takes most of a simulated cycle, so what counts is the time to compile: one file, no
# optimisation, and Verilator's own library, the greater part, only once for all models.
_MAKE_VARIABLES = ("VM_PARALLEL_BUILDS=0", "OPT_FAST=-O0")
_LIBRARY = ("verilated.o", "verilated_vpi.o", "verilated_threads.o")


class BenchError(RuntimeError):
    """A simulator that did not build, or did not run to its end."""


class _Verilator(Verilator):
    """cocotb's runner, but only the ports of the top module are visible to VPI.

    It asks for ``--public-flat-rw``, which keeps Verilator from optimising any signal away and
    multiplies the time to compile and to run.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        super().__init__()

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(self._simulator.path)

    def _set_env_common(self) -> None:
        super()._set_env_common()
        libraries = self.env["PATH"]
        self.env.update(self._simulator.env)
        self.env["PATH"] += f":{libraries}"

    def _build_command(self) -> list[Any]:
        commands = super()._build_command()
        at = commands[0].index("--public-flat-rw")
        commands[0][at : at + 1] = ["--public-depth", "1"]
        commands[1] += _MAKE_VARIABLES
        library = _library_dir(self._simulator)
        if library.exists():
            # Newer than their sources, so make leaves them alone.
            objects = [str(library / name) for name in _LIBRARY]
            commands.insert(1, ["cp", *objects, str(self.build_dir)])
        return commands


def _library_dir(simulator: Simulator) -> Path:
    compiler = subprocess.run(
        [os.environ.get("CXX", "c++"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    return build_dir(
        "verilator-library", simulator.version, str(simulator.path), compiler, *_VERILATOR_FLAGS
    )


def _keep_library(model: Path, simulator: Simulator) -> None:
    def copy(folder: Path) -> None:
        for name in _LIBRARY:
            shutil.copy(model / name, folder)

    build_once(_library_dir(simulator), copy)


def _runner(simulator: Simulator) -> Runner:
    return _Verilator(simulator) if simulator.name == "verilator" else Icarus()


def build(verilog: str, simulator: Simulator) -> Path:
    """Compile a model whose top module is `TOP`, unless the cache holds it.

    Parameters
    ----------
    verilog : str
        Source of all modules.
    simulator : Simulator
        What compiles and runs it.

    Returns
    -------
    Path
        Folder of the model; its name is a hash of the Verilog, the tools and their flags.

    Raises
    ------
    BenchError
        If the compiler fails; the message ends with its output.
    """
    flags = _VERILATOR_FLAGS if simulator.name == "verilator" else ()

    def compile_model(folder: Path) -> None:
        source, log = folder / f"{TOP}.v", folder / "build.log"
        source.write_text(verilog, encoding="utf-8")
        try:
            _runner(simulator).build(
                sources=[source], hdl_toplevel=TOP, build_dir=folder, build_args=flags,
                timescale=_TIMESCALE, log_file=log,
            )  # fmt: skip
        except RuntimeError as error:
            raise BenchError(f"{simulator.name} did not build:\n{_tail(log)}") from error
        if simulator.name == "verilator":
            _keep_library(folder, simulator)
            for leftover in (*folder.glob("*.gch"), *folder.glob("*.o"), *folder.glob("*.a")):
                leftover.unlink()

    # A model finds cocotb's library where it lay when the model was linked.
    library = str(config.libs_dir)
    key = (verilog, simulator.version, library, *flags, *_MAKE_VARIABLES, *_TIMESCALE)
    return build_once(build_dir(f"bench-{simulator.name}", *key), compile_model)


def simulate(
    model: Path, simulator: Simulator, module: str, folder: Path, env: Mapping[str, str]
) -> None:
    """Run the cocotb tests of `module` on a model.

    Parameters
    ----------
    model : Path
        What `build` returned.
    module : str
        Python module with the tests.
    folder : Path
        Where the run leaves its log and results; it exists.
    env : mapping of str to str
        Variables for the tests.

    Raises
    ------
    BenchError
        If the simulation stops early, runs no test, or a test fails; the message ends with the log.
    """
    log = folder / "run.log"
    results = folder / "results.xml"
    try:
        _runner(simulator).test(
            test_module=module, hdl_toplevel=TOP, hdl_toplevel_lang="verilog", build_dir=model,
            test_dir=folder, results_xml=str(results), log_file=log, timescale=_TIMESCALE,
            extra_env={"COCOTB_ANSI_OUTPUT": "0", **env},
        )  # fmt: skip
        tests, failures = get_results(results)
    except (RuntimeError, SystemExit) as error:
        # cocotb's runner leaves by SystemExit where a test failed.
        raise BenchError(f"{module} did not run on {simulator.name}:\n{_tail(log)}") from error
    if tests == 0 or failures:
        raise BenchError(f"{module}: {failures} of {tests} tests failed:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-6000:] if log.exists() else ""
