# SPDX-License-Identifier: Apache-2.0
"""`cosil verilog`: the hardware, packaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cosil.cli.lib import emit_json, emit_table, json_option, load_spec, progress


@click.command(epilog="Example: cosil verilog w4a8.toml -o build/w4a8")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; replaced if cosil wrote it before.",
)  # fmt: skip
@click.option("--name", help="Top module. Default: cosil_ and the engine's name.")
@click.option(
    "--cells/--no-cells", default=True, help="Count cells by Yosys (minutes for a large array)."
)
@json_option
def verilog(spec: Path, output: Path, name: str | None, cells: bool, as_json: bool) -> None:
    """Generate the engine that SPEC, a TOML file, describes.

    Writes Verilog-2001 with AXI4-Stream ports, a FuseSoC core file, the descriptor as Markdown and
    C header, a cocotb smoke test that needs the folder only, lint waivers, and a manifest.
    """
    from cosil.synth.cells import TARGETS
    from cosil.synth.package import write_package

    loaded = load_spec(spec)
    with progress("generating", 3 + (len(TARGETS) if cells else 0)) as advance:
        manifest = write_package(
            loaded, output, name=name, cells=cells, done=lambda step: advance()
        )
    if as_json:
        emit_json(manifest)
        return
    emit_table(
        ("file", "sha256"),
        [(file, digest[:16]) for file, digest in manifest["sha256"].items()],
        title=f"{output}: {manifest['engine']}, top module {manifest['top']}",
    )
    counted: dict[str, dict[str, Any]] = manifest["cells"] or {}
    for target, counts in counted.items():
        cells_of: dict[str, int] = counts["cells"]
        largest = sorted(cells_of, key=lambda cell: -cells_of[cell])[:8]
        listed = ", ".join(f"{cells_of[cell]:,} {cell}" for cell in largest)
        click.echo(f"{target}: {sum(cells_of.values()):,} cells ({listed})")
    if manifest["lint"] is None:
        click.echo("lint: left out, since no Verilator can be had")
