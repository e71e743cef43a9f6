# SPDX-License-Identifier: Apache-2.0
"""`cosil methods`: the compression methods."""

from __future__ import annotations

import click

from cosil.cli.lib import emit_json, emit_table, json_option
from cosil.registry import METHODS


@click.command(epilog="Example: cosil methods")
@json_option
def methods(as_json: bool) -> None:
    """List the compression methods with the formats that they pack into."""
    if as_json:
        emit_json(
            {
                "methods": [
                    {
                        "name": method.name,
                        "summary": method.summary,
                        "formats": method.formats,
                        "engines": method.engines,
                    }
                    for method in METHODS.values()
                ]
            }
        )
        return
    emit_table(
        ("method", "packed formats", "engines", "summary"),
        [
            (method.name, ", ".join(method.formats), ", ".join(method.engines), method.summary)
            for method in METHODS.values()
        ],
    )
