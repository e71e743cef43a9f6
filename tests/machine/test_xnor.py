# SPDX-License-Identifier: Apache-2.0
"""Networks with layers on the XNOR array: bits as the reference, cycles, bytes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.fuzz_networks import xnor
from cosil.cli.simulate import simulate
from cosil.engines.xnor import XnorSpec
from cosil.errors import CosilError
from cosil.lowering.xnor import layer_jobs
from cosil.machine.check import check
from cosil.machine.execute import MachineRun, engine_for, execute
from cosil.machine.inputs import random_inputs
from cosil.machine.plots import layers_figure, roofline_figure
from cosil.machine.spec import Machine, Memory, load_machine, machine_from_dict
from cosil.machine.summary import closing_lines, rows, to_dict
from cosil.machine.trace import to_trace
from cosil.machine.xnor import spec_for, traffic
from cosil.packed.file import save
from energy_models.xnor import MODEL
from sim.xnor import run

NETWORK = xnor(4)
INPUTS = random_inputs(NETWORK, batch=2, seed=1)
NODES = {node.name: node for node in NETWORK.nodes}
ARRAY = XnorSpec(pe=4, simd=16, max_inputs=96, max_outputs=8)
"""Small: layers of more than 8 outputs are several jobs."""

SHAPES = {
    "stem": (128, 27, (8,), 9),
    "body": (128, 72, (8,), 9),
    "pooled": (128, 72, (8, 4), 9),
    "spread": (32, 48, (8, 1), 1),
    "last": (32, 81, (7,), 1),
    "hidden": (2, 56, (8, 8, 4), 1),
    "head": (2, 20, (8, 2), 1),
}
"""Vectors, inputs, outputs of each job, kinds of border; by hand, of two images of 8 x 8."""


def machine(**memory: Any) -> Machine:
    """Return a machine with the small array; memory of unlimited bandwidth unless it is given."""
    found = load_machine("xnor-32x64")
    return replace(
        found, xnor=ARRAY, memory=replace(found.memory, **{"bytes_per_cycle": 0.0, **memory})
    )


def observed(on: Machine, *, step: bool = False) -> tuple[MachineRun, dict[str, NDArray[Any]]]:
    values: dict[str, NDArray[Any]] = {}
    done = execute(on, NETWORK, INPUTS, trace=True, step=step, observe=values.__setitem__)
    return done, values


@pytest.fixture(scope="module")
def done() -> tuple[MachineRun, dict[str, NDArray[Any]]]:
    """Return one run."""
    return observed(machine())


Done = tuple[MachineRun, dict[str, NDArray[Any]]]


def test_every_node_equals_the_reference(done: Done) -> None:
    """Padding with 0, -1 and 1, pools, ternary weights, both epilogues, several jobs."""
    outcome = check(NETWORK, INPUTS, done[1])
    assert outcome.differences == ()
    assert outcome.equal
    assert outcome.layers == len(NETWORK.nodes)


def test_cycles_are_those_of_the_jobs(done: Done) -> None:
    """Without a limit of bandwidth each job takes the law's cycles; bits need no pass of signs."""
    layers = {layer.name: layer for layer in done[0].layers if layer.engine == "xnor"}
    assert set(layers) == set(SHAPES)
    for name, (m, k, parts, classes) in SHAPES.items():
        layer = layers[name]
        spec = layer.spec
        assert isinstance(spec, XnorSpec)
        assert [job.cycles for job in layer.jobs] == [spec.latency(m, k, n, classes) for n in parts]
        # Codes of 8 bits become signs, 16 a cycle after 8; a bit of a threshold is one already.
        codes = {"stem": 384, "body": 1024, "pooled": 1024}.get(name)
        at = 0 if codes is None else 8 + codes // 16
        assert layer.cycles_by_cause.get("vector", 0) == at
        for job in layer.jobs:
            assert job.start == at
            at += job.cycles
        assert layer.cycles == at == sum(layer.cycles_by_cause.values())
        assert layer.macs == m * k * sum(parts)
        assert layer.utilisation == pytest.approx(layer.macs / (at * 4 * 16))


def test_bytes_are_one_bit_per_activation(done: Done) -> None:
    """Counted by hand, beat by beat; an engine of fixed point writes 16 bits."""
    layers = {layer.name: layer for layer in done[0].layers}
    # 20 tiles of 4 x 16 bits, 5 folds of 4 bases and of 4 columns, 24 and 10 beats of bits.
    assert layers["hidden"].bytes == 20 * 8 + 5 * 8 + 5 * 32 + 24 * 2 + 10 * 1
    # 384 codes and their signs, then 4 tiles of two bits a weight, 9 classes, 2 folds.
    signs = 384 + 384 // 8
    assert layers["stem"].bytes == signs + 4 * 16 + 18 * 8 + 2 * 32 + 256 * 2 + 256 * 8


def test_energy_is_of_the_same_bits(done: Done) -> None:
    """What the energy model bills to the memory is what the machine moved, and the descriptors."""
    for layer in done[0].layers:
        if layer.engine != "xnor":
            continue
        spec = layer.spec
        billed = sum(
            action.stream_bits(spec) * layer.counts[name]
            for name, action in MODEL.actions.items()
            if action.stream_bits is not None
        )
        signs = {"stem": 384, "body": 1024, "pooled": 1024}.get(layer.name, 0)
        moved = layer.bytes - signs - signs // 8
        # A beat of 4 result bits takes a byte.
        spare = 4 * layer.counts["y_beats"] if spec.epilogue == "threshold" else 0
        assert billed == 8 * moved - spare + 256 * len(layer.jobs)
        assert layer.energy is not None
        assert 0 < layer.energy.low_pj < layer.energy.total_pj < layer.energy.high_pj


def test_stalls_of_the_memory_change_cycles_only(done: Done) -> None:
    """One byte per cycle: the same bits, many more cycles, and stepped equals fast."""
    slow, values = observed(machine(bytes_per_cycle=1.0))
    assert slow.cycles > 2 * done[0].cycles
    stepped, again = observed(machine(bytes_per_cycle=1.0), step=True)
    for name, value in done[1].items():
        assert value.tobytes() == values[name].tobytes() == again[name].tobytes()
    for one, other in zip(slow.layers, stepped.layers, strict=True):
        assert one.cycles_by_cause == other.cycles_by_cause
        assert one.counts == other.counts


@pytest.mark.parametrize("name", ["stem", "last", "head"])
def test_beats_are_those_that_the_simulator_counts(name: str) -> None:
    """The closed form equals the transfers; no job moves more than the bandwidth allows."""
    node = NODES[name]
    spec = spec_for(ARRAY, node)
    shapes = {"stem": (2, 3, 8, 8), "last": (2, 9, 4, 4), "head": (2, 20)}
    for job, operands in layer_jobs(spec, node, np.zeros(shapes[name], np.int8)):
        moves = traffic(spec, job)
        result = run(spec, job, operands, stalls=moves.stalls(Memory(2.0)))
        assert {stream: result.counts[f"{stream}_beats"] for stream in "wcexy"} == moves.beats
        assert result.cycles >= (moves.bytes - sum(moves.beat_bytes.values())) / 2.0


def test_a_report_names_the_array_and_its_variants(done: Done) -> None:
    """JSON, table and closing lines."""
    tree = to_dict(done[0])
    assert tree["machine"]["xnor"] == {
        "pe": 4, "simd": 16, "max_inputs": 96, "max_outputs": 8, "border_classes": 9,
    }  # fmt: skip
    found = {layer["name"]: layer["variant"] for layer in tree["layers"]}
    assert found["stem"] == "ternary/fixed"
    assert found["pooled"] == "binary/threshold"
    own = [layer for layer in done[0].layers if layer.engine == "xnor"]
    share = sum(layer.macs for layer in own) / sum(64 * layer.cycles for layer in own)
    assert tree["total"]["xnor_utilisation"] == pytest.approx(share)
    assert tree["total"]["pim_utilisation"] is None
    assert tree["total"]["array_utilisation"] == 0.0
    assert f"; the XNOR array does {share:.1%} of its peak in its own layers" in closing_lines(
        done[0]
    )[0]  # fmt: skip
    assert rows(done[0])[-1][5] is None  # no layer is on the array that its column stands for


def test_trace_and_roof(done: Done) -> None:
    """Each vector has a span of its steps; a pool window's last one has an output."""
    events = to_trace(done[0])["traceEvents"]
    jobs = [event for event in events if event["ph"] == "X" and event["tid"] == 8]
    assert len(jobs) == sum(len(parts) for _, _, parts, _ in SHAPES.values())
    spans = [event for event in events if event["ph"] == "X" and event["tid"] == 9]
    assert len(spans) == sum(m * len(parts) for m, _, parts, _ in SHAPES.values())
    end = -1
    for span in spans:
        assert span["args"]["first cycle"] > end
        end = span["args"]["first cycle"] + span["args"]["cycles"] - 1
        assert span["args"].get("last output", end + 1) > end
    # Two jobs of `pooled` in windows of 4, one of `last` in windows of 2.
    silent = [span for span in spans if "last output" not in span["args"]]
    assert len(silent) == 2 * 128 * 3 // 4 + 32 // 2
    texts = [text.get_text() for text in roofline_figure(done[0]).axes[0].texts]
    assert "64 MAC/cycle" in texts
    assert "XNOR array of 4 x 16" in str(layers_figure(done[0]).get_suptitle())


def test_unsuited_layers_are_refused_by_name() -> None:
    """Every layer that the array cannot run is named, with what it needs; nothing runs before."""
    small = replace(machine(), xnor=replace(ARRAY, max_inputs=75, border_classes=4))
    with pytest.raises(CosilError) as refused:
        execute(small, NETWORK, INPUTS)
    assert str(refused.value) == (
        "machine xnor-32x64: 4 of 7 layers on engine xnor do not suit its array: "
        "'stem' needs border_classes >= 9, not 4; 'body' needs border_classes >= 9, not 4; "
        "'pooled' needs border_classes >= 9, not 4; 'last' needs max_inputs >= 81, not 75"
    )
    with pytest.raises(CosilError, match=r"^machine .*: layer 'stem' needs an XNOR array$"):
        execute(load_machine("w4a8-16x16-os"), NETWORK, INPUTS)


def test_weights_and_epilogue_follow_the_layer() -> None:
    """A machine holds each variant that its networks use; its file names none."""
    for name, value in (("weights", "ternary"), ("epilogue", "fixed")):
        with pytest.raises(
            ValueError, match=rf"^\[xnor\]: {name} follows each layer; leave it out$"
        ):
            machine_from_dict({"clock_hz": 1e8, "xnor": {name: value}})
    with pytest.raises(ValueError, match=r"^xnor: pe must be in 1\.\.128, not 129"):
        machine_from_dict({"clock_hz": 1e8, "xnor": {"pe": 129}})
    assert machine_from_dict({"clock_hz": 1e8}).xnor is None
    built = {
        name: engine_for(machine(), NETWORK, NODES[name]) for name in ("stem", "pooled", "last")
    }
    assert built == {
        "stem": replace(ARRAY, weights="ternary", epilogue="fixed"),
        "pooled": ARRAY,
        "last": replace(ARRAY, weights="ternary"),
    }


def test_the_command_checks_a_network_on_the_preset(tmp_path: Path) -> None:
    """`cosil simulate NET --machine xnor-32x64 --check` ends with 0 and says what it compared."""
    path = tmp_path / "net.cosil"
    save(NETWORK, path)
    result = CliRunner().invoke(
        simulate, [str(path), "--machine", "xnor-32x64", "--check", "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["check"]["equal"]
    assert said["check"]["layers"] == len(NETWORK.nodes)
