# SPDX-License-Identifier: Apache-2.0
"""Networks with layers on the PIM macro: bits as the reference, cycles, bytes, energy, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.fuzz_networks import pim, pim_layer
from cosil.engines.pim import PimSpec
from cosil.errors import CosilError
from cosil.lowering.pim import layer_jobs
from cosil.machine.check import check
from cosil.machine.execute import MachineRun, execute
from cosil.machine.inputs import random_inputs
from cosil.machine.pim import spec_for, traffic
from cosil.machine.plots import write_plots
from cosil.machine.spec import Machine, Memory, load_machine, machine_from_dict
from cosil.machine.summary import closing_lines, rows, to_dict
from cosil.machine.trace import to_trace
from cosil.packed.network import Node, PackedNetwork, Value
from energy_models.lib.adc import MODELS
from sim.pim import run


def network() -> PackedNetwork:
    """Return three layers for one macro: noise and own columns, neither, and a linear one."""
    rng = np.random.default_rng(4)

    def layer(name: str, op: str, source: str, n: int, k: int, **attrs: Any) -> Node:
        program, tensors = pim_layer(rng, n, k, **attrs)
        return Node(name, op, (source,), program, tensors, "pim")

    near = {"kernel": [3, 3], "padding": [1, 1], "relu": True}
    nodes = (
        Node("quantize", "quantize", ("image",), {"scale": 0.25}),
        layer("stem", "conv2d", "quantize", 8, 27, errors=True, noise=0.5, **near),
        layer("body", "conv2d", "stem", 3, 72, group_rows=9, columns=48, mux=8, **near),
        Node("flat", "flatten", ("body",), {"start_dim": 1}),
        layer("head", "linear", "flat", 10, 48, wide=True, group_rows=10),
    )
    inputs = (Value("image", "f32", (3, 4, 4)),)
    return PackedNetwork("small-pim", inputs, nodes, ("head",), {"method": "random", "seed": 4})


NETWORK = network()
INPUTS = random_inputs(NETWORK, batch=2, seed=1)


def machine(**memory: Any) -> Machine:
    """Return a machine with a small macro, of one result at a time but two lanes."""
    spec = PimSpec(
        rows=12, columns=24, groups=8, slice_bits=2, adc_bits=5, mux=4, epilogue_lanes=2,
        noise_bits=0,
    )  # fmt: skip
    found = load_machine("pim-144x256-flash")
    return replace(found, pim=spec, memory=replace(found.memory, **memory))


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
    """Tiles, noise, own columns and a macro with more columns than a layer asks for."""
    outcome = check(NETWORK, INPUTS, done[1])
    assert outcome.differences == ()
    assert outcome.equal


def test_cycles_are_those_of_the_jobs(done: Done) -> None:
    """Causes sum to cycles, tiles follow the clamp and each other; macs follow from the shapes."""
    layers = {layer.name: layer for layer in done[0].layers if layer.engine == "pim"}
    for layer in layers.values():
        assert layer.cycles == sum(layer.cycles_by_cause.values())
        at = layer.cycles_by_cause["vector"] + layer.cycles_by_cause["memory"]
        for job in layer.jobs:
            assert job.start == at
            at += job.cycles
        assert at == layer.cycles
        assert 0 < (layer.utilisation or 0) < 1
    assert layers["stem"].macs == 2 * 16 * 8 * 27
    assert len(layers["stem"].jobs) == 2  # 8 outputs, 6 at a time
    assert layers["head"].macs == 2 * 10 * 48


def test_stalls_of_the_memory_change_cycles_only(done: Done) -> None:
    """Half a byte per cycle: the same bits, many more cycles, and stepped equals fast."""
    slow, values = observed(machine(bytes_per_cycle=0.5))
    assert slow.cycles > 2 * done[0].cycles
    stepped, again = observed(machine(bytes_per_cycle=0.5), step=True)
    for name, value in done[1].items():
        assert value.tobytes() == values[name].tobytes() == again[name].tobytes()
    for one, other in zip(slow.layers, stepped.layers, strict=True):
        assert one.cycles_by_cause == other.cycles_by_cause
        assert one.counts == other.counts


def test_beats_are_those_that_the_simulator_counts() -> None:
    """The closed form equals the transfers; no span moves more than the bandwidth allows."""
    macro = machine().pim
    assert macro is not None
    node = NETWORK.nodes[1]
    spec = spec_for(macro, node)
    assert spec.noise_bits == 4
    codes = np.zeros((2, 3, 4, 4), np.int8)
    for job, operands in layer_jobs(spec, node, codes):
        moves = traffic(spec, job)
        stalls = moves.stalls(Memory(2.0))
        result = run(spec, job, operands, stalls=stalls)
        assert {name: result.counts[f"{name}_beats"] for name in "wexy"} == moves.beats
        assert set(stalls) <= set("wexy")
        assert result.cycles >= (moves.bytes - sum(moves.beat_bytes.values())) / 2.0


def test_a_report_gives_no_energy_alone(done: Done) -> None:
    """Total, range and each ADC model, in JSON, table and closing lines; components add up."""
    tree = to_dict(done[0])
    assert tree["machine"]["pim"]["columns"] == 24
    total = tree["total"]
    models = total["energy_by_adc_model_pj"]
    assert tuple(models) == MODELS
    sums = [sum(parts.values()) for parts in models.values()]
    assert total["energy_low_pj"] < min(sums) < total["energy_pj"] < max(sums)
    assert max(sums) < total["energy_high_pj"]
    assert total["energy_pj"] == pytest.approx(sum(total["energy_by_component_pj"].values()))
    for layer in tree["layers"]:
        named = layer["energy_by_adc_model_pj"]
        assert (named is None) == (layer["engine"] != "pim")
    cells = [row[-1] for row in rows(done[0]) if row[1] == "conv2d" or row[0] == "total"]
    assert len(cells) == 3
    assert all(" .. " in str(cell) for cell in cells)
    lines = "\n".join(closing_lines(done[0]))
    assert all(model in lines for model in MODELS)
    area = tree["machine"]["pim_area_um2"]
    parts = [each["value"] for each in area["components"].values()]
    assert area["total"]["value"] == pytest.approx(sum(parts))
    adcs = area["components"]["ADC"]
    assert adcs["low"] < min(area["adc_models"].values()) < adcs["value"]
    assert "mm2, sources leave" in lines


def test_trace_and_figures(done: Done, tmp_path: Path) -> None:
    """Each vector has its span of conversions; energy under each ADC model is a fourth figure."""
    events = to_trace(done[0])["traceEvents"]
    spans = [event for event in events if event["ph"] == "X" and event["tid"] == 7]
    jobs = [job for layer in done[0].layers for job in layer.jobs]
    assert len(spans) == sum(len(job.events) for job in jobs) > 0
    end = -1
    for span in spans:
        assert span["args"]["first cycle"] > end
        end = span["args"]["first cycle"] + span["args"]["cycles"] - 1
        assert span["args"]["last output"] > end
    paths = write_plots(done[0], tmp_path)
    assert [path.name for path in paths] == ["layers.png", "energy.png", "roofline.png", "adc.png"]


def test_unsuited_layers_are_refused_by_name() -> None:
    """Every layer that the macro cannot run is named, with what it needs; nothing runs before."""
    mixed = pim()
    with pytest.raises(CosilError) as refused:
        execute(machine(), mixed, random_inputs(mixed))
    text = str(refused.value)
    assert text.startswith(
        "machine pim-144x256-flash: 3 of 4 layers on engine pim do not suit its macro: "
        "'body' needs rows >= 18, not 12; 'down' needs columns = 16, not 24, mux = 8, not 4; "
        "'head' needs slice_bits = 1, not 2"
    )
    with pytest.raises(CosilError, match=r"^machine .*: layer 'stem' needs a PIM macro$"):
        execute(load_machine("w4a8-16x16-os"), NETWORK, INPUTS)


def test_noise_follows_the_layer() -> None:
    """A machine file does not say how its macro's physics is modelled."""
    with pytest.raises(ValueError, match=r"^\[pim\]: noise_bits follows each layer; leave it out$"):
        machine_from_dict({"clock_hz": 1e8, "pim": {"noise_bits": 8}})
    with pytest.raises(ValueError, match=r"^pim: adc_bits must be in 2\.\.10, not 11"):
        machine_from_dict({"clock_hz": 1e8, "pim": {"adc_bits": 11}})
    assert machine_from_dict({"clock_hz": 1e8}).pim is None
