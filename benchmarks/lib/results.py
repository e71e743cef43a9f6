# SPDX-License-Identifier: Apache-2.0
"""What benchmarks print: a table or, with --json, the form that design.md's section 8 fixes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table (design.md, section 8).

    Attributes
    ----------
    name, unit : str
    value : float or None
        What is held against `bar`; None if it was skipped.
    better : {"lower", "higher"}
    bar : float or None
        None where the figure is only shown.
    ours, baseline : float or None
        The two measured figures of one run where `value` is their ratio.
    note : str
        Inputs, and what else was found equal.
    """

    name: str
    value: float | None
    unit: str
    better: str
    bar: float | None
    ours: float | None
    baseline: float | None
    note: str


def seconds_of(call: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def thread_seconds_of(call: Callable[[], object]) -> float:
    """Return the seconds that one call kept its thread busy, whatever else the machine does."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def best_alternating(*calls: Callable[[], object], runs: int) -> list[float]:
    """Return the least thread seconds of each call, after one that is not counted.

    The calls take turns, so that what else the machine does in these seconds slows all of them.
    """
    for call in calls:
        call()
    turns = [[thread_seconds_of(call) for call in calls] for _ in range(runs)]
    return [min(seconds) for seconds in zip(*turns, strict=True)]


def main(
    name: str,
    description: str | None,
    benchmarks: Mapping[str, Callable[[], Result]],
    versions: Callable[[], dict[str, str]],
) -> None:
    """Run the benchmarks that are asked for, on one thread.

    Parameters
    ----------
    name : str
        Module in this package, and name of the JSON table.
    description : str or None
        For --help.
    benchmarks : mapping of str to callable
        Each returns its line.
    versions : callable
        Returns what the figures depend on besides `machine`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", action="append", choices=list(benchmarks), help="run just these")
    arguments = parser.parse_args()
    if any(os.environ.get(variable) != value for variable, value in ONE_THREAD.items()):
        # BLAS reads the number of threads when NumPy is imported.
        command = [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ONE_THREAD})
    results: list[Result] = []
    for key in arguments.only or benchmarks:
        result = benchmarks[key]()
        results.append(result)
        if not arguments.json:
            print(_line(result), flush=True)
    if arguments.json:
        table = {
            "name": name,
            "results": [asdict(result) for result in results],
            "versions": machine() | versions(),
        }
        print(json.dumps(table, indent=2))


def _line(result: Result) -> str:
    value = "skipped" if result.value is None else f"{result.value:.4g} {result.unit}"
    sign = "<=" if result.better == "lower" else ">="
    bar = " " * 13 if result.bar is None else f"bar {sign} {result.bar:<6}"
    return f"{result.name:32} {value:>14}   {bar} {result.note}"


def machine() -> dict[str, str]:
    """Return interpreter, libraries and processor."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {name: importlib.metadata.version(name) for name in ("numpy", "numba")}
    return {
        "python": platform.python_version(),
        **found,
        "cpu": models[0] if models else platform.processor(),
        "cpus": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }
