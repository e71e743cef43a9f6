# SPDX-License-Identifier: Apache-2.0
"""One definition for equal modules: Amaranth writes one per instance, and every tool pays for each.

Two instances of one component differ in their text by the order of their ports, which follows the
parent's use, and by numbers in the names of ports that Amaranth adds where a net crosses the border
in parts. Both are brought into a form of their own before modules are compared.
"""

from __future__ import annotations

import re

_MODULE = re.compile(
    r"^((?:attribute [^\n]*\n)*)module (\\\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL
)
_CELL = re.compile(r"^  cell (\\\S+) (\S+)$")
_CONNECT = re.compile(r"^    connect (\S+)( .*)$")
_PART = re.compile(r"\\port\$[\w$]+")
_PORT_NUMBER = re.compile(r" (input|output) \d+ ")


class _Body:
    """Contents of a module: wires with their attributes, and all other lines."""

    def __init__(self, text: str) -> None:
        self.wires: list[str] = []
        self.lines: list[str] = []
        attributes: list[str] = []
        for line in text.splitlines():
            if line.startswith("  attribute "):
                attributes.append(line)
            elif line.startswith("  wire "):
                self.wires.append("\n".join([*attributes, line]))
                attributes = []
            elif line.strip():
                self.lines += [*attributes, line]
                attributes = []
        self.names: dict[str, str] = {}
        for line in self.lines:
            connect = _CONNECT.match(line)
            for token in _PART.findall(connect[2] if connect else line):
                self.names.setdefault(token, f"\\part${len(self.names)}")

    def rename(self, text: str) -> str:
        return _PART.sub(lambda m: self.names.get(m[0], m[0]), text)


def share_modules(text: str) -> str:
    """Merge modules whose contents are equal, in RTLIL as Amaranth writes it.

    Instances keep their names, so a path through the hierarchy stays what it was; only the name of
    the module behind it becomes that of the first of its kind.

    Parameters
    ----------
    text : str
        RTLIL of a whole design.

    Returns
    -------
    str
        The same design with one definition of each kind of module.
    """
    found = list(_MODULE.finditer(text))
    parsed = {match[2]: _Body(match[3]) for match in found}
    top = found[0][2]
    # The ports of the top module are the interface; its parts keep their names.
    parsed[top].names = {}
    bodies = {name: _canonical(body, parsed) for name, body in parsed.items()}
    stands_for: dict[str, str] = {}
    while merged := _equal(bodies):
        # Modules become equal once those below them are: one round per level of the hierarchy.
        stands_for |= merged
        for name in merged:
            del bodies[name]
        for name, lines in bodies.items():
            bodies[name] = tuple(_point(line, merged) for line in lines)
    modules = [
        "\n".join([f"{match[1]}module {match[2]}", *bodies[match[2]], "end", ""])
        for match in found
        if match[2] in bodies
    ]
    return text[: found[0].start()] + "\n".join(modules) + text[found[-1].end() :]


def _canonical(body: _Body, parsed: dict[str, _Body]) -> tuple[str, ...]:
    """Return the lines with wires in order of name, ports numbered in that order, parts renamed."""
    # Sorted by the line that declares the wire, without the number that is being replaced.
    wires = sorted(
        (body.rename(wire) for wire in body.wires),
        key=lambda wire: wire.rsplit("\n", 1)[-1].rsplit(" ", 1)[-1],
    )
    ports = 0
    numbered: list[str] = []
    for wire in wires:
        renumbered, count = _PORT_NUMBER.subn(rf" \1 {ports} ", wire)
        ports += count
        numbered += renumbered.splitlines()
    lines: list[str] = []
    child: _Body | None = None
    for line in body.lines:
        cell, connect = _CELL.match(line), _CONNECT.match(line)
        if cell:
            child = parsed.get(cell[1])
        if connect:
            port = child.rename(connect[1]) if child else connect[1]
            lines.append(f"    connect {port}{body.rename(connect[2])}")
        else:
            lines.append(body.rename(line))
    return (*numbered, *lines)


def _equal(bodies: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return, for each module that repeats an earlier one, the earlier one's name."""
    first: dict[tuple[str, ...], str] = {}
    kept = {name: first.setdefault(lines, name) for name, lines in bodies.items()}
    return {name: other for name, other in kept.items() if other != name}


def _point(line: str, merged: dict[str, str]) -> str:
    cell = _CELL.match(line)
    return f"  cell {merged[cell[1]]} {cell[2]}" if cell and cell[1] in merged else line
