# SPDX-License-Identifier: Apache-2.0
"""SCALE-Sim 3.0.0 in an environment of its own, timed on one matrix product."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

from verif.lib.build import build_once
from verif.lib.toolchain import cache_dir

REQUIREMENTS = ("scalesim==3.0.0", "numpy<2.3")
"""NumPy 2.4 breaks scalesim 3.0.0 (TypeError in int(max(...)) after the whole simulation)."""

_CONFIG = """[general]
run_name = gemm
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {cols}
IfmapSramSzkB: 1024
FilterSramSzkB: 1024
OfmapSramSzkB: 1024
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 10
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""

# Only the simulation is timed: neither the interpreter's start nor the imports.
_DRIVER = """
import contextlib, io, json, time
from scalesim.scale_sim import scalesim
with contextlib.redirect_stdout(io.StringIO()):
    s = scalesim(save_disk_space=True, verbose=False, config="config.cfg",
                 topology="gemm.csv", layout="layout.csv", input_type_gemm=True)
    begin = time.perf_counter()
    s.run_scale(top_path="out")
    seconds = time.perf_counter() - begin
rows = open("out/gemm/COMPUTE_REPORT.csv").read().split("\\n")
print(json.dumps({"seconds": seconds, "report": rows[1]}))
"""


def python() -> Path:
    """Return the interpreter of an environment with SCALE-Sim, made on first use.

    Raises
    ------
    RuntimeError
        If the packages cannot be installed; the message ends with pip's.
    """

    def make(folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        done = subprocess.run(
            [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", *REQUIREMENTS],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"cannot install {REQUIREMENTS[0]}: {done.stderr[-500:]}")

    key = f"scalesim-3.0.0-py{sys.version_info[0]}{sys.version_info[1]}"
    return build_once(cache_dir() / "bench" / key, make) / "venv/bin/python"


def seconds(
    interpreter: Path, m: int, n: int, k: int, *, rows: int, cols: int, dataflow: str
) -> tuple[float, str]:
    """Return the wall seconds of one simulation and the line of SCALE-Sim's compute report."""
    with TemporaryDirectory(prefix="cosil-scalesim-") as name:
        folder = Path(name)
        config = _CONFIG.format(rows=rows, cols=cols, dataflow=dataflow)
        (folder / "config.cfg").write_text(config, encoding="utf-8")
        (folder / "gemm.csv").write_text(f"Layer,M,N,K,\ngemm,{m},{n},{k},\n", encoding="utf-8")
        # One line per layer: 6 intraline factors and 14 orders, all 1; unused without layouts.
        header = ",".join(["Layer", *(f"x{i}" for i in range(20))])
        line = ",".join(["gemm", *["1"] * 20])
        (folder / "layout.csv").write_text(f"{header},\n{line},\n", encoding="utf-8")
        done = subprocess.run(
            [interpreter, "-c", _DRIVER],
            cwd=folder, capture_output=True, text=True, check=False,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"SCALE-Sim failed: {done.stderr[-2000:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["seconds"], found["report"]
