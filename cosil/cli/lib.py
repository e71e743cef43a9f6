# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: tables, JSON, progress bars, reading specs and networks."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cosil.errors import CosilError

if TYPE_CHECKING:
    from cosil.packed.network import Node, PackedNetwork

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Add ``--json`` as the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md).")(
        function
    )


def emit_json(value: Any) -> None:
    """Print `value` as JSON; NumPy scalars and arrays become numbers and lists, paths strings."""
    click.echo(json.dumps(value, indent=2, default=_plain, allow_nan=False))


def emit_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", total: bool = False
) -> None:
    """Print a table: with lines on a terminal, aligned text elsewhere.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequences
        Cells; numbers are aligned to the right, integers get thousands separators, None is empty.
    title : str
        Printed above.
    total : bool
        Set the last row apart.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) and bool(rows)
        for i in range(len(columns))
    ]
    if sys.stdout.isatty():
        _rich_table(columns, cells, right, title, total)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if title:
        click.echo(title)
    for row in ([*columns], *cells):
        aligned = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


@contextmanager
def progress(description: str, total: int) -> Generator[Callable[[], None]]:
    """Show a bar on stderr while the block runs; yield the function that advances it by one.

    Nothing is drawn where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance() -> None:
            bar.advance(task)

        yield advance


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    CosilError
        If it is not TOML; the message names the file and the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CosilError(f"{path} is not TOML: {error}") from error


def load_spec(path: Path, engine: str | None = None) -> Any:
    """Read an engine's spec; the file's key ``engine`` says which.

    Raises
    ------
    CosilError
        If it is no spec, or not one of the engine that is asked for.
    """
    from cosil.registry import spec_from_table

    table = load_toml(path)
    if engine is not None and table.get("engine", engine) != engine:
        raise CosilError(f"{path}: engine must be {engine!r}, not {table['engine']!r}")
    try:
        return spec_from_table(table)
    except CosilError as error:
        raise CosilError(f"{path}: {error}", error.hint) from error
    except (ValueError, TypeError) as error:
        raise CosilError(f"{path}: {error}") from error


def load_network(path: Path) -> PackedNetwork:
    """Read a packed network; a malformed file is refused with the tensor and the broken rule."""
    from cosil.packed.file import load

    return load(path)


def find_node(network: PackedNetwork, layer: str, engine: str = "") -> Node:
    """Return the node of that name on an engine, or on any but the vector unit.

    Raises
    ------
    CosilError
        If there is none; the message lists those that there are.
    """
    from cosil.registry import ENGINES

    known = [node for node in network.nodes if node.engine in ENGINES]
    known = [node for node in known if engine in ("", node.engine)]
    for node in known:
        if node.name == layer:
            return node
    names = ", ".join(node.name for node in known)
    where = f" on engine {engine}" if engine else " on an engine"
    raise CosilError(
        f"{network.name} has no layer {layer!r}{where}",
        f"layers are {names}" if known else "it has none there",
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {value!r}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return str(value)


def _rich_table(
    columns: Sequence[str], cells: list[list[str]], right: list[bool], title: str, total: bool
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left")
    for heading, to_right in zip(columns, right, strict=True):
        drawn.add_column(heading, justify="right" if to_right else "left")
    for index, row in enumerate(cells):
        if total and index == len(cells) - 1:
            drawn.add_section()
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


def _nothing() -> None:
    pass
