# SPDX-License-Identifier: Apache-2.0
"""A machine's run as JSON (docs/json.md) and as the rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cosil.engines.attention import AttentionSpec
from cosil.engines.common import EngineSpec
from cosil.engines.pim import PimSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.engines.xnor import XnorSpec
from cosil.machine import pim
from cosil.machine.check import Check
from cosil.machine.execute import LayerRun, MachineRun
from cosil.machine.spec import FOLLOWS
from cosil.machine.workload import WorkloadRun

COLUMNS = (
    "layer", "op", "array", "cycles", "spent on", "utilisation", "MACs", "bytes", "energy nJ",
)  # fmt: skip

MODELLED = (
    "Engines' cycles are simulated (docs/decisions/0001); vector unit cycles (*) are modelled, not "
    "verified against hardware. Energy is the engines' and their memory traffic's, dynamic only."
)


def to_dict(run: MachineRun, check: Check | None = None) -> dict[str, Any]:
    """Return a run as `cosil simulate --json` prints it."""
    machine = run.machine
    array = machine.array
    engine = [layer for layer in run.layers if isinstance(layer.spec, W4A8Spec)]
    macs = sum(layer.macs for layer in engine)
    peak = array.array_rows * array.array_cols
    return {
        "machine": {
            "name": machine.name,
            "clock_hz": machine.clock_hz,
            "array_rows": array.array_rows,
            "array_cols": array.array_cols,
            "dataflow": array.dataflow,
            "bytes_per_cycle": machine.memory.bytes_per_cycle,
            "memory": machine.memory.energy,
            "technology": machine.technology,
            "vector_lanes": machine.vector.lanes,
            "variants": sorted({variant(layer) for layer in engine}),
            "pim": _parameters(machine.pim),
            "pim_area_um2": pim.area(machine),
            "xnor": _parameters(machine.xnor),
        },
        "network": run.network,
        "layers": [_layer(layer) for layer in run.layers],
        "total": {
            "cycles": run.cycles,
            "seconds": run.cycles / machine.clock_hz,
            "cycles_by_cause": _causes(run.layers),
            "macs": sum(layer.macs for layer in run.layers),
            "utilisation": macs / (peak * run.cycles) if run.cycles else 0.0,
            "array_utilisation": _utilisation(engine) or 0.0,
            "pim_utilisation": _utilisation(run.layers, PimSpec),
            "xnor_utilisation": _utilisation(run.layers, XnorSpec),
            "bytes": sum(layer.bytes for layer in run.layers),
            **_energy(run.layers),
        },
        "check": None if check is None else {
            "equal": check.equal,
            "layers": check.layers,
            "elements": check.elements,
            "differences": list(check.differences),
        },
    }  # fmt: skip


def workload_to_dict(run: WorkloadRun) -> dict[str, Any]:
    """Return a workload's run as `cosil simulate --workload --json` prints it."""
    counts: Counter[str] = Counter()
    for layer in run.layers:
        counts.update(layer.counts)
    return {
        "machine": run.machine.name,
        "engine": asdict(run.spec),
        "values": run.values,
        "workload": asdict(run.totals),
        "layers": [_layer(layer) for layer in run.layers],
        "total": {
            "cycles": run.cycles,
            "seconds": run.cycles / run.machine.clock_hz,
            "cycles_by_cause": _causes(run.layers),
            "macs": sum(layer.macs for layer in run.layers),
            "utilisation": run.utilisation,
            "bytes": run.bytes,
            "roof_cycles": run.roof_cycles,
            "roof_fraction": run.roof_cycles / run.cycles,
            **_energy(run.layers),
            "counts": dict(counts),
        },
    }


def _energy(layers: Sequence[LayerRun]) -> dict[str, Any]:
    energies = [layer.energy for layer in layers if layer.energy is not None]
    return {
        "energy_pj": sum(energy.total_pj for energy in energies),
        "energy_low_pj": sum(energy.low_pj for energy in energies),
        "energy_high_pj": sum(energy.high_pj for energy in energies),
        "energy_by_component_pj": energy_by_component(layers),
        "energy_by_adc_model_pj": energy_by_adc_model(layers),
    }


def _layer(layer: LayerRun) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "engine": layer.engine,
        "variant": variant(layer),
        "cycles": layer.cycles,
        "cycles_by_cause": dict(layer.cycles_by_cause),
        "cycles_are": "simulated" if layer.spec is not None else "modelled",
        "macs": layer.macs,
        "utilisation": layer.utilisation,
        "bytes": layer.bytes,
        "energy_pj": None if layer.energy is None else layer.energy.total_pj,
        "energy_low_pj": None if layer.energy is None else layer.energy.low_pj,
        "energy_high_pj": None if layer.energy is None else layer.energy.high_pj,
        "energy_by_adc_model_pj": energy_by_adc_model([layer]),
        "counts": dict(layer.counts),
        "shape": list(layer.shape),
    }


def variant(layer: LayerRun) -> str:
    """Return what the layer's engine had to be; empty on the vector unit.

    Scale datapath, weight encoding and epilogue of the array; columns, lanes and selectors of the
    attention engine; decomposition, slices and converters of the PIM macro; weights and epilogue of
    the XNOR array.
    """
    if layer.spec is None:
        return ""
    if isinstance(layer.spec, AttentionSpec):
        return f"{layer.spec.head_dim}x{layer.spec.lanes}/{layer.spec.topk}"
    if isinstance(layer.spec, PimSpec):
        spec = layer.spec
        return f"{spec.decomposition}/{spec.slices}x{spec.slice_bits}/{spec.adc_bits} bits"
    if isinstance(layer.spec, XnorSpec):
        return f"{layer.spec.weights}/{layer.spec.epilogue}"
    assert isinstance(layer.spec, W4A8Spec)
    return f"{layer.spec.scales}/{layer.spec.weight_encoding}/{layer.spec.epilogue}"


def energy_by_component(layers: Sequence[LayerRun]) -> dict[str, float]:
    """Return pJ by component of several layers."""
    total: dict[str, float] = {}
    for layer in layers:
        if layer.energy is not None:
            for name, value in layer.energy.components.items():
                total[name] = total.get(name, 0.0) + value
    return total


def energy_by_adc_model(layers: Sequence[LayerRun]) -> dict[str, dict[str, float]] | None:
    """Return pJ by component of several layers under each ADC model; None if there is no ADC."""
    models = [layer.energy.alternatives for layer in layers if layer.energy is not None]
    names = dict.fromkeys(name for each in models for name in each)
    if not names:
        return None
    total: dict[str, dict[str, float]] = {name: {} for name in names}
    for layer in layers:
        if layer.energy is None:
            continue
        for name, parts in total.items():
            for component, value in layer.energy.alternatives.get(
                name, layer.energy.components
            ).items():
                parts[component] = parts.get(component, 0.0) + value
    return total


def rows(run: MachineRun) -> list[list[Any]]:
    """Return one row of `COLUMNS` for each layer that takes time, and a last one with totals."""
    table: list[list[Any]] = [
        [
            layer.name,
            layer.op,
            variant(layer) or ("dot unit*" if layer.engine == "vector.dot" else "vector*"),
            layer.cycles,
            spent_on(layer.cycles_by_cause),
            None if layer.utilisation is None else f"{layer.utilisation:.1%}",
            layer.macs or None,
            layer.bytes,
            _energy_cell([layer]),
        ]
        for layer in run.layers
        if layer.cycles
    ]
    workload = isinstance(run, WorkloadRun)
    total = (workload_to_dict(run) if workload else to_dict(run))["total"]
    table.append(
        [
            "total",
            "",
            "",
            total["cycles"],
            spent_on(total["cycles_by_cause"], most=7) if workload else "",
            f"{total['utilisation']:.1%}" if total["utilisation"] else None,
            total["macs"],
            total["bytes"],
            _energy_cell(run.layers),
        ]
    )
    return table


def _energy_cell(layers: Sequence[LayerRun]) -> float | str | None:
    """Return nJ, or the lowest and the highest of the ADC models."""
    energies = [layer.energy for layer in layers if layer.energy is not None]
    models = energy_by_adc_model(layers)
    if models is None:
        return _nanojoules(sum(each.total_pj for each in energies)) if energies else None
    totals = [_nanojoules(sum(parts.values())) for parts in models.values()]
    return f"{min(totals):,} .. {max(totals):,}"


def spent_on(causes: Mapping[str, int], most: int = 2) -> str:
    """Return the causes that took most cycles, e.g. ``compute 71%, drain 20%``."""
    cycles = sum(causes.values())
    largest = sorted(causes.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {count / cycles:.0%}" for name, count in largest if count)


def closing_lines(run: MachineRun) -> list[str]:
    """Return what a reader wants to know below the table."""
    total = to_dict(run)["total"]
    engines = {"array": W4A8Spec, "macro": PimSpec, "XNOR array": XnorSpec}
    shares = {noun: _utilisation(run.layers, kind) for noun, kind in engines.items()}
    busy = ", ".join(f"the {noun} does {each:.1%}" for noun, each in shares.items() if each)
    models: dict[str, dict[str, float]] = total["energy_by_adc_model_pj"] or {}
    under: list[str] = []
    for name, parts in models.items():
        whole = sum(parts.values())
        under.append(f"{name} {_nanojoules(whole):,} (ADC {parts['ADC'] / whole:.0%})")
    return [
        f"{_time(run, total)}" + (f"; {busy} of its peak in its own layers" if busy else ""),
        _energy_line(run, total),
        *([f"energy under each ADC model, nJ: {', '.join(under)}"] if under else []),
        *([_area_line(run)] if shares["macro"] else []),
        MODELLED,
    ]


def workload_lines(run: WorkloadRun) -> list[str]:
    """Return what a reader wants to know below a workload's table."""
    total, asked = workload_to_dict(run)["total"], run.totals
    roof = (
        f"memory: {run.bytes:,} bytes need {run.roof_cycles:,} cycles: "
        f"{total['roof_fraction']:.1%} of its bandwidth is used"
    )
    said = (
        f"workload: {asked.rows:,} rows, {asked.keys:,} keys, {asked.values:,} values, "
        f"{asked.flops / 1e6:,.1f} MFLOP, {asked.bytes:,} bytes in groups of 8"
    )
    return [
        said,
        _time(run, total),
        *([roof] if run.roof_cycles else []),
        f"{_energy_line(run, total)}; the engine's and its memory traffic's, dynamic only",
        f"values: {run.values}",
    ]


def _time(run: MachineRun, total: Mapping[str, Any]) -> str:
    seconds = total["seconds"]
    rate = 2 * total["macs"] / seconds / 1e9 if seconds else 0.0
    clock = f"{run.machine.clock_hz / 1e6:g} MHz"
    return f"{total['cycles']:,} cycles = {_duration(seconds)} at {clock}; {rate:.3g} GOPS"


def _energy_line(run: MachineRun, total: Mapping[str, Any]) -> str:
    value, low, high = (
        _nanojoules(total[key]) for key in ("energy_pj", "energy_low_pj", "energy_high_pj")
    )
    machine = run.machine
    return (
        f"energy {value:,} nJ, sources leave {low:,} to {high:,} nJ "
        f"({machine.technology}, {machine.memory.energy})"
    )


def _area_line(run: MachineRun) -> str:
    area = pim.area(run.machine)
    assert area is not None
    value, low, high = (area["total"][name] / 1e6 for name in ("value", "low", "high"))
    adcs = ", ".join(f"{um2 / 1e6:.3g} {model}" for model, um2 in area["adc_models"].items())
    return f"macro {value:.3g} mm2, sources leave {low:.3g} to {high:.3g}; of it the ADCs: {adcs}"


def _nanojoules(picojoules: float) -> float:
    """Return nJ with four digits, or as a whole number from 1000 on."""
    value = picojoules / 1e3
    return round(value) if value >= 1000 else float(f"{value:.4g}")


def _duration(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def _utilisation(layers: Sequence[LayerRun], kind: type[EngineSpec] = EngineSpec) -> float | None:
    """Return products done over those possible in the layers of a kind; None without any."""
    own = [layer for layer in layers if isinstance(layer.spec, kind)]
    possible = sum((layer.macs_per_cycle or 0.0) * layer.cycles for layer in own)
    return sum(layer.macs for layer in own) / possible if own else None


def _parameters(spec: EngineSpec | None) -> dict[str, Any] | None:
    """Return what a machine says of one of its engines: nothing of what follows each layer."""
    if spec is None:
        return None
    table = asdict(spec)
    return {name: value for name, value in table.items() if name not in FOLLOWS[spec.ENGINE]}


def _causes(layers: Sequence[LayerRun]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for layer in layers:
        total.update(layer.cycles_by_cause)
    return dict(total)
