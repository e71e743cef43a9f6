# SPDX-License-Identifier: Apache-2.0
"""Native harness for parts without streams: arrays in, arrays out, one element per clock cycle.

cocotb costs microseconds per cycle and port; exhaustive tests of a data path need a million cycles
in a second. Verilator compiles the part together with a generated C++ main instead.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verif.lib.build import build_once
from verif.lib.toolchain import build_dir, find_simulator

_FLAGS = ("--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--noassert", "-Wno-fatal")

_MAIN = """
#include "Vtop.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <vector>

int main(int argc, char** argv) {{
    VerilatedContext context;
    Vtop top(&context);
    FILE* in = fopen(argv[1], "rb");
    FILE* out = fopen(argv[2], "wb");
    uint64_t cycles = 0;
    if (!in || !out || fread(&cycles, 8, 1, in) != 1) return 1;
    std::vector<uint64_t> row_in({inputs}), row_out({outputs});
    top.clk = 0;
    top.rst = 0;
    for (uint64_t t = 0; t < cycles; t++) {{
        if (fread(row_in.data(), 8, row_in.size(), in) != row_in.size()) return 1;
{drive}
        top.clk = 0;
        top.eval();
{sample}
        fwrite(row_out.data(), 8, row_out.size(), out);
        top.clk = 1;
        top.eval();
    }}
    top.final();
    return fclose(out);
}}
"""


def run_vectors(
    verilog: str, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]
) -> dict[str, NDArray[np.uint64]]:
    """Drive one element of every input per cycle and return what every output shows in that cycle.

    Parameters
    ----------
    verilog : str
        Source whose top module is ``top`` with ports ``clk``, ``rst`` and those named here, none
        wider than 64 bits.
    inputs : mapping of str to unsigned int [cycles]
        Values of the input ports, applied before the rising edge that ends the cycle.
    outputs : tuple of str
        Ports to sample.

    Returns
    -------
    dict of str to uint64[cycles]
        Output values during the cycle: a part of n register stages shows input i in element i + n.

    Raises
    ------
    RuntimeError
        If the build or the run fails; the message ends with the tool's output.
    """
    names = tuple(inputs)
    main = _MAIN.format(
        inputs=len(names),
        outputs=len(outputs),
        drive="\n".join(f"        top.{name} = row_in[{i}];" for i, name in enumerate(names)),
        sample="\n".join(f"        row_out[{i}] = top.{name};" for i, name in enumerate(outputs)),
    )
    binary = _build(verilog, main)
    table = np.stack([np.asarray(inputs[name]).astype(np.uint64) for name in names], axis=1)
    with TemporaryDirectory(prefix="cosil-vectors-") as folder:
        source, target = Path(folder, "in.bin"), Path(folder, "out.bin")
        source.write_bytes(np.uint64(len(table)).tobytes() + np.ascontiguousarray(table).tobytes())
        done = subprocess.run(
            [binary, source, target], capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            raise RuntimeError(f"vector harness failed:\n{(done.stdout + done.stderr)[-4000:]}")
        result = np.fromfile(target, dtype=np.uint64).reshape(len(table), len(outputs))
    return {name: result[:, i].copy() for i, name in enumerate(outputs)}


def _build(verilog: str, main: str) -> Path:
    tool = find_simulator("verilator")

    def build(folder: Path) -> None:
        (folder / "top.v").write_text(verilog, encoding="utf-8")
        (folder / "main.cpp").write_text(main, encoding="utf-8")
        command = [str(tool.path), *_FLAGS, "--top-module", "top", "-Mdir", "obj"]
        done = subprocess.run(
            [*command, "top.v", "main.cpp"],
            cwd=folder, env=tool.environ(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"verilator failed:\n{(done.stdout + done.stderr)[-4000:]}")

    folder = build_dir("vectors", verilog, main, tool.version, *_FLAGS)
    return build_once(folder, build) / "obj" / "Vtop"
