# SPDX-License-Identifier: Apache-2.0
"""`cosil verilog`: the hardware, packaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cosil.cli.lib import (
    emit_json,
    emit_table,
    find_node,
    json_option,
    load_network,
    load_spec,
    progress,
)
from cosil.errors import CosilError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: cosil verilog w4a8.toml -o build/w4a8, or cosil verilog -o build/pim "
    "--machine pim-144x256-flash --network digits.cosil --layer body.0"
)
@click.argument("spec", required=False, type=_FILE)
@click.option("--machine", help="Instead of SPEC: a TOML file or a preset, whose engine it is.")
@click.option("--network", "network_path", type=_FILE, help="With --machine: a packed network.")
@click.option("--layer", help="With --machine: the layer that the engine runs.")
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; replaced if cosil wrote it before.",
)  # fmt: skip
@click.option("--name", help="Top module. Default: cosil_ and the engine's name.")
@click.option(
    "--cells/--no-cells", default=True, help="Count cells by Yosys (minutes for a large array)."
)
@json_option
def verilog(
    spec: Path | None,
    machine: str | None,
    network_path: Path | None,
    layer: str | None,
    output: Path,
    name: str | None,
    cells: bool,
    as_json: bool,
) -> None:
    """Generate the engine that SPEC, a TOML file, describes, or that runs a layer on a machine.

    Writes Verilog-2001 with AXI4-Stream ports, a FuseSoC core file, the descriptor as Markdown and
    C header, a cocotb smoke test that needs the folder only, lint waivers, and a manifest.
    """
    from cosil.synth.cells import TARGETS
    from cosil.synth.package import write_package

    if spec is not None and not (machine or network_path or layer):
        loaded = load_spec(spec)
    elif spec is None and machine and network_path and layer:
        loaded = _of_layer(machine, network_path, layer)
    else:
        raise CosilError(
            "give either SPEC, or --machine, --network and --layer",
            "cosil verilog --help has an example of both",
        )
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


def _of_layer(machine_name: str, network_path: Path, layer: str) -> Any:
    """Return the spec of the engine as `cosil simulate` uses it for a layer."""
    from cosil.machine.execute import engine_for
    from cosil.machine.spec import load_machine

    network = load_network(network_path)
    return engine_for(load_machine(machine_name), network, find_node(network, layer))
