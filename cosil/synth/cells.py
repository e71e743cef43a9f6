# SPDX-License-Identifier: Apache-2.0
"""Cell counts of a Verilog design by Yosys."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtl.lib.yosys import run_yosys

TARGETS = ("gates", "ecp5")


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Cells of a synthesised design.

    Attributes
    ----------
    target : {"gates", "ecp5"}
        What it was mapped to: Yosys' own one-bit gates, or Lattice ECP5.
    cells : mapping of str to int
        Cell type -> number, in the whole design.
    memory_bits : int
        gates: bits in memories, which stay memories there. ecp5: 0, since they are among the cells.
    """

    target: str
    cells: Mapping[str, int]
    memory_bits: int

    @property
    def multipliers(self) -> int:
        """ECP5's 18 x 18 multiplier blocks."""
        return self.cells.get("MULT18X18D", 0)


# Up to `fine`, synth knows words; memories are left as they are, since in flip-flops they would be
# most of the count and would be built so by nobody.
_GATES = (
    "hierarchy -top {top}",
    "proc",
    "flatten",
    "opt_clean",
    "tee -q -o {memories} stat -json",
    "synth -flatten -noshare -top {top} -run :fine",
    "opt -fast -full",
    "opt_clean",
    "techmap",
    "opt -fast",
    "opt_clean",
    "tee -q -o {stat} stat -json",
)
_ECP5 = ("synth_ecp5 -top {top} -json {netlist}", "tee -q -o {stat} stat -json")


def count_cells(
    verilog: str, top: str, target: str = "gates", *, netlist: Path | None = None
) -> CellCounts:
    """Synthesise a design and count its cells.

    Parameters
    ----------
    verilog : str
        Source text of the whole design.
    top : str
        Its top module.
    target : {"gates", "ecp5"}
        gates: Yosys' one-bit cells before technology mapping, word arithmetic expanded by `techmap`
        (adders as look-ahead carry), no abc. ecp5: `synth_ecp5`.
    netlist : Path, optional
        ecp5: keep the netlist in this file, for place and route.

    Raises
    ------
    ValueError
        If the target is unknown.
    ToolFailedError
        If Yosys fails.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")
    with tempfile.TemporaryDirectory(prefix="cosil-synth-") as folder:
        source, stat = Path(folder, "design.v"), Path(folder, "stat.json")
        memories = Path(folder, "memories.json")
        source.write_text(verilog, encoding="utf-8")
        kept = netlist or Path(folder, "netlist.json")
        passes = [
            f"read_verilog {source}",
            *(
                line.format(top=top, stat=stat, memories=memories, netlist=kept)
                for line in (_GATES if target == "gates" else _ECP5)
            ),
        ]
        run_yosys(passes, subject=top)
        design = _design(stat)
        memory_bits = int(_design(memories)["num_memory_bits"]) if target == "gates" else 0
    # `$scopeinfo` only says where a flattened cell came from.
    cells = {
        name: count
        for name, count in sorted(design["num_cells_by_type"].items())
        if name != "$scopeinfo"
    }
    return CellCounts(target, cells, memory_bits)


def _design(stat: Path) -> dict[str, Any]:
    return json.loads(stat.read_text(encoding="utf-8"))["design"]
