# SPDX-License-Identifier: Apache-2.0
"""Amaranth to Verilog through pyosys, so that no Yosys program has to be installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Elaboratable

_PASSES = (
    "read_rtlil {source}",
    "proc -nomux -norom",
    "memory_collect",
    # Source lines would tie the text, and every cache keyed by it, to where the checkout lies.
    "attrmap -remove src -remove generator -remove amaranth.hierarchy -remove amaranth.decoding",
    "attrmap -modattr -remove src -remove generator -remove top",
    "write_verilog -norename {target}",
)

# Apart from this process: Yosys logs to file descriptor 1 and ends the process on an error.
_SCRIPT = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.argv[1:]:
    libyosys.run_pass(line, design)
"""


def to_verilog(component: Elaboratable, *, name: str = "top") -> str:
    """Return the Verilog of `component` and all that is below it.

    Parameters
    ----------
    component : Elaboratable
        A component with a signature; its members become ports, levels joined by two underscores.
    name : str
        Name of the top module; modules below are ``name.path``.

    Returns
    -------
    str
        Verilog-2001, the same text for the same design wherever the checkout lies.

    Raises
    ------
    RuntimeError
        If Yosys fails; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(prefix="cosil-verilog-") as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.v")
        source.write_text(rtlil.convert(component, name=name, emit_src=False), encoding="utf-8")
        passes = [line.format(source=source, target=target) for line in _PASSES]
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *passes], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not target.exists():
            raise RuntimeError(f"yosys failed on {name}:\n{(done.stdout + done.stderr)[-4000:]}")
        return target.read_text(encoding="utf-8")
