# SPDX-License-Identifier: Apache-2.0
"""Five published models of an ADC beside each other: ``python -m benchmarks.adc [--json]``.

pJ per conversion and um2 per converter for 4 to 10 bits at a node, voltage and rate; then measured
converters of in-memory macros beside what each model says of them. Formulas and tables only.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from energy_models.lib.adc import (
    AREA_MODELS,
    MODELS,
    Converter,
    area_of_all_um2,
    area_um2,
    energy_of_all_pj,
    energy_pj,
)
from energy_models.lib.tables import read_table

BITS = range(4, 11)


def costs(adc: Converter) -> dict[str, Any]:
    """Return what each model says of a converter, and the range that covers them all."""
    both, area = energy_of_all_pj(adc), area_of_all_um2(adc)
    return {
        "bits": adc.bits,
        "pj": {model: energy_pj(model, adc).value for model in MODELS},
        "pj_low": both.low,
        "pj_high": both.high,
        "um2": {model: area_um2(model, adc).value for model in AREA_MODELS},
        "um2_low": area.low,
        "um2_high": area.high,
    }


def measured() -> list[dict[str, Any]]:
    """Return measured converters beside the models at their node, voltage and rate."""
    chip = read_table("silicon")["jia"]
    found: list[dict[str, Any]] = []
    for point in chip["points"]:
        rate_hz = point["tops"] * 1e12 / (2 * chip["rows"] * chip["columns"])
        adc = Converter(chip["adc_bits"], rate_hz, chip["node_nm"], point["voltage_v"])
        um2 = chip["area_mm2"]["adc"] * 1e6 / chip["columns"]
        found.append(
            {
                "name": f"Jia, JSSC 2020, {point['voltage_v']} V",
                "measured_pj": point["adc_pj"],
                "measured_um2": um2,
                **costs(adc),
            }
        )
    return found


def main() -> None:
    """Print the tables, or with --json the same as an object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--node", type=float, default=32.0, metavar="NM", help="default 32")
    parser.add_argument("--voltage", type=float, default=0.9, metavar="V", help="default 0.9")
    parser.add_argument("--rate", type=float, default=1e9, metavar="HZ", help="default 1e9")
    arguments = parser.parse_args()
    if min(arguments.node, arguments.voltage, arguments.rate) <= 0:
        parser.error("--node, --voltage and --rate must be positive")
    rows = [
        costs(Converter(bits, arguments.rate, arguments.node, arguments.voltage)) for bits in BITS
    ]
    chips = measured()
    if arguments.json:
        point = {name: getattr(arguments, name) for name in ("node", "voltage", "rate")}
        print(json.dumps({"name": "adc", **point, "rows": rows, "measured": chips}, indent=2))
        return
    point = f"{arguments.node:g} nm, {arguments.voltage:g} V, {arguments.rate:.3g} conversions/s"
    print(f"{point}: pJ per conversion (um2 per converter)")
    print("bits " + "".join(f"{model:>20}" for model in MODELS) + "      low .. high pJ")
    for row in rows:
        print(f"{row['bits']:4} {_cells(row)}")
    print("\nmeasured, and the models at that node, voltage, rate and resolution:")
    for row in chips:
        said = f"{row['measured_pj']:.3g} ({row['measured_um2']:.0f})"
        print(f"{row['name']}: {said}\n     {_cells(row)}")


def _cells(row: dict[str, Any]) -> str:
    cells: list[str] = []
    for model in MODELS:
        area = f" ({row['um2'][model]:.0f})" if model in row["um2"] else ""
        text = f"{row['pj'][model]:.3g}{area}"
        cells.append(f"{text:>20}")
    return "".join(cells) + f"   {row['pj_low']:.3g} .. {row['pj_high']:.3g}"


if __name__ == "__main__":
    main()
