# SPDX-License-Identifier: Apache-2.0
"""`cosil engines`: what there is and where it lives."""

from __future__ import annotations

import click

from cosil.cli.lib import emit_json, emit_table, json_option
from cosil.registry import ENGINES, FACES


@click.command(epilog="Example: cosil engines --json")
@json_option
def engines(as_json: bool) -> None:
    """List the engines with the entry point of each face."""
    if as_json:
        emit_json(
            {
                "engines": [
                    {"name": engine.name, "summary": engine.summary, "faces": engine.faces()}
                    for engine in ENGINES.values()
                ]
            }
        )
        return
    for engine in ENGINES.values():
        emit_table(
            ("face", "entry"),
            [(face, engine.faces()[face]) for face in FACES],
            title=f"{engine.name}: {engine.summary}",
        )
