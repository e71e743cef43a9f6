# SPDX-License-Identifier: Apache-2.0
"""A layer's cycles by our law and by five peers' formulas: ``python -m benchmarks.pim_peers``.

Without options the layer is ResNet-20's 3x3 convolution of 16 channels on a 32x32 map with 4-bit
weights and activations, 144 rows, 8 columns to an ADC of 7 bits, for each decomposition and slice
width. With --spec FILE and --shape M K N it is one job on that macro, with --network NET and
--machine M each layer of a packed network that runs on the machine's macro, beside the cycles that
are simulated for it. The rest is formulas, each as its authors' program computes it: units differ.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cosil.engines.common import ceil_div
from cosil.engines.pim import PimSpec
from cosil.errors import CosilError
from cosil.packed.decomposition import DECOMPOSITIONS, Decomposition, planes
from energy_models.lib.adc import Converter, energy_pj

EXAMPLE = (1024, 144, 16)
"""Vectors, inputs and outputs: 2.36 M multiply-accumulates."""

SAR_CYCLES = 8
"""Cycles of a successive-approximation converter of 7 bits, one more than its bits."""

ISAAC_COLUMNS, ISAAC_CYCLE_NS = 128, 100.0
NAND_NS = 0.0478
XOR_NS = 2.4 * NAND_NS


@dataclass(frozen=True, slots=True)
class Row:
    """One layer on one macro under our law.

    Attributes
    ----------
    decomposition : str
    slice_bits, adc_bits : int
    conversions : int
        Of the layer.
    conversions_per_mac : float
    sar_cycles, flash_cycles : int
        m.II of section 5 of docs/engines/pim.md with that converter, two sample-and-hold banks.
    adc_fj_per_mac_low, adc_fj_per_mac_high : float
        Under `closed_form` (28 nm, 0.9 V) and under `survey_regression` (32 nm, 1 GS/s).
    """

    decomposition: str
    slice_bits: int
    adc_bits: int
    conversions: int
    conversions_per_mac: float
    sar_cycles: int
    flash_cycles: int
    adc_fj_per_mac_low: float
    adc_fj_per_mac_high: float


@dataclass(frozen=True, slots=True)
class Peer:
    """What one formula says of one product of a vector with the matrix.

    Attributes
    ----------
    name, formula : str
    value : float
    unit : str
    counts : str
        What the formula leaves out, or takes for granted.
    """

    name: str
    formula: str
    value: float
    unit: str
    counts: str


def example_macro(decomposition: Decomposition, slice_bits: int) -> PimSpec:
    """Return the smallest macro that holds the example's layer."""
    columns = EXAMPLE[2] * planes(decomposition, 4)
    return PimSpec(
        decomposition, rows=144, columns=columns, groups=1, slice_bits=slice_bits, noise_bits=0
    )  # fmt: skip


def row(spec: PimSpec, shape: tuple[int, int, int]) -> Row:
    """Return a layer of m vectors, k inputs and n outputs on a macro."""
    m, k, n = shape
    conversions = m * spec.steps(k) * n * spec.planes
    per_mac = conversions / (m * k * n)
    closed = energy_pj("closed_form", Converter(spec.adc_bits, 1e9, 28, 0.9)).value
    survey = energy_pj("survey_regression", Converter(spec.adc_bits, 1e9, 32, 0.9)).value
    flash, sar = (
        m * replace(spec, conversion_cycles=cycles, double_buffer=True).interval(k, n)
        for cycles in (1, SAR_CYCLES)
    )
    return Row(
        spec.decomposition, spec.slice_bits, spec.adc_bits, conversions, per_mac, sar, flash,
        1e3 * per_mac * closed, 1e3 * per_mac * survey,
    )  # fmt: skip


# -- peers' formulas -------------------------------------------------------------------------------


def puma_ns(adc_bits: int, slices: int, passes: float = 1.0) -> float:
    """Return PUMA's latency of one product: one ADC to a crossbar of 128 columns.

    Source: Aayush-Ankit/puma-simulator, ima.py and config.py: 12.5 ns per bit for all columns of
    a crossbar, in a pipeline of three stages; `passes` is ceil(weight bits / cell bits) over
    ceil(data width / cell bits).
    """
    return 12.5 * adc_bits * (slices + 3 - 1) * passes


def isaac_ns(slices: int, columns: int) -> float:
    """Return the time in which an ISAAC array is occupied by one product.

    Source: Shafiee et al., ISCA 2016: a slice takes 100 ns, 128 columns through one ADC of 1.28
    GS/s; the layer's pipeline adds six such cycles to the latency, not to the occupation.
    """
    return ISAAC_CYCLE_NS * slices * ceil_div(columns, ISAAC_COLUMNS)


def neurosim_cycles(mux: int, rows: int, rows_parallel: int, slices: int) -> int:
    """Return NeuroSim's cycles of one product in its synchronous mode.

    Source: neurosim/DNN_NeuroSim_V1.4, SubArray.cpp and ProcessingUnit.cpp; one read of all
    columns of a mux is a cycle as long as sensing and conversion, and shift-add is hidden.
    """
    return mux * ceil_div(rows, rows_parallel) * slices


def mnsim_passes(slices: int, rows: int, columns: int, dacs: int = 128, adcs: int = 128) -> int:
    """Return MNSIM 2.0's passes of one product, each crossbar, DAC and ADC one after the other.

    Source: thu-nics/MNSIM-2.0, PE_latency.py: rows in turns of the DACs, columns of the ADCs.
    """
    return slices * ceil_div(rows, dacs) * ceil_div(columns, adcs)


def mnsim_adc_ns(adc_bits: int, rate_hz: float = 1e9) -> float:
    """Return the time of a conversion in MNSIM 2.0: its bits and two clocks; one for 1 bit."""
    return (1 if adc_bits == 1 else adc_bits + 2) / rate_hz * 1e9


def zigzag_clock_ns(
    rows: int, adc_bits: int, weight_bits: int, activation_bits: int, slice_bits: int = 1
) -> float:
    """Return ZigZag-IMC's clock period at 28 nm, one ADC to a column.

    Source: KULeuven-MICAS/zigzag, imc_array.py: ADC, one multiplier gate, the adders that weight
    the columns, and the accumulator, all within one cycle. `weight_bits` is a power of two.
    """
    adc = adc_bits * (0.00653 * rows + 0.640)
    carry, first = 2 * NAND_NS, XOR_NS + 2 * NAND_NS
    depth = weight_bits.bit_length() - 1
    weighted = (depth - 1) * 2 * XOR_NS + first + (weight_bits - 1) * carry if depth else 0.0
    into, out = adc_bits + weight_bits * bool(depth), activation_bits + adc_bits + weight_bits
    accumulate = first + (out - into - 1) * carry if activation_bits > slice_bits else 0.0
    return adc + NAND_NS + weighted + accumulate


def interval(spec: PimSpec, k: int, n: int, rows: int) -> int:
    """Return our interval of one product, the sum of its tiles of outputs."""
    starts = range(0, n, spec.outputs)
    return sum(spec.interval(k, min(n - start, spec.outputs), rows) for start in starts)


def peers(spec: PimSpec, k: int, n: int, group_rows: int | None = None) -> list[Peer]:
    """Return our interval and five peers' formulas of one product with k inputs and n outputs.

    `group_rows` are the rows of a group; the macro's if left out.
    """
    columns = n * spec.planes
    group_rows = spec.rows if group_rows is None else group_rows
    rows, steps = min(k, group_rows), spec.steps(k, group_rows)
    padded_bits = 1 << (spec.weight_bits - 1).bit_length()
    clock_ns = zigzag_clock_ns(
        rows, spec.adc_bits, padded_bits, spec.activation_bits, spec.slice_bits
    )
    law = "G.S.max(t_row, M.t_conv)" if spec.double_buffer else "G.S.(t_row + M.t_conv)"
    conversion = mnsim_adc_ns(spec.adc_bits)
    return [
        Peer(
            "cosil", law, interval(spec, k, n, group_rows), "cycles",
            "the law that cosil verify asserts",
        ),
        Peer(
            "PUMA", "t_ADC.(S + 2)", puma_ns(spec.adc_bits, spec.slices), "ns",
            "one ADC to 128 columns; rows beyond a crossbar run beside",
        ),
        Peer(
            "ISAAC", "100 ns.S.ceil(columns/128)", isaac_ns(spec.slices, columns), "ns",
            "one ADC of 8 bits to 128 columns",
        ),
        Peer(
            "NeuroSim", "M.ceil(K/rows).S", neurosim_cycles(spec.mux, k, rows, spec.slices),
            "cycles", "of sensing and conversion, not of the clock",
        ),
        Peer(
            "MNSIM", "S.ceil(K/128).ceil(columns/128)", mnsim_passes(spec.slices, k, columns),
            "passes", f"of t_xbar + t_DAC + {conversion:g} ns, one after the other",
        ),
        Peer(
            "ZigZag-IMC", "S.ceil(K/rows).clock", steps * clock_ns,
            "ns", "28 nm, an ADC to each column; weights as if 1, 2, 4 or 8 bits",
        ),
    ]  # fmt: skip


def example() -> Iterator[Row]:
    """Yield the example's layer for native, differential and bit-serial, slices of 1 and 4 bits."""
    for decomposition, slice_bits in itertools.product(reversed(DECOMPOSITIONS), (1, 4)):
        yield row(example_macro(decomposition, slice_bits), EXAMPLE)


def of_network(network: Path, machine: str) -> list[dict[str, Any]]:
    """Return for each layer on the macro its simulated cycles, and what each formula says of it."""
    from cosil.machine.execute import execute
    from cosil.machine.inputs import random_inputs
    from cosil.machine.spec import load_machine
    from cosil.packed.file import load

    net = load(network)
    nodes = {node.name: node for node in net.nodes}
    found: list[dict[str, Any]] = []
    for layer in execute(load_machine(machine), net, random_inputs(net)).layers:
        if not isinstance(layer.spec, PimSpec):
            continue
        node = nodes[layer.name]
        n, k = node.tensors["weight"].shape
        products = layer.counts["results"] // n
        found.append(
            {
                "name": layer.name,
                "products": products,
                "inputs": k,
                "outputs": n,
                "simulated_cycles": sum(job.cycles for job in layer.jobs),
                "formulas": [
                    asdict(replace(each, value=each.value * products))
                    for each in peers(layer.spec, k, n, node.attrs["group_rows"])
                ],
            }
        )
    return found


def main() -> None:
    """Print the table, or with --json the same as an object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="TOML of a PimSpec")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("M", "K", "N"), help="of one job")
    parser.add_argument("--network", type=Path, metavar="NET", help="packed network")
    parser.add_argument("--machine", metavar="M", help="TOML file or preset with a macro")
    arguments = parser.parse_args()
    for one, other in (("spec", "shape"), ("network", "machine")):
        if (getattr(arguments, one) is None) != (getattr(arguments, other) is None):
            parser.error(f"--{one} and --{other} go together")
    try:
        if arguments.network is not None:
            _print_network(of_network(arguments.network, arguments.machine), arguments.json)
        elif arguments.spec is not None:
            m, k, n = arguments.shape
            spec = PimSpec.from_toml(arguments.spec)
            _print_layer(spec, (m, k, n), [row(spec, (m, k, n))], arguments.json)
        else:
            _print_layer(example_macro("bit_serial", 1), EXAMPLE, list(example()), arguments.json)
    except (CosilError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))


def _print_network(layers: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"name": "pim_peers", "layers": layers}, indent=2))
        return
    units = {each["name"]: each["unit"] for layer in layers for each in layer["formulas"]}
    heads = "".join(f"{f'{name}, {unit}':>19}" for name, unit in units.items())
    print(f"{'layer':20} products   inputs  outputs  simulated{heads}")
    for layer in layers:
        cells = "".join(f"{each['value']:19,.0f}" for each in layer["formulas"])
        print(
            f"{layer['name']:20} {layer['products']:8,} {layer['inputs']:8,} "
            f"{layer['outputs']:8,} {layer['simulated_cycles']:10,}{cells}"
        )


def _print_layer(
    spec: PimSpec, shape: tuple[int, int, int], rows: list[Row], as_json: bool
) -> None:
    found = peers(spec, shape[1], shape[2])
    if as_json:
        table = {
            "name": "pim_peers",
            "shape": list(shape),
            "rows": [asdict(each) for each in rows],
            "product": [asdict(each) for each in found],
        }
        print(json.dumps(table, indent=2))
        return
    print(f"{shape[0]} vectors, {shape[1]} inputs, {shape[2]} outputs: {shape[0]} products")
    print("decomposition  m  conversions  per MAC   cycles SAR  cycles flash   ADC fJ/MAC")
    for each in rows:
        print(
            f"{each.decomposition:13} {each.slice_bits:2} {each.conversions:12,} "
            f"{each.conversions_per_mac:8.4f} {each.sar_cycles:12,} {each.flash_cycles:13,}   "
            f"{each.adc_fj_per_mac_low:.1f} .. {each.adc_fj_per_mac_high:.1f}"
        )
    print(f"\none product, {spec.decomposition}, m = {spec.slice_bits}:")
    for peer in found:
        print(f"{peer.name:11} {peer.value:10.4g} {peer.unit:7} {peer.formula:34} {peer.counts}")


if __name__ == "__main__":
    main()
