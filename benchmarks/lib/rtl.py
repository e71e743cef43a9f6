# SPDX-License-Identifier: Apache-2.0
"""The engine's RTL at Verilator's full speed: no VPI, no trace, a C++ harness plays the memory."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from rtl.lib.verilog import to_verilog
from rtl.w4a8 import W4A8
from verif.lib.build import build_once
from verif.lib.toolchain import build_dir, find_simulator

_HARNESS = Path(__file__).with_name("harness.cpp")
FLAGS = (
    "--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
    "--output-split", "20000", "-CFLAGS", "-O3 -march=native", "-Wno-fatal", "-Wno-lint",
)  # fmt: skip
"""Verilator options of every build."""


@dataclass(frozen=True, slots=True, eq=False)
class RtlRun:
    """One job in the RTL.

    Attributes
    ----------
    y : uint16[M, N]
        Result bits; int8 sign-extended.
    cycles : int
        As docs/decisions/0001 counts them.
    seconds : float
        Wall time of the simulation loop, without start and file access.
    beats : list of int
        Transfers on a, w, s, e, r, y.
    """

    y: NDArray[np.uint16]
    cycles: int
    seconds: float
    beats: list[int]


def build(spec: W4A8Spec, memory_latency: int = 2) -> Path:
    """Return the model's program, built on first use and kept in the cache folder."""
    verilog = to_verilog(W4A8(spec), name="top", clean=True)
    header = _header(spec, memory_latency)
    harness = _HARNESS.read_text(encoding="utf-8")
    tool = find_simulator("verilator")

    def make(folder: Path) -> None:
        (folder / "top.v").write_text(verilog, encoding="utf-8")
        (folder / "engine.h").write_text(header, encoding="utf-8")
        (folder / "main.cpp").write_text(harness, encoding="utf-8")
        done = subprocess.run(
            [str(tool.path), *FLAGS, "--top-module", "top", "-Mdir", "obj", "-CFLAGS", "-I..",
             "top.v", "main.cpp"],
            cwd=folder, env=tool.environ(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"verilator failed:\n{(done.stdout + done.stderr)[-4000:]}")

    folder = build_dir("bench", verilog, header, harness, tool.version, *FLAGS)
    return build_once(folder, make) / "obj" / "Vtop"


def run(program: Path, job: Job, operands: Operands) -> RtlRun:
    """Run one job in a built model."""
    images = (operands.a, operands.w, operands.s, operands.e, operands.r)
    with TemporaryDirectory(prefix="cosil-bench-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(job.words().tobytes())
        with (folder / "memories").open("wb") as memories:
            for image in images:
                memories.write(np.uint64(image.nbytes).tobytes() + image.tobytes())
        done = subprocess.run(
            [program, "job", "memories", "result"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"the RTL harness failed: {(done.stdout + done.stderr)[-2000:]}")
        found = json.loads(done.stdout)
        y = np.fromfile(folder / "result", dtype=np.uint16).reshape(job.m, job.n)
    return RtlRun(y, found["cycles"], found["seconds"], found["beats"])


def _header(spec: W4A8Spec, memory_latency: int) -> str:
    """Return the harness's constants and the lines that name the ports of this spec."""
    column = spec.e_bits // 8
    streams = [
        ("a", 0, 4, spec.a_beat_bytes),
        ("w", 1, 4, spec.w_beat_bytes),
        ("e", 3, column, column * spec.array_cols),
    ]
    if spec.scales == "group":
        streams.append(("s", 2, 2, 2 * spec.array_cols))
    if spec.epilogue == "fp16":
        streams.append(("r", 4, 4, 4 * spec.array_rows))
    # Verilator writes the two underscores of a port name as ___05F.
    ready = ["top.o_y___05Fready = 1;"]
    respond: list[str] = []
    request: list[str] = []
    for name, number, element, beat in streams:
        port = f"_{name}___05F"
        ready.append(f"top.o{port}ready = 1;")
        respond.append(
            f"streams[{number}].respond(t, {element}, {beat}, "
            f"top.i{port}payload, top.i{port}valid);"
        )
        request.append(f"streams[{number}].request(t, top.o{port}valid, top.o{port}payload);")
    macros = {"DRIVE_READY": ready, "RESPOND": respond, "REQUEST": request}
    lines = [
        "#include <algorithm>",
        f"#define MEMORY_LATENCY {memory_latency}",
        f"#define LANES {spec.epilogue_lanes}",
        *(f"#define {name} {' '.join(code)}" for name, code in macros.items()),
    ]
    return "\n".join(lines) + "\n"
