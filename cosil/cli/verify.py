# SPDX-License-Identifier: Apache-2.0
"""`cosil verify`: reference, simulator and hardware side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosil.cli.lib import emit_json, json_option, load_network, load_spec, progress
from cosil.errors import CosilError

if TYPE_CHECKING:
    from cosil.engines.w4a8 import W4A8Spec
    from cosil.packed.network import Node, PackedNetwork
    from verif.lib.report import Report
    from verif.lib.toolchain import Simulator
    from verif.w4a8.cases import Case

_LAYERED = "w4a8"
"""The engine whose bench can take its jobs from a layer of a network."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: cosil verify w4a8 --network digits.cosil --layer stem.0 --simulator verilator"
)
@click.argument("engine")
@click.option(
    "--spec", "spec_path", type=_FILE,
    help="The engine, TOML. Without it: the bench's small ones, or an 8x8 array for a layer.",
)  # fmt: skip
@click.option(
    "--network", "network_path", type=_FILE,
    help="Packed network to cut a layer from (w4a8 only).",
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
    from cosil.registry import engine as find_engine
    from verif.lib.toolchain import find_simulator

    bench = find_engine(engine).load("bench")
    if engine != _LAYERED and (network_path or layer):
        raise CosilError(
            f"--network and --layer are for {_LAYERED}, not for {engine}", "leave them away"
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
            report, extra = _layer(bench, simulator, network, layer, spec, rows, seed)
        else:
            report = bench.run(simulator, spec=spec, cases=cases, seed=seed, done=advance)
    if as_json:
        emit_json({**report.to_dict(), **extra})
    else:
        _print(report, extra)
    return 0 if report.passed else 1


def _layer(
    bench: Any, simulator: Simulator, network: PackedNetwork, layer: str, spec: W4A8Spec | None,
    rows: int | None, seed: int,
) -> tuple[Report, dict[str, Any]]:  # fmt: skip
    """Return the report of one layer's jobs, and what they were."""
    from cosil.engines.w4a8 import W4A8Spec
    from cosil.machine.spec import VARIANT, Machine

    node = _node(network, layer)
    # A given array has to suit the layer as it is; ours takes the layer's formats.
    machine = Machine(
        "verify", 1e8, spec or W4A8Spec(8, 8), fixed=frozenset(VARIANT if spec else ())
    )
    array = machine.spec_for(node)
    chosen = _cut(machine, network, node, rows, seed)
    report: Report = bench.run(simulator, spec=array, cases=chosen)
    jobs = [job for job, _ in chosen[0].jobs]
    stated = {
        "network": network.name, "layer": layer, "m": jobs[0].m, "n": jobs[0].n, "k": jobs[0].k,
        "jobs": len(jobs), "rows": rows, "cycles": sum(report.whole[0].cycles),
    }  # fmt: skip
    return report, stated


def _node(network: PackedNetwork, layer: str) -> Node:
    for node in network.nodes:
        if node.name == layer and node.engine == _LAYERED:
            return node
    known = [node.name for node in network.nodes if node.engine == _LAYERED]
    raise CosilError(
        f"{network.name} has no layer {layer!r} on the array", f"layers are {', '.join(known)}"
    )


def _cut(
    machine: Any, network: PackedNetwork, node: Node, rows: int | None, seed: int
) -> list[Case]:
    """Return the layer's jobs as cases, after holding their reference to the whole network's."""
    import numpy as np

    from algos.reference.network import Reference
    from algos.reference.w4a8 import reference
    from cosil.lowering.gemm import layer_jobs, layer_output
    from cosil.machine.inputs import random_inputs
    from sim.lib.stalls import patterns
    from sim.vector import add_bias, quantize_rows
    from verif.w4a8.cases import STREAMS, Case

    values: dict[str, Any] = {}

    def observe(name: str, value: Any) -> None:
        if name in (node.name, node.inputs[0]):
            values[name] = value.numpy()

    Reference(network).run(random_inputs(network, seed=seed), observe=observe)
    spec = machine.spec_for(node)
    x = values[node.inputs[0]]
    codes, scales = quantize_rows(x, node.name) if node.attrs["mode"] == "fp16" else (x, None)
    jobs = layer_jobs(spec, node, codes, scales)
    # What the hardware is held to, job by job, is what the network's reference has for the layer.
    results = [reference(spec, *job).numpy() for job in jobs]
    value = layer_output(node, x.shape, [job for job, _ in jobs], results)
    if "bias" in node.tensors:
        value = add_bias(value, node.tensors["bias"].words)
    if not np.array_equal(value, values[node.name], equal_nan=value.dtype.kind == "f"):
        raise CosilError(
            f"layer {node.name!r}: its jobs do not give what the network's reference gives",
            "this is a defect of cosil; please report it with the network",
        )
    if rows is not None:
        jobs = [(replace(job, m=min(job.m, rows)), operands) for job, operands in jobs]
    return [
        Case(f"{node.name}, no stalls", jobs),
        Case(f"{node.name}, random stalls", jobs, patterns("random", seed, STREAMS)),
    ]


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
