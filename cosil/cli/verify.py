# SPDX-License-Identifier: Apache-2.0
"""`cosil verify`: reference, simulator and hardware side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosil.cli.lib import emit_json, find_node, json_option, load_network, load_spec, progress
from cosil.errors import CosilError

if TYPE_CHECKING:
    from cosil.packed.network import Node, PackedNetwork
    from verif.lib.report import Report
    from verif.lib.toolchain import Simulator

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: cosil verify w4a8 --network digits.cosil --layer stem.0 --simulator verilator"
)
@click.argument("engine")
@click.option(
    "--spec", "spec_path", type=_FILE,
    help="The engine, TOML. Without it: the bench's small ones, or one that suits the layer.",
)  # fmt: skip
@click.option(
    "--network", "network_path", type=_FILE,
    help="Packed network to cut a layer from (a linear or conv2d layer).",
)  # fmt: skip
@click.option("--layer", help="Name of a linear or conv2d node.")
@click.option(
    "--rows", type=click.IntRange(1),
    help="Only that many rows of the layer's matrix product. Default: the whole layer.",
)  # fmt: skip
@click.option(
    "--cases", default=52, show_default=True, type=click.IntRange(1),
    help="Random cases for each spec; not with --network.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of random cases and random input.")
@click.option(
    "--simulator", "simulator_name", type=click.Choice(["verilator", "icarus"]),
    help="Default: Verilator, or Icarus where it cannot be had.",
)  # fmt: skip
@json_option
def verify(
    engine: str,
    spec_path: Path | None,
    network_path: Path | None,
    layer: str | None,
    rows: int | None,
    cases: int,
    seed: int,
    simulator_name: str | None,
    as_json: bool,
) -> int:
    """Run the bench of ENGINE: bits, cycles and action counts, then hardware that is broken.

    With --network and --layer, the jobs are those of one layer of a packed network on random input
    to the network, without stalls and with random ones. The exit code is 1 on any difference, and
    for broken hardware that is not caught.
    """
    from cosil.cli.layers import LAYERED
    from cosil.registry import engine as find_engine
    from verif.lib.toolchain import find_simulator

    bench = find_engine(engine).load("bench")
    if engine not in LAYERED and (network_path or layer):
        raise CosilError(
            f"--network and --layer are for {', '.join(LAYERED)}, not for {engine}",
            "leave them away",
        )
    if (network_path is None) != (layer is None):
        raise CosilError("--network and --layer go together", "give both or neither")
    if rows is not None and layer is None:
        raise CosilError("--rows is for a layer", "add --network and --layer")
    simulator = find_simulator(simulator_name)
    spec = load_spec(spec_path, engine) if spec_path else None
    extra: dict[str, Any] = {}
    built = 1 if spec or layer else len(bench.SMALL)
    with progress(f"{engine} on {simulator.name}", built) as advance:
        if network_path is not None and layer is not None:
            network = load_network(network_path)
            node = find_node(network, layer, engine)
            report, extra = _layer(bench, simulator, network, node, spec, rows, seed)
        else:
            report = bench.run(simulator, spec=spec, cases=cases, seed=seed, done=advance)
    if as_json:
        emit_json({**report.to_dict(), **extra})
    else:
        _print(report, extra)
    return 0 if report.passed else 1


def _layer(
    bench: Any, simulator: Simulator, network: PackedNetwork, node: Node, spec: Any | None,
    rows: int | None, seed: int,
) -> tuple[Report, dict[str, Any]]:  # fmt: skip
    """Return the report of one layer's jobs, and what they were."""
    from cosil.cli.layers import layer_jobs
    from cosil.registry import resolve
    from sim.lib.stalls import patterns

    lowered = layer_jobs(network, node, spec, seed)
    if rows is not None:
        lowered = lowered.first_rows(rows)
    bench_cases = resolve(f"verif.{node.engine}.cases")
    cases = [
        bench_cases.Case(f"{node.name}, no stalls", lowered.jobs),
        bench_cases.Case(
            f"{node.name}, random stalls",
            lowered.jobs,
            patterns("random", seed, bench_cases.STREAMS),
        ),
    ]
    report: Report = bench.run(simulator, spec=lowered.spec, cases=cases)
    first = lowered.jobs[0][0]
    stated = {
        "network": network.name, "layer": node.name, "m": first.m, "n": first.n, "k": first.k,
        "jobs": len(lowered.jobs), "rows": rows, "cycles": sum(report.whole[0].cycles),
    }  # fmt: skip
    return report, stated


def _print(report: Report, extra: dict[str, Any]) -> None:
    said = report.to_dict()
    if extra:
        click.echo(
            f"{extra['network']}, layer {extra['layer']}: {extra['jobs']} job(s) of "
            f"M x N x K = {extra['m']} x {extra['n']} x {extra['k']}, {extra['cycles']:,} cycles"
        )
    for what in ("bits", "cycles", "counts"):
        equal = "equal" if said[f"{what}_equal"] else "DIFFERENT"
        click.echo(f"{what:7} {equal} in {said['cases']} cases")
    if not said["protocol_kept"]:
        click.echo("streams BREAK the rules")
    mutants = said["mutants"]
    click.echo(f"mutants {mutants['caught']} of {mutants['total']} caught")
    for outcome in report.failed[:5]:
        click.echo(f"{outcome.name}: {'; '.join(outcome.verdict.messages)}")
    for outcome in report.missed[:5]:
        click.echo(f"not caught: {outcome.name}")
    click.echo(f"{said['engine']} on {said['simulator']}, {said['seconds']:.1f} s")
