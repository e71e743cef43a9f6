# SPDX-License-Identifier: Apache-2.0
"""Amaranth to Verilog through pyosys, so that no Yosys program has to be installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # not in the stubs
from amaranth.hdl import Elaboratable

from rtl.lib.share import share_modules
from rtl.lib.yosys import run_yosys

_PASSES = (
    "read_rtlil {source}",
    "proc -nomux -norom",
    "memory_collect",
    # Source lines would tie the text, and every cache keyed by it, to where the checkout lies.
    "attrmap -remove src -remove generator -remove amaranth.hierarchy -remove amaranth.decoding",
    "attrmap -modattr -remove src -remove generator -remove top",
    "write_verilog -norename {target}",
)

# For people and other tools: no processes with initial blocks that only Yosys writes, no wires that
# nothing reads, widths made explicit where they can be.
_CLEAN_PASSES = (
    "read_rtlil {source}",
    "proc",
    "opt -full -purge",
    "wreduce -keepdc",
    "opt_clean -purge",
    "memory_collect",
    "opt_clean -purge",
    "write_verilog -noattr {target}",
)


def to_verilog(component: Elaboratable, *, name: str = "top", clean: bool = False) -> str:
    """Return the Verilog of `component` and all that is below it.

    Parameters
    ----------
    component : Elaboratable
        A component with a signature; its members become ports, levels joined by two underscores.
    name : str
        Name of the top module; modules below are ``name.path``.
    clean : bool
        Optimise and drop what nothing reads: the text that is given away. Otherwise every
        signal keeps its name, for debugging and for monitors.

    Returns
    -------
    str
        Verilog-2001, the same text for the same design wherever the checkout lies.

    Raises
    ------
    ToolFailedError
        If Yosys fails; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(prefix="cosil-verilog-") as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.v")
        design = share_modules(rtlil.convert(component, name=name, emit_src=False))
        source.write_text(design, encoding="utf-8")
        passes = [
            line.format(source=source, target=target)
            for line in (_CLEAN_PASSES if clean else _PASSES)
        ]
        run_yosys(passes, subject=name)
        return target.read_text(encoding="utf-8")
