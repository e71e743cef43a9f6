# SPDX-License-Identifier: Apache-2.0
"""Speed and utilisation of the W4A8 engine: ``python -m benchmarks.w4a8 [--json] [--only NAME]``.

Every ratio is measured in one run on one thread: warm-up first, then the best of several
repetitions of either side, alternating. The RTL is built by Verilator on first use (minutes for the
larger arrays) and kept in the cache folder.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import results, rtl, scalesim
from benchmarks.lib.results import Result, seconds_of
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from sim.w4a8 import run
from verif.lib.toolchain import find_simulator


def job_of(spec: W4A8Spec, m: int, n: int, k: int, group: int = 128) -> tuple[Job, Operands]:
    """Return a product of random stored words, seed 0."""
    rng = np.random.default_rng(0)
    a_stride, w_stride, groups = -(-k // 4), -(-k // 8), -(-k // group)

    def words(size: int) -> Any:
        return rng.integers(2**32, size=size, dtype=np.uint64).astype(np.uint32)

    column_scales = rng.random(n, dtype=np.float32) * np.float32(0.001)
    multipliers = rng.integers(2**16, size=n, dtype=np.uint64) << np.uint64(32)
    fixed = multipliers | np.uint64(28 << 48)
    scales = (rng.random(groups * n) * 16).astype(np.float16).view(np.uint16)
    job = Job(m, n, k, group, 0, a_stride, 0, w_stride, 0, n, 0, 0, 0, n)
    operands = Operands(
        words(m * a_stride),
        words(n * w_stride),
        scales if spec.scales == "group" else scales[:0],
        column_scales.view(np.uint32) if spec.epilogue == "fp16" else fixed,
        rng.random(m, dtype=np.float32).view(np.uint32),
    )
    return job, operands


VARIANTS = [(s, e) for s in ("channel", "group") for e in ("fp16", "fixed")]


def fast_vs_matmul() -> Result:
    """Time 1024^3 on 32x32, stored words to outputs and cycles, over a float32 matmul."""
    rng = np.random.default_rng(1)
    x, w = (rng.random((1024, 1024), dtype=np.float32) for _ in range(2))
    worst = (0.0, 0.0, 0.0, "")
    for dataflow in ("os", "ws"):
        for scales, epilogue in VARIANTS:
            spec = W4A8Spec(32, 32, dataflow, scales, epilogue=epilogue)
            job, operands = job_of(spec, 1024, 1024, 1024)
            run(spec, job, operands)
            matmul, ours = float("inf"), float("inf")
            for _ in range(15):
                matmul = min(matmul, seconds_of(lambda: x @ w))
                ours = min(ours, seconds_of(lambda s=spec, j=job, o=operands: run(s, j, o)))
            variant = f"{dataflow}/{scales}/{epilogue}"
            worst = max(worst, (ours / matmul, ours, matmul, variant))
    return Result(
        "fast_vs_matmul", worst[0], "x", "lower", 1.5, worst[1], worst[2],
        f"1024^3, 32x32, worst of 8 variants: {worst[3]}; seconds, best of 15",
    )  # fmt: skip


def fast_vs_scalesim() -> Result:
    """SCALE-Sim's time for 256^3 on 32x32 over ours; it computes no values."""
    name, unit, note = "fast_vs_scalesim", "x", "256^3, 32x32, os"
    try:
        interpreter = scalesim.python()
    except (RuntimeError, OSError) as error:
        return Result(name, None, unit, "higher", 5000, None, None, f"skipped: {error}")
    worst = (0.0, "")
    for scales, epilogue in VARIANTS:
        spec = W4A8Spec(32, 32, "os", scales, epilogue=epilogue)
        job, operands = job_of(spec, 256, 256, 256)
        run(spec, job, operands)
        ours = min(seconds_of(lambda s=spec, j=job, o=operands: run(s, j, o)) for _ in range(100))
        worst = max(worst, (ours, f"{scales}/{epilogue}"))
    found = [
        scalesim.seconds(interpreter, 256, 256, 256, rows=32, cols=32, dataflow="os")
        for _ in range(3)
    ]
    theirs, report = min(found)
    note += f", worst variant {worst[1]}; seconds, best of 100 and 3; SCALE-Sim: {report.strip()}"
    return Result(name, theirs / worst[0], unit, "higher", 5000, worst[0], theirs, note)


def stepped_vs_verilator() -> Result:
    """Compare simulated cycles per second: the stepped model and the RTL in Verilator, 32x32."""
    spec = W4A8Spec(32, 32)
    job, operands = job_of(spec, 128, 128, 512)
    program = rtl.build(spec)
    run(spec, job, operands, step=True)
    ours, baseline = 0.0, 0.0
    for _ in range(5):
        begin = time.perf_counter()
        stepped = run(spec, job, operands, step=True)
        ours = max(ours, stepped.cycles / (time.perf_counter() - begin))
    for _ in range(3):
        found = rtl.run(program, job, operands)
        baseline = max(baseline, found.cycles / found.seconds)
    _check_equal("stepped", stepped, found)
    return Result(
        "stepped_vs_verilator", ours / baseline, "x", "higher", 15, ours, baseline,
        f"32x32, os/channel/fp16, 128x128x512, {found.cycles} cycles and outputs equal; cycles/s, "
        "best of 5 and 3",
    )  # fmt: skip


def _rtl_utilisation(dataflow: str, m: int, n: int, k: int) -> tuple[float, int]:
    spec = W4A8Spec(16, 16, dataflow)
    job, operands = job_of(spec, m, n, k)
    found = rtl.run(rtl.build(spec), job, operands)
    _check_equal(dataflow, run(spec, job, operands), found)
    return m * n * k / (16 * 16 * found.cycles), found.cycles


def rtl_utilisation(dataflow: str) -> Result:
    """Utilisation counted in the RTL, 16x16, 1024^3."""
    value, cycles = _rtl_utilisation(dataflow, 1024, 1024, 1024)
    note = f"16x16, 1024^3, {cycles} cycles in the RTL, equal to the simulator, outputs too"
    return Result(f"rtl_utilisation_{dataflow}", value, "1", "higher", 0.99, None, None, note)


def rtl_utilisation_short_k() -> Result:
    """Utilisation counted in the RTL, 16x16, 512 x 512 x 64, the worse dataflow."""
    found = {dataflow: _rtl_utilisation(dataflow, 512, 512, 64) for dataflow in ("os", "ws")}
    value, cycles = min(found.values())
    note = f"16x16, 512x512x64, {cycles} cycles in the RTL, equal to the simulator; " + ", ".join(
        f"{dataflow} {utilisation:.4f}" for dataflow, (utilisation, _) in found.items()
    )
    return Result("rtl_utilisation_short_k", value, "1", "higher", 0.95, None, None, note)


def _check_equal(what: str, ours: Any, theirs: rtl.RtlRun) -> None:
    """Stop the benchmark if the RTL's cycles, beats or outputs differ from the simulator's."""
    beats = [ours.counts[f"{stream}_beats"] for stream in "awsery"]
    same = (
        ours.cycles == theirs.cycles
        and beats == theirs.beats
        and np.array_equal(ours.y.view(np.uint16), theirs.y)
    )
    if not same:
        raise RuntimeError(
            f"{what}: the RTL's {theirs.cycles} cycles, beats {theirs.beats} and outputs must "
            f"equal the simulator's {ours.cycles} cycles, beats {beats} and outputs"
        )


def cli_startup() -> Result:
    """Wall time of `cosil --help`."""
    command = [Path(sys.executable).with_name("cosil"), "--help"]

    def start() -> object:
        return subprocess.run(command, capture_output=True, check=True)

    start()
    value = min(seconds_of(start) for _ in range(7))
    return Result("cli_startup_s", value, "s", "lower", 0.3, value, None, "cosil --help, best of 7")


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "fast_vs_matmul": fast_vs_matmul,
    "fast_vs_scalesim": fast_vs_scalesim,
    "stepped_vs_verilator": stepped_vs_verilator,
    "rtl_utilisation_os": lambda: rtl_utilisation("os"),
    "rtl_utilisation_ws": lambda: rtl_utilisation("ws"),
    "rtl_utilisation_short_k": rtl_utilisation_short_k,
    "cli_startup_s": cli_startup,
}


def versions() -> dict[str, str]:
    """Return the tools that the figures depend on."""
    return {
        "amaranth": importlib.metadata.version("amaranth"),
        "verilator": find_simulator("verilator").version,
        "verilator_flags": " ".join(rtl.FLAGS),
    }


if __name__ == "__main__":
    results.main("w4a8", __doc__, BENCHMARKS, versions)
