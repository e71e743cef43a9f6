# SPDX-License-Identifier: Apache-2.0
"""`cosil info`: what a packed file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cosil.cli.lib import emit_json, emit_table, json_option, load_network


@click.command(epilog="Example: cosil info digits.cosil")
@click.argument("net", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def info(net: Path, as_json: bool) -> None:
    """Show the layers of the packed file NET, their formats and sizes, and where it came from."""
    from cosil.packed.summary import summarise

    summary = summarise(load_network(net))
    if as_json:
        emit_json({**summary.to_dict(), "file_bytes": net.stat().st_size})
        return
    rows = [
        [
            node.name,
            node.op,
            node.engine,
            f"{node.dtype}{_shape(node.shape)}",
            ", ".join(node.codecs),
            node.stored_bytes,
            node.bits_per_weight if node.weights else None,
        ]
        for node in summary.nodes
    ]
    rows.append(["total", "", "", "", "", summary.stored_bytes, summary.bits_per_weight])
    inputs = ", ".join(f"{name} {dtype}{_shape(shape)}" for name, dtype, shape in summary.inputs)
    emit_table(
        ("name", "op", "engine", "output", "tensors", "bytes", "bits/weight"),
        rows,
        title=f"{summary.name}: {inputs} -> {', '.join(summary.outputs)}",
        total=True,
    )
    click.echo(f"weights: {summary.weights:,}; file: {net.stat().st_size:,} bytes")
    for key, value in summary.provenance.items():
        click.echo(f"{key}: {_short(value)}")


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(str(size or '?') for size in shape)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
