# SPDX-License-Identifier: Apache-2.0
"""Whole networks on machines: bits as the reference, cycles that add up, one place for a defect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.fuzz_networks import cnn, transformer
from cosil.cli.simulate import simulate
from cosil.machine import vector_unit
from cosil.machine.check import Check, check
from cosil.machine.execute import MachineRun, execute
from cosil.machine.inputs import random_inputs
from cosil.machine.plots import write_plots
from cosil.machine.spec import Machine, load_machine
from cosil.machine.summary import COLUMNS, rows, to_dict
from cosil.machine.trace import to_trace, write_trace
from cosil.packed.file import save
from cosil.packed.network import Node, PackedNetwork
from sim.vector import KVCache

NETWORKS = {"cnn": cnn(), "transformer": transformer()}


def small(dataflow: str = "os", **memory: Any) -> Machine:
    """Return a 4x4 machine."""
    machine = load_machine("w4a8-16x16-os")
    array = replace(machine.array, array_rows=4, array_cols=4, epilogue_lanes=0, dataflow=dataflow)
    return replace(machine, array=array, memory=replace(machine.memory, **memory))


def observed(
    machine: Machine, network: PackedNetwork, inputs: dict[str, NDArray[Any]]
) -> tuple[MachineRun, dict[str, NDArray[Any]]]:
    """Run a network and return every value."""
    values: dict[str, NDArray[Any]] = {}
    run = execute(machine, network, inputs, trace=True, observe=values.__setitem__)
    return run, values


@pytest.fixture(scope="module")
def done() -> dict[str, tuple[MachineRun, dict[str, NDArray[Any]]]]:
    """Return one run of each network, two samples each."""
    return {
        name: observed(small(), network, random_inputs(network, batch=2, length=9, seed=3))
        for name, network in NETWORKS.items()
    }


Done = dict[str, tuple[MachineRun, dict[str, NDArray[Any]]]]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_equals_the_reference(name: str, done: Done) -> None:
    """Every node of every kind gives the reference's bits."""
    inputs = random_inputs(NETWORKS[name], batch=2, length=9, seed=3)
    outcome = check(NETWORKS[name], inputs, done[name][1])
    assert () == outcome.differences
    assert outcome.equal
    assert len(NETWORKS[name].nodes) == outcome.layers


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_stationary_and_bandwidth_change_no_bit(name: str, done: Done) -> None:
    """Dataflow and bandwidth change cycles, never values."""
    inputs = random_inputs(NETWORKS[name], batch=2, length=9, seed=3)
    run, values = observed(small("ws", bytes_per_cycle=2.0), NETWORKS[name], inputs)
    for node, value in done[name][1].items():
        assert value.tobytes() == values[node].tobytes()
    assert run.cycles > done[name][0].cycles


@pytest.mark.parametrize("node", ["block.conv1", "block.add", "head"])
def test_check_names_the_first_layer_that_differs(node: str, done: Done) -> None:
    """One wrong bit in one value of one layer is found, and only that layer is named."""
    inputs = random_inputs(NETWORKS["cnn"], batch=2, length=9, seed=3)
    values = dict(done["cnn"][1])
    wrong = values[node].copy()
    wrong.reshape(-1)[-1] ^= 1
    values[node] = wrong
    outcome = check(NETWORKS["cnn"], inputs, values)
    assert not outcome.equal
    assert 1 == len(outcome.differences)
    assert outcome.differences[0].startswith(f"{node} (")
    assert f"1 of {wrong.size} values differ" in outcome.differences[0]


def test_check_of_nothing_is_not_equal() -> None:
    """A comparison may not pass by silence."""
    assert not Check(0, 0, ()).equal
    outcome = check(NETWORKS["cnn"], random_inputs(NETWORKS["cnn"]), {})
    assert len(NETWORKS["cnn"].nodes) == len(outcome.differences)


@pytest.mark.parametrize("name", NETWORKS)
def test_cycles_add_up(name: str, done: Done) -> None:
    """Causes sum to cycles, layers follow each other, jobs lie inside their layer."""
    start = 0
    for layer in done[name][0].layers:
        assert start == layer.start
        assert layer.cycles == sum(layer.cycles_by_cause.values())
        start += layer.cycles
        at = 0
        for job in layer.jobs:
            assert at <= job.start
            at = job.start + job.cycles
            assert (job.events["last_drain"] < job.cycles).all()
            assert (job.events["first_launch"] >= 0).all()
        assert at <= layer.cycles
    assert start == done[name][0].cycles


def test_multiply_accumulates_by_hand(done: Done) -> None:
    """MACs follow from the shapes; grouped convolutions run one job for each group."""
    layers = {layer.name: layer for layer in done["cnn"][0].layers}
    assert 2 * 64 * 16 * 27 == layers["stem"].macs
    assert 2 * 16 * 32 * 144 == layers["block.conv2"].macs
    assert 2 == len(layers["block.conv2"].jobs)
    attention = {layer.name: layer for layer in done["transformer"][0].layers}["attention"]
    assert 2 * (9 * 10 // 2) * 4 * 2 * 4 == attention.macs


def test_variants_follow_the_layer(done: Done) -> None:
    """Each layer runs on the datapath, encoding and epilogue that its weight needs."""
    tree = to_dict(done["cnn"][0])
    assert ["channel/twos/fixed", "group/offset/fixed"] == tree["machine"]["variants"]
    tree = to_dict(done["transformer"][0])
    assert ["channel/twos/fp16", "group/offset/fp16"] == tree["machine"]["variants"]


def test_pieces_through_the_cache_equal_the_whole() -> None:
    """A sequence in pieces through the KV cache gives the bits of the whole sequence."""
    network = NETWORKS["transformer"]
    ids = random_inputs(network, length=7, seed=5)["ids"]
    whole = execute(small(), network, {"ids": ids}).outputs["logits"]
    cache = KVCache()
    pieces = [
        execute(small(), network, {"ids": piece}, cache=cache).outputs["logits"]
        for piece in (ids[:, :4], ids[:, 4:5], ids[:, 5:])
    ]
    assert whole.tobytes() == np.concatenate(pieces, axis=1).tobytes()


def test_vector_unit_by_hand() -> None:
    """Cycles of the vector unit are start + operations / lanes, or bytes / bandwidth if more."""
    machine = small(bytes_per_cycle=4.0)
    node = Node("y", "quantize", ("x",), {"scale": 1.0})
    x, y = np.zeros((1, 100), np.float32), np.zeros((1, 100), np.int8)
    assert 200 == vector_unit.operations(node, (x,), y)
    assert 500 == vector_unit.moved_bytes(node, (x,), y)
    assert {"vector": 8 + 13, "memory": 125 - 13} == vector_unit.cycles(machine, 200, 500)
    unlimited = small(bytes_per_cycle=0.0)
    assert {"vector": 8 + 13, "memory": 0} == vector_unit.cycles(unlimited, 200, 500)
    renamed = Node("z", "flatten", ("y",), {"start_dim": 1})
    moved = vector_unit.moved_bytes(renamed, (y,), y)
    assert 0 == sum(
        vector_unit.cycles(machine, vector_unit.operations(renamed, (y,), y), moved).values()
    )


def test_trace(done: Done, tmp_path: Path) -> None:
    """The trace is JSON; layers cover the run without a gap; every tile has its two spans."""
    run = done["transformer"][0]
    write_trace(run, tmp_path / "t.json")
    trace = json.loads((tmp_path / "t.json").read_text())
    assert to_trace(run) == trace
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    layers = [span for span in spans if span["tid"] == 1]
    assert run.cycles == sum(span["args"]["cycles"] for span in layers)
    end = 0.0
    for span in layers:
        assert pytest.approx(end) == span["ts"]
        end = span["ts"] + span["dur"]
    assert pytest.approx(run.cycles / run.machine.clock_hz * 1e6) == end
    tiles = sum(len(job.events) for layer in run.layers for job in layer.jobs)
    assert tiles == sum(span["tid"] == 2 for span in spans)
    assert tiles == sum(span["tid"] == 3 for span in spans)
    assert ["t.json"] == [path.name for path in tmp_path.iterdir()]


def test_plots(done: Done, tmp_path: Path) -> None:
    """Three figures of a sensible size are written, and nothing else."""
    paths = write_plots(done["transformer"][0], tmp_path / "figures")
    assert ["layers.png", "energy.png", "roofline.png"] == [path.name for path in paths]
    for path in paths:
        data = path.read_bytes()
        assert b"\x89PNG" == data[:4]
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        assert 900 <= width <= 3000
        assert 500 <= height <= 3000
    assert 3 == len(list((tmp_path / "figures").iterdir()))


def test_rows_have_the_columns(done: Done) -> None:
    """The table has a row for each layer that takes time, and totals."""
    table = rows(done["cnn"][0])
    assert all(len(row) == len(COLUMNS) for row in table)
    names = [row[0] for row in table]
    assert "flat" not in names  # a flatten is a change of addresses
    assert "total" == names[-1]
    assert done["cnn"][0].cycles == table[-1][3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a saved network."""
    path = tmp_path_factory.mktemp("net") / "net.cosil"
    save(NETWORKS["cnn"], path)
    return path


@pytest.fixture(scope="module")
def machine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a machine that the tests above have compiled kernels for."""
    path = tmp_path_factory.mktemp("machine") / "tiny.toml"
    path.write_text(
        "clock_hz = 1e8\n[engine]\narray_rows = 4\narray_cols = 4\n[memory]\nbytes_per_cycle = 64\n"
    )
    return path


def test_command(saved: Path, machine_file: Path, tmp_path: Path) -> None:
    """`cosil simulate --json --check` prints what docs/json.md says and exits with 0."""
    image = tmp_path / "image.npy"
    np.save(image, np.linspace(-1, 1, 192).reshape(3, 8, 8))
    arguments = [str(saved), "--machine", str(machine_file), "--check", "--json"]
    result = CliRunner().invoke(simulate, [*arguments, "--input", str(image)])
    assert 0 == result.exit_code, result.output
    tree = json.loads(result.stdout)
    assert {"machine", "network", "layers", "total", "check"} == set(tree)
    assert "tiny" == tree["machine"]["name"]
    assert tree["check"]["equal"] is True
    needed = {"name", "op", "engine", "cycles", "cycles_by_cause", "macs", "utilisation", "bytes",
              "energy_pj"}  # fmt: skip
    assert all(needed <= set(layer) for layer in tree["layers"])
    assert tree["total"]["cycles"] == sum(layer["cycles"] for layer in tree["layers"])


def test_command_fails_on_a_difference(
    saved: Path, machine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One operation that is wrong makes `--check` exit with 1 and name the layer."""
    from sim.vector import integer

    right = integer.requantize
    monkeypatch.setattr(integer, "requantize", lambda x, mul, shift: right(x, mul, shift) ^ 1)
    result = CliRunner().invoke(simulate, [str(saved), "--machine", str(machine_file), "--check"])
    assert 1 == result.exit_code
    assert "check: block.requantize (requantize): 512 of 512 values differ" in result.output
    assert "nodes equal the reference" not in result.output
