# SPDX-License-Identifier: Apache-2.0
"""Equal modules are merged, different ones are not, and the design stays the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # not in the stubs
from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.share import share_modules
from rtl.lib.yosys import run_yosys
from rtl.w4a8.array_os import ArrayOs


class Stage(wiring.Component):
    """A register that adds its input to a constant."""

    i: Signal
    o: Signal

    def __init__(self, constant: int) -> None:
        self._constant = constant
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(8)
        m.d.sync += total.eq(self.i + self._constant)
        # The low half crosses the border apart from the high one.
        m.d.comb += self.o.eq(Cat(total[:4], ~total[4:]))
        return m


class Chain(wiring.Component):
    """Stages one after the other."""

    i: Signal
    o: Signal

    def __init__(self, constants: list[int]) -> None:
        self._constants = constants
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = self.i
        for index, constant in enumerate(self._constants):
            stage = Stage(constant)
            m.submodules[f"stage_{index}"] = stage
            m.d.comb += stage.i.eq(value)
            value = stage.o
        m.d.comb += self.o.eq(value)
        return m


def convert(design: Elaboratable) -> str:
    return rtlil.convert(design, name="top", emit_src=False)


def modules(text: str) -> int:
    return len(re.findall(r"^module ", text, re.MULTILINE))


def assert_equivalent(folder: Path, before: str, after: str) -> None:
    """Prove with Yosys that every register and output of both texts is the same function."""
    (folder / "gold.il").write_text(before)
    (folder / "gate.il").write_text(after)
    passes = [
        command
        for name in ("gold", "gate")
        for command in (
            f"read_rtlil {folder}/{name}.il",
            "hierarchy -check -top top",
            "proc",
            "flatten",
            "opt_clean",
            "memory",
            f"rename top {name}",
            f"design -stash {name}",
        )
    ]
    copy = [f"design -copy-from {name} -as {name} {name}" for name in ("gold", "gate")]
    proof = ["equiv_make gold gate equiv", "hierarchy -top equiv", "opt_clean"]
    run_yosys(
        [*passes, *copy, *proof, "equiv_simple", "equiv_induct", "equiv_status -assert"],
        subject="shared modules",
    )


@pytest.mark.parametrize(
    ("constants", "kinds"), [([1, 1, 1, 1], 1), ([1, 2, 1, 2, 3], 3), ([5], 1)]
)
def test_one_module_per_kind(tmp_path: Path, constants: list[int], kinds: int) -> None:
    """Stages with one constant share a module; the design computes what it did."""
    before = convert(Chain(constants))
    after = share_modules(before)
    assert 1 + len(constants) == modules(before)
    # The first and the last stage may keep a form of their own: their borders differ.
    assert kinds + 1 <= modules(after) <= min(kinds + 3, modules(before))
    assert_equivalent(tmp_path, before, after)


def test_equivalence_is_not_assumed(tmp_path: Path) -> None:
    """The proof that the other tests rely on fails for a changed constant."""
    with pytest.raises(Exception, match="yosys failed"):
        assert_equivalent(tmp_path, convert(Chain([1, 1])), convert(Chain([1, 2])))


def test_elements_of_an_array_share_modules() -> None:
    """A 4x6 array has one module for each kind of element (first, inner, last row and column)."""
    before = convert(ArrayOs(W4A8Spec(4, 6)))
    after = share_modules(before)
    elements = re.compile(r"^module \\top\.pe_\d+_\d+$", re.MULTILINE)
    assert len(elements.findall(before)) == 12
    assert len(elements.findall(after)) <= 6


def test_instances_keep_their_names() -> None:
    """A path through the hierarchy is the same before and after."""
    before = convert(Chain([1, 1, 2]))
    cells = re.compile(r"^  cell \\\S+ (\\stage_\d)$", re.MULTILINE)
    assert cells.findall(before) == cells.findall(share_modules(before))
