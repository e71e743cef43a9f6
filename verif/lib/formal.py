# SPDX-License-Identifier: Apache-2.0
"""Unbounded proofs by k-induction, of the stream rules above all, with Yosys's SAT solver."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # not in the stubs
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.yosys import run_yosys
from verif.lib.harness import stream_ports

_PASSES = (
    "read_rtlil {source}",
    "hierarchy -check -top proof",
    "proc",
    "flatten",
    "{keep}",
    "opt -full",
    "memory -nomap",
    "memory_map",
    "opt -full",
    "clean",
)
_PROVED = "Induction step proven: SUCCESS!"
_REFUTED = "model found for base case: FAIL!"
_LENGTH = re.compile(r"Trying induction with length (\d+)")


@dataclass(frozen=True, slots=True)
class Proof:
    """Outcome of an attempt.

    Attributes
    ----------
    proved : bool
        The property holds in every cycle after reset, for every input.
    length : int
        Length of the induction at which the attempt ended.
    refuted : bool
        A run from reset that breaks the property was found.
    log : str
        Yosys's log.
    """

    proved: bool
    length: int
    refuted: bool
    log: str


class StreamRules(wiring.Component):
    """A device and a watch on every stream that it offers.

    Every input is free in every cycle, reset included. A stream breaks the rules where a beat that
    was offered and not taken is withdrawn or changes its payload.

    Parameters
    ----------
    device : Component
        Members that are no streams are left alone if they are outputs, and free if they are inputs.

    Members
    -------
    broken : Out(1)
        In this cycle some stream breaks the rules.
    """

    broken: Signal

    def __init__(self, device: Any) -> None:
        self._device = device
        self._ports = stream_ports(device)
        members: dict[str, Any] = {"broken": Out(1)}
        for port in self._ports:
            if port.sink:
                members |= {port.name: In(port.width), f"{port.name}_valid": In(1)}
            else:
                members[f"{port.name}_ready"] = In(1)
        for name, member in device.signature.members.items():
            if member.is_port and member.flow == In:
                members[name] = In(member.shape)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Drive the device from free inputs and watch what it offers."""
        m = Module()
        m.submodules.device = device = self._device
        for name, member in device.signature.members.items():
            if member.is_port and member.flow == In:
                m.d.comb += getattr(device, name).eq(getattr(self, name))
        broken: list[Value] = []
        for port in self._ports:
            inner = getattr(device, port.name)
            payload = Value.cast(inner.payload)
            if port.sink:
                m.d.comb += [
                    payload.eq(getattr(self, port.name)),
                    inner.valid.eq(getattr(self, f"{port.name}_valid")),
                ]
                continue
            ready = getattr(self, f"{port.name}_ready")
            waiting = Signal(name=f"{port.name}_waiting")
            before = Signal(port.width, name=f"{port.name}_before")
            m.d.comb += inner.ready.eq(ready)
            m.d.sync += [waiting.eq(inner.valid & ~ready), before.eq(payload)]
            broken.append(waiting & (~inner.valid | (payload != before)))
        m.d.comb += self.broken.eq(Value.cast(sum(broken, start=Value.cast(0))) != 0)
        return m


def prove(
    checker: Any,
    *,
    subject: str,
    invariants: Sequence[tuple[str, str]] = (),
    max_length: int = 8,
) -> Proof:
    """Try to prove that the output `broken` of a component is 0 in every cycle after reset.

    Parameters
    ----------
    checker : Component
        Small enough for its memories to become registers; its inputs are free in every cycle.
    subject : str
        What is proved, for the error message.
    invariants : sequence of (str, str)
        Pairs of a signal and another or a constant that are equal in every cycle, the first by its
        name below the checker, the second as Yosys knows it. They are proved along, which makes the
        induction go through where the property alone does not imply itself.
    max_length : int
        Longest induction to try.

    Raises
    ------
    ToolFailedError
        If Yosys fails for another reason than the property.
    """
    with tempfile.TemporaryDirectory(prefix="cosil-proof-") as folder:
        source = Path(folder, "proof.il")
        source.write_text(rtlil.convert(checker, name="proof", emit_src=False), encoding="utf-8")
        equal = "".join(f" -prove {a} {b}" for a, b in invariants)
        solve = f"sat -tempinduct -prove broken 0{equal} -maxsteps {max_length}"
        # Yosys drops or renames what nothing reads, unless told to keep it.
        keep = " ".join(["setattr -set keep 1", *(f"w:{a}" for a, _ in invariants)])
        passes = [line.format(source=source, keep=keep if invariants else "") for line in _PASSES]
        log = run_yosys([*passes, solve], subject=subject)
    lengths = [int(length) for length in _LENGTH.findall(log)]
    return Proof(_PROVED in log, max(lengths, default=0), _REFUTED in log, log)


def prove_stream_rules(
    device: Any, *, invariants: Sequence[tuple[str, str]] = (), max_length: int = 8
) -> Proof:
    """Try to prove that every stream that `device` offers keeps its beats until they are taken.

    Parameters
    ----------
    device : Component
        Amaranth component, small enough for its memories to become registers.
    invariants : sequence of (str, str)
        Pairs of a signal and another or a constant that are equal in every cycle, the first by its
        name below the device, the second as Yosys knows it. They are proved along, which makes the
        induction go through where the rules alone do not imply themselves.
    max_length : int
        Longest induction to try.

    Raises
    ------
    ToolFailedError
        If Yosys fails for another reason than the property.
    """
    return prove(
        StreamRules(device),
        subject="a proof of the stream rules",
        invariants=[(f"device.{a}", b) for a, b in invariants],
        max_length=max_length,
    )
