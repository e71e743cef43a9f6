# SPDX-License-Identifier: Apache-2.0
"""Machine files: presets load, mistakes are refused with what was expected."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz_networks import cnn, transformer
from cosil.errors import CosilError, UnknownNameError
from cosil.machine.inputs import bind, random_inputs, read_input
from cosil.machine.spec import load_machine, machine_from_dict, presets


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    """Every preset loads and lets each layer choose its variant."""
    machine = load_machine(name)
    assert name == machine.name
    assert not machine.fixed
    assert machine.memory.bytes_per_cycle > 0


def test_layers_choose_their_variant() -> None:
    """Scale datapath, encoding and epilogue come from the node, all else from the machine."""
    machine = load_machine("w4a8-16x16-ws")
    nodes = {node.name: node for node in (*cnn().nodes, *transformer().nodes)}
    spec = machine.spec_for(nodes["stem"])
    assert ("channel", "twos", "fixed") == (spec.scales, spec.weight_encoding, spec.epilogue)
    spec = machine.spec_for(nodes["q"])
    assert ("group", "offset", "fp16") == (spec.scales, spec.weight_encoding, spec.epilogue)
    assert (16, 16, "ws") == (spec.array_rows, spec.array_cols, spec.dataflow)


def test_a_machine_may_fix_a_variant() -> None:
    """A layer that needs another variant than the machine fixes is refused by name."""
    machine = machine_from_dict({"clock_hz": 1e8, "engine": {"epilogue": "fixed"}})
    assert frozenset({"epilogue"}) == machine.fixed
    machine.spec_for(cnn().nodes[1])
    message = "machine machine: layer 'q' needs epilogue = 'fp16', not 'fixed'"
    with pytest.raises(CosilError, match=f"^{re.escape(message)}$"):
        machine.spec_for(transformer().nodes[4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clock_hz = 'fast'", "clock_hz must be a number in 1..1e+12, not 'fast'"),
        ("", "clock_hz must be a number in 1..1e+12, not None"),
        ("clock_hz = inf", "clock_hz must be a number in 1..1e+12, not inf"),
        (
            "clock_hz = 1e8\nclock = 1",
            (
                "machine: unknown key 'clock'; known are name, clock_hz, technology, engine, "
                "attention, pim, xnor, memory, vector"
            ),
        ),
        ("clock_hz = 1e8\nmemory = 3", "memory must be a table [memory], not 3"),
        (
            "clock_hz = 1e8\n[engine]\nengine = 'aqfp'",
            "[engine]: engine must be 'w4a8', not 'aqfp'",
        ),
        (
            "clock_hz = 1e8\n[engine]\narray_rows = 65",
            "w4a8: array_rows must be in 1..64, not 65; the nearest legal value is 64",
        ),
        (
            "clock_hz = 1e8\n[memory]\nlatency_cycles = 0",
            "[memory] latency_cycles must be an int in 1..100000, not 0",
        ),
        (
            "clock_hz = 1e8\n[memory]\nenergy = 'ddr9'",
            "[memory] energy must be one of lpddr4, hbm2, ddr3, sram_1mb, not 'ddr9'",
        ),
        (
            "clock_hz = 1e8\n[vector]\nlanes = true",
            "[vector] lanes must be an int in 1..65536, not True",
        ),
    ],
)
def test_refusals(text: str, message: str, tmp_path: Path) -> None:
    """A wrong file gives one line with the file, what was expected and what was found."""
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(CosilError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_machine(path)


def test_unknown_machine() -> None:
    """An unknown name lists the presets."""
    with pytest.raises(
        UnknownNameError,
        match=r"^machine must be a TOML file or one of pim-144x256-flash, .* w4a8-16x16",
    ):
        load_machine("tpu")


def test_random_inputs_fit_the_network() -> None:
    """Random inputs have the network's shapes, lie in the vocabulary and follow the seed."""
    network = transformer()
    ids = random_inputs(network, batch=3, length=100, seed=1)["ids"]
    assert (3, 32) == ids.shape  # the position tables hold 32 rows
    assert 0 <= ids.min() <= ids.max() < 40
    assert ids.tolist() == random_inputs(network, batch=3, length=100, seed=1)["ids"].tolist()
    assert ids.tolist() != random_inputs(network, batch=3, length=100, seed=2)["ids"].tolist()
    assert (2, 3, 8, 8) == random_inputs(cnn(), batch=2)["image"].shape


def test_inputs_are_checked(tmp_path: Path) -> None:
    """Wrong names, dtypes, shapes and files are refused."""
    network = cnn()
    image = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"^network fuzz-cnn: inputs must be image, not none$"):
        bind(network, {})
    with pytest.raises(TypeError, match=r"'image' must have dtype float32, not int8$"):
        bind(network, {"image": image.astype(np.int8)})
    with pytest.raises(
        ValueError, match=r"must have shape \(batch, 3, 8, 8\), not \(1, 3, 8, 9\)$"
    ):
        bind(network, {"image": np.zeros((1, 3, 8, 9), np.float32)})
    path = tmp_path / "x.npy"
    path.write_bytes(b"no array")
    with pytest.raises(CosilError, match=r"x\.npy must be a NumPy \.npy or \.npz file: "):
        read_input(network, path)
    two = replace(network, inputs=(*network.inputs, replace(network.inputs[0], name="second")))
    np.save(path, image)
    with pytest.raises(
        CosilError, match=r"has the inputs image, second: .* must be an \.npz file$"
    ):
        read_input(two, path)
    assert (1, 3, 8, 8) == read_input(network, path)["image"].shape
