# SPDX-License-Identifier: Apache-2.0
"""The peers' formulas and the worked example, against numbers worked out apart from this code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz_networks import pim_layer
from benchmarks.pim_peers import (
    example,
    example_macro,
    isaac_ns,
    mnsim_adc_ns,
    of_network,
    peers,
    puma_ns,
    zigzag_clock_ns,
)
from cosil.packed.file import save
from cosil.packed.network import Node, PackedNetwork, Value

# Decomposition, slice bits, conversions, per MAC, cycles SAR and flash, ADC fJ/MAC: by hand.
TABLE = [
    ("native", 1, 65536, ".0278", 262144, 32768, "16", "36"),
    ("native", 4, 16384, ".0069", 65536, 8192, "4.0", "9.1"),
    ("differential", 1, 131072, ".0556", 262144, 32768, "32", "73"),
    ("differential", 4, 32768, ".0139", 65536, 8192, "8.1", "18"),
    ("bit_serial", 1, 262144, ".1111", 262144, 32768, "64", "146"),
    ("bit_serial", 4, 65536, ".0278", 65536, 8192, "16", "36"),
]


def test_worked_example() -> None:
    """ResNet-20's first stage: every figure of the table, to the digits that it gives."""
    found = [
        (
            row.decomposition,
            row.slice_bits,
            row.conversions,
            f"{row.conversions_per_mac:.4f}"[1:],
            row.sar_cycles,
            row.flash_cycles,
            *(
                f"{pj:.1f}" if pj < 10 else f"{pj:.0f}"
                for pj in (row.adc_fj_per_mac_low, row.adc_fj_per_mac_high)
            ),
        )
        for row in example()
    ]
    assert found == TABLE


def test_peers_of_the_example() -> None:
    """525 ns of PUMA, 32 cycles of NeuroSim, 8 passes of MNSIM with conversions of 9 ns."""
    by_name = {peer.name: peer for peer in peers(example_macro("bit_serial", 1), 144, 16)}
    assert by_name["PUMA"].value == 525
    assert by_name["NeuroSim"].value == 32
    assert by_name["MNSIM"].value == 8
    assert "9 ns" in by_name["MNSIM"].counts
    assert by_name["ISAAC"].value == 400
    assert by_name["cosil"].value == 32


def test_published_latencies() -> None:
    """PUMA and ISAAC at 16 bits, ZigZag's clock of 128 rows and 8 bits, MNSIM's 1-bit converter."""
    assert puma_ns(8, 16) == 1800
    assert isaac_ns(16, 128) == 1600
    assert zigzag_clock_ns(128, 8, 8, 8) == pytest.approx(14.07244, abs=5e-6)
    assert mnsim_adc_ns(1) == 1


def test_layers_of_a_network(tmp_path: Path) -> None:
    """10 outputs of 63 inputs in groups of 12, 6 at a time: two tiles of 6 groups and 2 slices."""
    program, tensors = pim_layer(np.random.default_rng(1), 10, 63)
    node = Node("head", "linear", ("x",), program, tensors, "pim")
    value = Value("x", "i8", (63,))
    save(PackedNetwork("one", (value,), (node,), ("head",), {"seed": 1}), tmp_path / "net.cosil")
    (tmp_path / "m.toml").write_text(
        "clock_hz = 1e8\n[pim]\nrows = 12\ncolumns = 24\nslice_bits = 2\nadc_bits = 5\nmux = 4\n"
    )
    (layer,) = of_network(tmp_path / "net.cosil", str(tmp_path / "m.toml"))
    assert (layer["name"], layer["products"], layer["outputs"]) == ("head", 1, 10)
    law = {each["name"]: each["value"] for each in layer["formulas"]}
    assert law["cosil"] == 2 * 6 * 2 * 4
    assert law["NeuroSim"] == 6 * 2 * 4
    assert layer["simulated_cycles"] > law["cosil"]
