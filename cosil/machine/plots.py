# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
# matplotlib leaves its **kwargs untyped.
"""Figures of a run: cycles and utilisation by layer, energy by component, roofline, ADC models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosil.engines.attention import AttentionSpec
from cosil.engines.pim import PimSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.engines.xnor import XnorSpec
from cosil.machine.execute import LayerRun, MachineRun
from cosil.machine.summary import energy_by_adc_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CAUSE_COLOURS = {
    "compute": "#2a9d8f",
    "vector": "#8ab17d",
    "fill": "#b8b8b8",
    "interval": "#e9c46a",
    "result": "#f4a261",
    "a": "#e76f51",
    "w": "#c44536",
    "scale": "#9d4edd",
    "drain": "#457b9d",
    "memory": "#772e25",
    "qk": "#1b6f68",
    "pv": "#52b69a",
    "softmax": "#f2cc8f",
    "topk": "#b56576",
    "output": "#6d93b8",
    "dram": "#3d405b",
    "handoff": "#d9d9d9",
    "convert": "#264653",
    "row": "#8d99ae",
    "load": "#bc6c25",
    "stalled_in": "#9e2a2b",
    "stalled_out": "#540b0e",
}
CAUSE_LABELS = {
    "a": "wait for activations",
    "w": "wait for weights",
    "scale": "wait for scales",
    "interval": "tile interval",
    "result": "result memory full",
    "vector": "vector unit (modelled)",
    "memory": "memory (modelled)",
    "qk": "attention: Q.K",
    "pv": "attention: P.V",
    "softmax": "attention: softmax",
    "topk": "attention: top-k",
    "output": "attention: output",
    "dram": "attention: wait for memory",
    "handoff": "attention: handoff",
    "convert": "macro: conversion",
    "row": "macro: rows driven",
    "load": "load before the first input",
    "stalled_in": "wait for input",
    "stalled_out": "wait for output",
}
COMPONENT_COLOURS = (
    "#264653", "#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#e76f51", "#9d4edd", "#457b9d",
    "#6c757d", "#b56576", "#7f5539", "#a3b18a", "#d4a373",
)  # fmt: skip
INK, GRID = "#222222", "#dddddd"


def write_plots(run: MachineRun, folder: Path) -> list[Path]:
    """Write `layers.png`, `energy.png` and `roofline.png` to `folder`, and return their paths.

    Where the network has layers on the PIM macro, `adc.png` too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "layers": layers_figure(run),
        "energy": energy_figure(run),
        "roofline": roofline_figure(run),
    }
    if any(isinstance(layer.spec, PimSpec) for layer in run.layers):
        figures["adc"] = adc_figure(run)
    paths: list[Path] = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        temporary = folder / f".{name}.tmp.png"
        figure.savefig(temporary, dpi=160)
        temporary.replace(path)
        paths.append(path)
    return paths


def _engine(run: MachineRun) -> tuple[list[LayerRun], str, float]:
    """Return the layers that the roofline shows, their engine in words, and its MACs per cycle.

    The PIM macro's or the XNOR array's where there are any, else the array's, else those of
    attention: each engine has a roof of its own.
    """
    for layer in run.layers:
        spec = layer.spec
        if isinstance(spec, PimSpec | XnorSpec):
            own = [each for each in run.layers if isinstance(each.spec, type(spec))]
            return own, _words(spec), layer.macs_per_cycle or 0.0
    array = run.machine.array
    of_array = [layer for layer in run.layers if isinstance(layer.spec, W4A8Spec) and layer.bytes]
    if of_array or run.machine.attention is None:
        sides = f"{array.array_rows} x {array.array_cols} {array.dataflow}"
        return of_array, sides, array.array_rows * array.array_cols
    spec = run.machine.attention
    said = f"{spec.multipliers} multipliers, {spec.pool}"
    layers = [layer for layer in run.layers if isinstance(layer.spec, AttentionSpec)]
    return layers, said, spec.multipliers


def _words(spec: PimSpec | XnorSpec) -> str:
    if isinstance(spec, XnorSpec):
        return f"XNOR array of {spec.pe} x {spec.simd}"
    return f"{spec.decomposition} macro of {spec.rows} x {spec.columns}, {spec.adc_bits} bits"


def layers_figure(run: MachineRun) -> Figure:
    """Return cycles by cause, and utilisation of the engine, for each layer that takes time."""
    layers = [layer for layer in run.layers if layer.cycles]
    figure, (left, right) = _figure(len(layers), (2.2, 1.0))
    places = np.arange(len(layers))
    start = np.zeros(len(layers))
    for cause, colour in CAUSE_COLOURS.items():
        values = np.array([layer.cycles_by_cause.get(cause, 0) for layer in layers], dtype=float)
        if values.any():
            label = CAUSE_LABELS.get(cause, cause)
            left.barh(places, values, left=start, color=colour, label=label, height=0.74)
            start += values
    _layer_axis(left, [f"{layer.name}  " for layer in layers])
    left.set_xlabel("cycles")
    left.xaxis.set_major_formatter(_thousands)
    _legend(figure, left)
    used = [100 * (layer.utilisation or 0.0) for layer in layers]
    right.barh(places, used, color=CAUSE_COLOURS["compute"], height=0.74)
    for place, (layer, value) in enumerate(zip(layers, used, strict=True)):
        text = "vector unit" if layer.utilisation is None else f"{value:.0f} %"
        right.text(value + 1.5, place, text, va="center", fontsize=7, color=INK)
    right.set_xlim(0, 118)
    right.set_xticks([0, 25, 50, 75, 100])
    right.set_xlabel("utilisation, %")
    _, engine, _ = _engine(run)
    figure.suptitle(
        f"{run.network} on {run.machine.name}: {run.cycles:,} cycles, {engine}", fontsize=11
    )
    return figure


def energy_figure(run: MachineRun) -> Figure:
    """Return dynamic energy by component: each layer with and without the memory, and the total."""
    layers = [layer for layer in run.layers if layer.energy is not None]
    figure, panels = _figure(len(layers), (1.0, 1.0, 0.9))
    parts: dict[str, list[float]] = {}
    for index, layer in enumerate(layers):
        for name, value in _components(layer).items():
            parts.setdefault(name, [0.0] * len(layers))[index] = value / 1e3
    names = sorted(parts, key=lambda name: -sum(parts[name]))
    colours = dict(zip(names, COMPONENT_COLOURS * 2, strict=False))
    titles = ("with memory traffic", "engine alone")
    for axes, title, shown in zip(
        panels, titles, (names, [name for name in names if not name.startswith("memory")]),
        strict=False,
    ):  # fmt: skip
        start = np.zeros(len(layers))
        for name in shown:
            values = np.array(parts[name])
            axes.barh(
                np.arange(len(layers)), values, left=start, color=colours[name], label=name,
                height=0.74,
            )  # fmt: skip
            start += values
        axes.set_xlabel(f"{title}, nJ")
        axes.xaxis.set_major_formatter(_thousands)
        axes.xaxis.set_major_locator(_few_ticks())
    _layer_axis(panels[0], [f"{layer.name}  " for layer in layers])
    totals = [sum(parts[name]) for name in names]
    whole = sum(totals) or 1.0
    axes = panels[2]
    axes.barh(range(len(names)), totals, color=[colours[name] for name in names], height=0.74)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    for place, value in enumerate(totals):
        if value:
            axes.text(value, place, f" {value / whole:.2%}", va="center", fontsize=7, color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("total by component, nJ (logarithmic)")
    low = sum(layer.energy.low_pj for layer in layers if layer.energy) / 1e3
    high = sum(layer.energy.high_pj for layer in layers if layer.energy) / 1e3
    figure.suptitle(
        f"{run.network} on {run.machine.name}: {whole:,.0f} nJ dynamic (sources leave {low:,.0f} "
        f"to {high:,.0f} nJ; {run.machine.technology}, {run.machine.memory.energy})",
        fontsize=11,
    )
    return figure


def adc_figure(run: MachineRun) -> Figure:
    """Return the macro's energy by component under each ADC model: nJ, and shares; no memory."""
    layers = [layer for layer in run.layers if isinstance(layer.spec, PimSpec)]
    models = {
        model: {name: pj / 1e3 for name, pj in parts.items() if not name.startswith("memory")}
        for model, parts in (energy_by_adc_model(layers) or {}).items()
    }
    figure, panels = _figure(len(models), (1.2, 1.0))
    names = sorted(next(iter(models.values())), key=lambda name: (name != "ADC", name))
    totals = np.array([sum(parts.values()) for parts in models.values()])
    places = np.arange(len(models))
    for axes, scale in zip(panels, (np.ones(len(models)), 100 / totals), strict=True):
        start = np.zeros(len(models))
        for name, colour in zip(names, COMPONENT_COLOURS, strict=False):
            values = np.array([parts[name] for parts in models.values()]) * scale
            axes.barh(places, values, left=start, color=colour, label=name, height=0.6)
            start += values
    for place, (parts, total) in enumerate(zip(models.values(), totals, strict=True)):
        panels[0].text(total, place, f" {total:,.3g}", va="center", fontsize=8, color=INK)
        panels[1].text(
            1.5, place, f"{100 * parts['ADC'] / total:.0f} %", va="center", fontsize=8,
            color="white",
        )  # fmt: skip
    _layer_axis(panels[0], [f"{model}  " for model in models])
    panels[0].margins(x=0.12)
    panels[0].set_xlabel("macro without memory traffic, nJ")
    panels[0].xaxis.set_major_formatter(_thousands)
    panels[1].set_xlabel("share, %")
    _legend(figure, panels[0])
    figure.suptitle(
        f"{run.network} on {run.machine.name}: energy under each ADC model "
        f"({run.machine.technology})",
        fontsize=11,
    )
    return figure


def roofline_figure(run: MachineRun) -> Figure:
    """Return attained MACs per cycle over MACs per byte, below the machine's two roofs."""
    from matplotlib.figure import Figure

    layers, _, peak = _engine(run)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    _style(axes)
    rate = run.machine.memory.bytes_per_cycle
    intensity = np.array([layer.macs / layer.bytes for layer in layers])
    attained = np.array([layer.macs / layer.cycles for layer in layers])
    edges = [*intensity, peak / rate] if rate else [*intensity]
    x = np.geomspace(min(edges) / 2, max(edges) * 2, 200)
    roof = np.minimum(peak, x * rate) if rate else np.full_like(x, peak)
    axes.plot(x, roof, color=INK, linewidth=1.6, zorder=2)
    axes.fill_between(x, roof, color="#f1f5f4", zorder=0)
    axes.text(x[-1], peak * 1.06, f"{peak:g} MAC/cycle", ha="right", va="bottom", fontsize=8)
    if rate:
        slope = x[roof < peak]
        if len(slope):
            at = slope[len(slope) // 2]
            axes.text(
                at * 1.05, at * rate / 1.1, f"{rate:g} B/cycle", ha="left", va="top", fontsize=8
            )
    sizes = np.array([layer.cycles for layer in layers], dtype=float)
    axes.scatter(
        intensity, attained, s=20 + 180 * sizes / sizes.max(), color=CAUSE_COLOURS["compute"],
        edgecolor="white", linewidth=0.8, alpha=0.85, zorder=3,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(x[0], x[-1])
    low, high = min(attained.min(), roof.min()) / 2, peak * 1.8
    axes.set_ylim(low, high)
    spans = (float(np.log2(x[-1] / x[0])), float(np.log2(high / low)))
    for point, place, text in _labels(layers, intensity, attained, spans):
        axes.annotate(
            text, point, xytext=place, fontsize=7, color=INK, va="center",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5},
        )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain)
    axes.set_xlabel("operational intensity, MAC/byte")
    axes.set_ylabel("attained, MAC/cycle")
    axes.set_title(f"{run.network} on {run.machine.name} (area: cycles)", fontsize=11)
    return figure


def _labels(
    layers: list[LayerRun],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    spans: tuple[float, float],
    most: int = 8,
) -> list[tuple[tuple[float, float], tuple[float, float], str]]:
    """Return point, place and text for the layers with most cycles, texts clear of each other.

    Layers at one point share a text. `spans` are the lengths of the axes in powers of two.
    """
    points: dict[tuple[float, float], list[int]] = {}
    for index in sorted(range(len(layers)), key=lambda i: -layers[i].cycles):
        key = (round(float(np.log2(x[index])), 2), round(float(np.log2(y[index])), 2))
        points.setdefault(key, []).append(index)
    places: list[tuple[float, float]] = []
    labels: list[tuple[tuple[float, float], tuple[float, float], str]] = []
    for (across, up), members in sorted(list(points.items())[:most], key=lambda item: -item[0][1]):
        name = layers[members[0]].name
        text = name if len(members) == 1 else f"{name} and {len(members) - 1} more"
        left, height = across + 0.025 * spans[0], up - 0.025 * spans[1]
        while any(
            abs(left - other) < 0.24 * spans[0] and abs(height - level) < 0.03 * spans[1]
            for other, level in places
        ):
            height -= 0.03 * spans[1]
        places.append((left, height))
        labels.append(((2.0**across, 2.0**up), (2.0**left, 2.0**height), text))
    return labels


def _figure(rows: int, widths: tuple[float, ...]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 1.9 + 0.24 * max(rows, 9)), layout="constrained")
    panels = list(figure.subplots(1, len(widths), width_ratios=widths))
    for axes in panels:
        _style(axes)
        axes.set_yticks([])
        axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    return figure, panels


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _layer_axis(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(np.arange(len(names)), names, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _components(layer: LayerRun) -> dict[str, float]:
    return {} if layer.energy is None else dict(layer.energy.components)


def _thousands(value: float, _position: Any) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:g}"


def _plain(value: float, _position: Any) -> str:
    return f"{value:g}"
