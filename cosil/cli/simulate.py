# SPDX-License-Identifier: Apache-2.0
"""`cosil simulate`: a packed network, or a workload of counts, on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosil.cli.lib import emit_json, emit_table, json_option, load_network, progress
from cosil.errors import CosilError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosil.packed.network import PackedNetwork

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog="Example: cosil simulate digits.cosil --machine w4a8-16x16-os --check")
@click.argument("net", type=_FILE, required=False)
@click.option(
    "--machine", "machine_name", required=True, metavar="M.toml",
    help="TOML file or preset: w4a8-16x16-os, -ws, -attention, w4a8-8x8-ecp5, spatten-512, "
    "pim-144x256-flash, -sar, xnor-32x64.",
)  # fmt: skip
@click.option(
    "--workload", "workload_path", type=_FILE,
    help="Attention rows by their counts (CSV) in place of a network, on synthetic values.",
)  # fmt: skip
@click.option("--input", "input_path", type=_FILE, help="Input: .npy, or .npz by input name.")
@click.option("--data", metavar="MODEL", help="Input from the evaluation data of a named model.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option("--length", default=32, show_default=True, type=click.IntRange(1), help="Tokens.")
@click.option("--seed", default=0, show_default=True, help="Of random input (the default).")
@click.option("--check", "wants_check", is_flag=True, help="Compare every layer to the reference.")
@click.option("--trace", "trace_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a Perfetto / Chrome trace.")  # fmt: skip
@click.option("--plot", "plot_folder", type=click.Path(file_okay=False, path_type=Path),
              help="Write figures to this folder.")  # fmt: skip
@json_option
def simulate(
    net: Path | None,
    machine_name: str,
    workload_path: Path | None,
    input_path: Path | None,
    data: str | None,
    batch: int,
    length: int,
    seed: int,
    wants_check: bool,
    trace_path: Path | None,
    plot_folder: Path | None,
    as_json: bool,
) -> None:
    """Run the packed network NET on a machine: cycles, causes, utilisation, bytes, energy by layer.

    Without --input or --data the input is random; cycles, counts and energy do not depend on it.
    With --workload in place of NET, the rows of a file run on the machine's attention engine.
    """
    if workload_path is not None:
        refused = (net, input_path, data, trace_path)
        if any(each is not None for each in refused) or wants_check:
            raise CosilError(
                "--workload goes with --machine, --seed, --plot and --json only",
                "leave NET and the other options away",
            )
        _workload(workload_path, machine_name, seed or 1, plot_folder, as_json)
        return
    if net is None:
        raise CosilError("simulate needs NET or --workload", "cosil simulate --help")
    from cosil.machine.check import check
    from cosil.machine.execute import execute
    from cosil.machine.spec import load_machine
    from cosil.machine.summary import COLUMNS, closing_lines, rows, to_dict

    machine = load_machine(machine_name)
    network = load_network(net)
    inputs = _inputs(network, input_path, data, batch, length, seed)
    values: dict[str, NDArray[Any]] = {}
    with progress(f"{network.name} on {machine.name}", len(network.nodes)) as advance:

        def observe(name: str, value: NDArray[Any]) -> None:
            if wants_check:
                values[name] = value
            advance()

        run = execute(machine, network, inputs, trace=trace_path is not None, observe=observe)
    outcome = check(network, inputs, values) if wants_check else None
    written: list[Path] = []
    if trace_path is not None:
        from cosil.machine.trace import write_trace

        write_trace(run, trace_path)
        written.append(trace_path)
    if plot_folder is not None:
        from cosil.machine.plots import write_plots

        written += write_plots(run, plot_folder)
    if as_json:
        emit_json(to_dict(run, outcome))
    else:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        emit_table(
            COLUMNS, rows(run), title=f"{network.name} on {machine.name}: {shapes}", total=True
        )
        for line in closing_lines(run):
            click.echo(line)
        for path in written:
            click.echo(f"wrote {path}")
        if outcome is not None and outcome.equal:
            click.echo(
                f"check: all {outcome.layers} nodes equal the reference "
                f"({outcome.elements:,} values, bit by bit)"
            )
    if outcome is not None and not outcome.equal:
        for line in outcome.differences[:10]:
            click.echo(f"check: {line}", err=True)
        raise SystemExit(1)


def _workload(
    path: Path, machine_name: str, seed: int, plot_folder: Path | None, as_json: bool
) -> None:
    """Run a workload file and print what it took."""
    from cosil.lowering.workload import passes, read_workload
    from cosil.machine.spec import load_machine
    from cosil.machine.summary import COLUMNS, workload_lines, workload_to_dict
    from cosil.machine.summary import rows as table_rows
    from cosil.machine.workload import run_workload

    machine = load_machine(machine_name)
    rows = read_workload(path)
    count = sum(1 for _ in passes(rows))
    with progress(f"{path.name} on {machine.name}", count) as advance:
        run = run_workload(machine, rows, source=str(path), seed=seed, done=advance)
    written: list[Path] = []
    if plot_folder is not None:
        from cosil.machine.plots import write_plots

        written = write_plots(run, plot_folder)
    if as_json:
        emit_json(workload_to_dict(run))
        return
    emit_table(COLUMNS, table_rows(run), title=f"{path.name} on {machine.name}", total=True)
    for line in workload_lines(run):
        click.echo(line)
    for figure in written:
        click.echo(f"wrote {figure}")


def _inputs(
    network: PackedNetwork,
    input_path: Path | None,
    data: str | None,
    batch: int,
    length: int,
    seed: int,
) -> dict[str, NDArray[Any]]:
    from cosil.machine.inputs import bind, random_inputs, read_input

    if input_path is not None and data is not None:
        raise CosilError("--input and --data exclude each other", "leave one of them out")
    if input_path is not None:
        arrays = read_input(network, input_path)
    elif data is not None:
        arrays = _from_data(network, data, batch)
    else:
        return random_inputs(network, batch=batch, length=length, seed=seed)
    try:
        return bind(network, arrays)
    except (TypeError, ValueError) as error:
        raise CosilError(str(error)) from error


def _from_data(network: PackedNetwork, name: str, batch: int) -> dict[str, NDArray[Any]]:
    """Return the first evaluation samples of a named model's task."""
    from algos.models.registry import load_model

    first = next(iter(load_model(name).task.batches(batch)))
    return {network.inputs[0].name: first.inputs[:batch].numpy()}
