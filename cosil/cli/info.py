# SPDX-License-Identifier: Apache-2.0
"""`cosil info`: what a packed file holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosil.cli.lib import emit_json, emit_table, json_option, load_network

if TYPE_CHECKING:
    from cosil.packed.network import Node, PackedNetwork
    from cosil.packed.tensor import PackedTensor


@click.command(epilog="Example: cosil info digits.cosil")
@click.argument("net", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def info(net: Path, as_json: bool) -> None:
    """Show the layers of the packed file NET, their formats and sizes, and where it came from."""
    table = describe(load_network(net))
    table["file_bytes"] = net.stat().st_size
    if as_json:
        emit_json(table)
        return
    columns = ("name", "op", "engine", "weight", "format", "bytes", "bits/weight")
    rows = [
        [
            layer["name"],
            layer["op"],
            layer["engine"],
            " x ".join(map(str, layer["weight_shape"])),
            layer["format"],
            layer["bytes"],
            layer["bits_per_weight"],
        ]
        for layer in table["layers"]
    ]
    total = table["total"]
    rows.append(
        ["total", "", "", f"{total['weights']:,}", "", total["bytes"], total["bits_per_weight"]]
    )
    emit_table(columns, rows, title=f"{table['name']}: {_signature(table)}", total=True)
    for key, value in table["provenance"].items():
        click.echo(f"{key}: {_short(value)}")


def describe(network: PackedNetwork) -> dict[str, Any]:
    """Return what `cosil info --json` prints, apart from the size of the file."""
    layers = [_layer(node) for node in network.nodes]
    weights = sum(math.prod(layer["weight_shape"]) for layer in layers if layer["weight_shape"])
    weight_bits = sum(layer["weight_bits"] for layer in layers)
    return {
        "name": network.name,
        "inputs": [
            {"name": value.name, "dtype": value.dtype, "shape": value.shape}
            for value in network.inputs
        ],
        "outputs": network.outputs,
        "layers": layers,
        "total": {
            "bytes": sum(layer["bytes"] for layer in layers),
            "weights": weights,
            "bits_per_weight": weight_bits / weights if weights else None,
        },
        "provenance": dict(network.provenance),
    }


def _layer(node: Node) -> dict[str, Any]:
    from cosil.packed.codecs import stored_bits

    weight = node.tensors.get("weight")
    bits = stored_bits(weight) if weight is not None else 0
    return {
        "name": node.name,
        "op": node.op,
        "engine": node.engine,
        "inputs": node.inputs,
        "weight_shape": weight.shape if weight is not None else (),
        "format": _format(weight) if weight is not None else "",
        "weight_bits": bits,
        "bits_per_weight": bits / math.prod(weight.shape) if weight is not None else None,
        "bytes": sum(-(-stored_bits(tensor) // 8) for tensor in node.tensors.values()),
    }


def _format(weight: PackedTensor) -> str:
    if weight.codec != "int4":
        return weight.codec
    size = weight.params["group_size"]
    return f"int4 {weight.params['encoding']}, {f'groups of {size}' if size else 'per channel'}"


def _signature(table: dict[str, Any]) -> str:
    inputs = ", ".join(
        f"{value['name']} {value['dtype']}({', '.join(str(n or '?') for n in value['shape'])})"
        for value in table["inputs"]
    )
    return f"{inputs} -> {', '.join(table['outputs'])}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
