# SPDX-License-Identifier: Apache-2.0
"""The folder that `cosil verilog` writes: Verilog and what other tools need to use it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cosil.errors import CosilError, ToolFailedError, ToolMissingError
from cosil.registry import engine_of
from cosil.synth.cells import TARGETS, count_cells
from cosil.synth.parts import EngineParts, parts_of
from cosil.synth.texts import c_header, core_file, makefile, register_page
from rtl.lib.axis import AxisTop, axis_widths
from rtl.lib.verilog import to_verilog
from verif.lib.toolchain import find_simulator, write_atomically

# Rule -> why Verilog that Yosys writes breaks it and is right. Anything else stops the command.
LINT_WAIVERS = {
    "DECLFILENAME": "one file holds every module of the design",
    "PROCASSINIT": "registers have a power-up value, equal to their reset value, for FPGAs",
    "WIDTHEXPAND": "Yosys leaves extension of operands to Verilog's rules, which RTLIL's equal",
    "WIDTHTRUNC": "logical NOT of a word (is it zero), and sums whose carry is not wanted",
    "UNUSEDSIGNAL": "modules are optimised one by one, so that a port may have bits nobody reads",
    "UNOPTFLAT": "loops between different bits of one vector, a chain and no cycle",
    "CASEOVERLAP": "choices by one-hot words are casez statements whose patterns leave bits open",
}

_HERE = Path(__file__).parent


def write_package(
    spec: Any,
    folder: Path,
    *,
    name: str | None = None,
    cells: bool = True,
    done: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Generate an engine and write its package.

    The folder appears whole or not at all: the files are made beside it and moved.

    Parameters
    ----------
    spec : spec of a registered engine
    folder : Path
        Where to write; it must not exist, be empty, or hold a package written before.
    name : str, optional
        Top module, and stem of the files; ``cosil_<engine>`` by default.
    cells : bool
        Synthesise for cell counts too; takes minutes for large arrays.
    done : callable
        Called with the name of each step when it ends.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    CosilError
        If the name is no Verilog identifier, or the folder holds something else.
    ToolFailedError
        If Yosys fails, or Verilator finds a fault that no waiver explains.
    """
    engine = engine_of(spec)
    name = name or f"cosil_{engine.name}"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise CosilError(f"the top module's name must be a Verilog identifier, not {name!r}")
    _check_folder(folder)
    parts = parts_of(engine.name)
    top = AxisTop(engine.load("rtl")(spec))
    streams = _streams(top)
    text = to_verilog(top, name=name, clean=True)
    # Without a unit of time, simulators refuse designs that mix it with modules that have one.
    text = f"`timescale 1ns / 1ps\n{text}"
    done("verilog")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        build = Path(made, folder.name)
        build.mkdir()
        files = {
            f"{name}.v": text,
            "lint.vlt": _waiver_file(),
            f"{name}.core": core_file(name, parts.title),
            f"{name}.h": c_header(parts, spec, name),
            "REGISTERS.md": register_page(parts, spec, name, streams),
            "spec.toml": spec.to_toml(),
            "test_smoke.py": (_HERE / "smoke_test.py").read_text(encoding="utf-8"),
            "vectors.json": json.dumps(_vectors(parts, spec)) + "\n",
            "Makefile": makefile(name),
        }
        for file, content in files.items():
            write_atomically(build / file, content)
        done("package")
        waived = lint(build, name)
        done("lint")
        counts: dict[str, Any] = {}
        for target in TARGETS if cells else ():
            counted = count_cells(text, name, target)
            counts[target] = {"cells": counted.cells, "memory_bits": counted.memory_bits}
            done(f"cells ({target})")
        manifest = {
            "engine": engine.name,
            "top": name,
            "spec": asdict(spec),
            "generated_by": {
                package: version(package) for package in ("cosil", "amaranth", "pyosys")
            },
            "sha256": {file: _sha256(content) for file, content in files.items()},
            "streams": streams,
            "lint": waived,
            "cells": counts or None,
        }
        write_atomically(build / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        build.replace(folder)
    return manifest


def lint(folder: Path, name: str) -> dict[str, Any] | None:
    """Lint a package by Verilator with all warnings on.

    Returns
    -------
    dict or None
        Verilator's version and, by rule, how many warnings the waiver file explains; None where no
        Verilator can be had.

    Raises
    ------
    ToolFailedError
        If a warning is left.
    """
    try:
        simulator = find_simulator("verilator")
    except ToolMissingError:
        return None
    command = ["verilator", "--lint-only", "-Wall", "--top-module", name]

    def run(*files: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *files], cwd=folder, env=simulator.environ(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    clean = run("lint.vlt", f"{name}.v")
    if clean.returncode != 0 or "%Warning" in clean.stderr:
        raise ToolFailedError(f"verilator -Wall finds faults in {name}.v:\n{clean.stderr[-4000:]}")
    found = Counter(re.findall(r"^%Warning-(\w+):", run(f"{name}.v").stderr, re.MULTILINE))
    return {"verilator": simulator.version, "waived": dict(sorted(found.items()))}


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / "manifest.json").exists()):
        return
    if folder.exists():
        raise CosilError(
            f"{folder} exists and is no package written by cosil", "choose another folder"
        )


def _streams(top: AxisTop) -> dict[str, dict[str, int]]:
    return {
        prefix: axis_widths(getattr(top.core, stream).payload.shape())
        for stream, prefix in top.streams.items()
    }


def _vectors(parts: EngineParts, spec: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"memories": {}, "exchanges": {}, "memory_latency": 1}
    return {"job_stream": parts.job_stream, **nothing, **parts.vectors(spec)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _waiver_file() -> str:
    lines = ["`verilator_config"]
    for rule, reason in LINT_WAIVERS.items():
        lines += [f"// {reason}", f'lint_off -rule {rule} -file "*.v"']
    return "\n".join(lines) + "\n"
