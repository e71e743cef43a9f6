# SPDX-License-Identifier: Apache-2.0
"""`cosil verify` as a user calls it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.fuzz_networks import pim_layer, xnor, xnor_layer
from cosil.cli import cli
from cosil.cli.layers import layer_jobs
from cosil.engines.pim import PimSpec
from cosil.engines.xnor import XnorSpec
from cosil.errors import CosilError
from cosil.packed import int4, raw
from cosil.packed.file import load, save
from cosil.packed.network import Node, PackedNetwork, Value
from verif.pim.specs import SMALL as PIM
from verif.topk.specs import SMALL as TOPK
from verif.w4a8.specs import SMALL
from verif.xnor.specs import SMALL as XNOR


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["verify", *arguments])
    return result.exit_code, result.output


def _network(path: Path) -> Path:
    """Save a linear layer of 11 outputs and 20 inputs in front of nothing."""
    rng = np.random.default_rng(3)
    weight = int4.encode(rng.integers(-8, 8, (11, 20)), encoding="twos")
    column = np.uint64(5) | np.uint64(0x9000) << np.uint64(32) | np.uint64(22) << np.uint64(48)
    epilogue = raw.encode(np.full(11, column, dtype=np.uint64))
    node = Node(
        "head", "linear", ("x",), {"mode": "fixed", "relu": True},
        {"weight": weight, "epilogue": epilogue}, "w4a8",
    )  # fmt: skip
    save(PackedNetwork("tiny", (Value("x", "i8", (20,)),), (node,), ("head",)), path)
    return path


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_1")
def test_layer_of_a_packed_network(tmp_path: Path) -> None:
    """A whole layer, cut from a file, equals the reference in RTL, and the JSON says so."""
    spec = tmp_path / "array.toml"
    spec.write_text(SMALL["os-channel-fixed"].to_toml(), encoding="utf-8")
    network = _network(tmp_path / "net.cosil")
    code, output = _run(
        "w4a8", "--spec", str(spec), "--network", str(network), "--layer", "head", "--json"
    )
    assert code == 0, output
    said = json.loads(output)
    assert [said[f"{what}_equal"] for what in ("bits", "cycles", "counts")] == [True] * 3
    assert (said["cases"], said["layer"], said["n"], said["k"]) == (2, "head", 11, 20)
    # The array has eight streams without group scales and row scales.
    assert said["mutants"] == {"caught": 32, "total": 32}


def _pim_network(path: Path, **attrs: Any) -> Path:
    """Save a linear layer on the PIM macro with 7 outputs in two tiles and three row groups."""
    spec = PIM["serial-shared"]
    names = ("weight_bits", "activation_bits", "slice_bits", "adc_bits", "columns", "mux")
    suited = {name: getattr(spec, name) for name in names} | attrs
    layer = pim_layer(np.random.default_rng(5), 7, 150, wide=True, group_rows=65, **suited)
    node = Node("head", "linear", ("x",), *layer, "pim")
    save(PackedNetwork("tiny", (Value("x", "i8", (150,)),), (node,), ("head",)), path)
    return path


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_0")
def test_layer_on_the_macro(tmp_path: Path) -> None:
    """A layer with noise and columns of its own, in two tiles, equals the reference in RTL."""
    network = _pim_network(tmp_path / "net.cosil", noise=0.5, errors=True)
    spec = tmp_path / "macro.toml"
    spec.write_text(PIM["serial-shared"].to_toml(), encoding="utf-8")
    arguments = ("--network", str(network), "--layer", "head", "--spec", str(spec))
    code, output = _run("pim", *arguments, "--json")
    assert code == 0, output
    said = json.loads(output)
    assert [said[f"{what}_equal"] for what in ("bits", "cycles", "counts")] == [True] * 3
    assert (said["cases"], said["jobs"], said["n"], said["k"]) == (2, 2, 4, 150)
    assert said["mutants"]["caught"] == said["mutants"]["total"] > 28
    spec.write_text(PIM["native"].to_toml(), encoding="utf-8")
    code, output = _run("pim", *arguments)
    assert code == 2
    assert "layer 'head' needs a macro with decomposition = 'bit_serial', not 'native'" in output


@pytest.mark.parametrize(
    ("attrs", "columns", "mux"), [({}, 12, 3), ({"noise": 0.5}, 24, 6), ({"errors": True}, 24, 6)]
)
def test_macro_for_a_layer_is_small_if_it_may_be(
    tmp_path: Path, attrs: dict[str, Any], columns: int, mux: int
) -> None:
    """Without a spec, the layer's columns and ADCs are kept only where columns differ."""
    network = load(_pim_network(tmp_path / "net.cosil", columns=24, **attrs))
    lowered = layer_jobs(network, network.nodes[0], None, seed=1)
    assert (lowered.spec.columns, lowered.spec.mux) == (columns, mux)
    assert sum(job.n for job, _ in lowered.jobs) == 7
    first = lowered.first_rows(1)
    assert [job.m for job, _ in first.jobs] == [1] * len(lowered.jobs)
    assert all(operands.x.shape == (1, 150) for _, operands in first.jobs)


@pytest.mark.cosim
@pytest.mark.xdist_group("bench_0")
def test_layer_on_the_xnor_array(tmp_path: Path) -> None:
    """A zero-padded, pooled convolution, in two jobs, equals the reference in RTL."""
    attrs = {"kernel": [3, 3], "padding": [1, 1], "pool": [2, 2]}
    layer = xnor_layer(np.random.default_rng(5), 17, 72, **attrs)
    node = Node("conv", "conv2d", ("x",), *layer, "xnor")
    network = tmp_path / "net.cosil"
    save(PackedNetwork("tiny", (Value("x", "i8", (8, 6, 6)),), (node,), ("conv",)), network)
    spec = tmp_path / "array.toml"
    spec.write_text(XNOR["binary"].to_toml(), encoding="utf-8")
    arguments = ("--network", str(network), "--layer", "conv", "--spec", str(spec), "--rows", "18")
    code, output = _run("xnor", *arguments, "--json")
    assert code == 0, output
    said = json.loads(output)
    assert [said[f"{what}_equal"] for what in ("bits", "cycles", "counts")] == [True] * 3
    assert (said["cases"], said["jobs"], said["m"], said["n"], said["k"]) == (2, 2, 16, 14, 72)
    assert said["mutants"]["caught"] == said["mutants"]["total"] > 24
    spec.write_text(XNOR["ternary-fixed"].to_toml(), encoding="utf-8")
    code, output = _run("xnor", *arguments)
    assert code == 2
    assert "needs an array with epilogue = 'threshold', not 'fixed', max_inputs >= 72" in output


def test_layers_on_the_xnor_array() -> None:
    """Each layer of a network suits a small array; first rows are whole pool windows."""
    network = xnor()
    for node in network.nodes:
        if node.engine == "xnor":
            lowered = layer_jobs(network, node, None, seed=1)
            assert (lowered.spec.pe, lowered.spec.simd) == (4, 16)
            pool = int(np.prod(node.attrs.get("pool", 1)))
            for job, operands in lowered.first_rows(5).jobs:
                assert job.pool == pool
                assert job.m == min(5 - 5 % pool, lowered.jobs[0][0].m)
                assert (job.m,) == operands.border.shape == operands.x.shape[:1]
    node = network.nodes[-1]
    with pytest.raises(CosilError, match="needs an array with epilogue = 'fixed', not 'threshold'"):
        layer_jobs(network, node, XnorSpec(), seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["w4a9"], "error: unknown engine 'w4a9'"),
        (["w4a8", "--layer", "head"], "error: --network and --layer go together"),
        (["w4a8", "--rows", "3"], "error: --rows is for a layer"),
        (
            ["topk", "--network", __file__, "--layer", "head"],
            "error: --network and --layer are for w4a8, pim, xnor, not for topk",
        ),
        (
            ["topk", "--layer", "head"],
            "error: --network and --layer are for w4a8, pim, xnor, not for topk",
        ),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], message: str) -> None:
    """Wrong use ends with one line and code 2."""
    code, output = _run(*arguments)
    assert code == 2
    assert output.startswith(message)


@pytest.mark.cosim
def test_any_engine_is_verified(tmp_path: Path) -> None:
    """The bench of an engine without layers runs on a spec file, and only on one of its own."""
    spec = tmp_path / "topk.toml"
    spec.write_text(TOPK["quick-lane"].to_toml(), encoding="utf-8")
    code, output = _run("topk", "--spec", str(spec), "--cases", "3", "--json")
    assert code == 0, output
    said = json.loads(output)
    assert [said[f"{what}_equal"] for what in ("bits", "cycles", "counts")] == [True] * 3
    assert (said["engine"], said["cases"]) == ("topk", 3)
    assert said["mutants"] == {"caught": 12, "total": 12}
    code, output = _run("w4a8", "--spec", str(spec))
    assert code == 2
    assert "topk.toml: engine must be 'w4a8', not 'topk'" in output


def test_unknown_layer_lists_the_layers(tmp_path: Path) -> None:
    """A layer that is not there is refused with those that are."""
    network = _network(tmp_path / "net.cosil")
    code, output = _run("w4a8", "--network", str(network), "--layer", "tail")
    assert code == 2
    assert output.startswith("error: tiny has no layer 'tail' on engine w4a8")
    assert "layers are head" in output


def test_hardware_of_a_layer_is_that_of_its_machine(tmp_path: Path) -> None:
    """`cosil verilog` builds the engine as the machine runs the layer with it, noise included."""
    network = _pim_network(tmp_path / "net.cosil", noise=0.5)
    spec = PIM["serial-shared"]
    table = "".join(f"{line}\n" for line in spec.to_toml().splitlines() if "noise_bits" not in line)
    machine = tmp_path / "small.toml"
    machine.write_text(f"clock_hz = 1e8\n[pim]\n{table}", encoding="utf-8")
    out = tmp_path / "out"
    command = ["verilog", "--machine", str(machine), "--network", str(network), "--layer", "head"]
    command += ["-o", str(out), "--no-cells"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    noise = load(network).nodes[0].tensors["noise"].shape[0]
    built = PimSpec.from_toml(out / "spec.toml")
    assert built == replace(spec, noise_bits=noise.bit_length() - 1)
    result = CliRunner().invoke(cli, ["verilog", "--machine", str(machine), "-o", str(out)])
    assert result.exit_code == 2
    assert "give either SPEC, or --machine, --network and --layer" in result.output
