# SPDX-License-Identifier: Apache-2.0
"""A run as a trace in Chrome's JSON format, which Perfetto (ui.perfetto.dev) opens.

One process per machine; threads for layers, the array's waves, its drain, the vector unit, the
attention engine, the PIM macro's jobs and conversions, the XNOR array's jobs and vectors.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from cosil.machine.execute import LayerRun, MachineRun
from cosil.machine.summary import spent_on, variant

TILE_EVENTS_MAX = 200_000
"""Tiles and vectors that are written; a larger run keeps its layers and jobs, and says so."""

_PROCESS = 1
_THREADS = {
    1: "layers", 2: "array: waves", 3: "array: drain and epilogue", 4: "vector unit",
    5: "attention engine", 6: "PIM macro: jobs", 7: "PIM macro: conversions",
    8: "XNOR array: jobs", 9: "XNOR array: vectors",
}  # fmt: skip
_JOBS = {"pim": (6, "clamp"), "xnor": (8, "signs")}
"""Engines whose jobs are tiles of a layer's outputs: thread of the jobs, whose vectors have the
next; what the vector unit does before them."""


def write_trace(run: MachineRun, path: Path) -> None:
    """Write the trace of a run that was made with ``trace=True``, whole or not at all."""
    text = json.dumps(to_trace(run))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_trace(run: MachineRun) -> dict[str, Any]:
    """Return the trace: times in microseconds at the machine's clock, cycles as arguments."""
    scale = 1e6 / run.machine.clock_hz
    tiles = sum(len(job.events) for layer in run.layers for job in layer.jobs)
    events: list[dict[str, Any]] = [
        _name("process_name", 0, f"{run.network} on {run.machine.name}")
    ]
    for thread, name in _THREADS.items():
        events.append(_name("thread_name", thread, name))
        events.append(_name("thread_sort_index", thread, thread))
    for layer in run.layers:
        if not layer.cycles:
            continue
        arguments = {
            "op": layer.op,
            "variant": variant(layer),
            "spent on": spent_on(layer.cycles_by_cause, 8),
            "macs": layer.macs,
            "bytes": layer.bytes,
        }
        events.append(_span(1, layer.name, layer.start, layer.cycles, scale, arguments))
        events += _unit_spans(layer, scale)
        if tiles <= TILE_EVENTS_MAX:
            events += (_vector_spans if layer.engine in _JOBS else _tile_spans)(layer, scale)
        events.append(_counter(layer.start, layer.bytes / layer.cycles, scale))
    events.append(_counter(run.cycles, 0.0, scale))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "clock_hz": run.machine.clock_hz,
            "cycles": run.cycles,
            "tiles": "all" if tiles <= TILE_EVENTS_MAX else f"left out: {tiles} tiles or vectors",
        },
    }


def _unit_spans(layer: LayerRun, scale: float) -> list[dict[str, Any]]:
    """Return what the vector unit, or the attention engine, does in a layer."""
    if layer.engine == "attention":
        return [_span(5, layer.name, layer.start, layer.cycles, scale, {})]
    if not layer.jobs:
        return [_span(4, layer.name, layer.start, layer.cycles, scale, {})]
    before = layer.jobs[0].start
    if layer.engine in _JOBS:
        thread, prepare = _JOBS[layer.engine]
        spans = [_span(4, f"{layer.name}: {prepare}", layer.start, before, scale, {})]
        for number, job in enumerate(layer.jobs):
            name = f"{layer.name}: outputs of tile {number}"
            spans.append(_span(thread, name, layer.start + job.start, job.cycles, scale, {}))
        return spans if before else spans[1:]
    end = layer.jobs[-1].start + layer.jobs[-1].cycles
    spans = [
        (f"{layer.name}: quantise", layer.start, before),
        (f"{layer.name}: bias", layer.start + end, layer.cycles - end),
    ]
    return [_span(4, name, start, length, scale, {}) for name, start, length in spans if length]


def _tile_spans(layer: LayerRun, scale: float) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    for job in layer.jobs:
        base = layer.start + job.start
        for tile in job.events.tolist():
            m0, n0, rows, cols, first, last, drain_first, drain_last = tile
            label = f"tile {m0},{n0}"
            size = {"rows": rows, "cols": cols}
            spans.append(_span(2, label, base + first, last - first + 1, scale, size))
            length = drain_last - drain_first + 1
            spans.append(_span(3, label, base + drain_first, length, scale, size))
    return spans


def _vector_spans(layer: LayerRun, scale: float) -> list[dict[str, Any]]:
    """Return the conversions or steps of each vector, which follow each other; outputs overlap."""
    spans: list[dict[str, Any]] = []
    thread = _JOBS[layer.engine][0] + 1
    for job in layer.jobs:
        base = layer.start + job.start
        for event in job.events.tolist():
            said: dict[str, Any] = {}
            if layer.engine == "pim":
                number, launch, _, first, last, output = event
                said["first row driven"] = base + launch + 1
            else:
                number, first, last, output = event
            if output >= 0:
                said["last output"] = base + output
            name = f"vector {number}"
            spans.append(_span(thread, name, base + first, last - first + 1, scale, said))
    return spans


def _span(
    thread: int, name: str, start: int, cycles: int, scale: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": thread,
        "name": name,
        "ts": start * scale,
        "dur": cycles * scale,
        "args": {"first cycle": start, "cycles": cycles, **arguments},
    }


def _counter(cycle: int, value: float, scale: float) -> dict[str, Any]:
    name = "bytes per cycle"
    return {
        "ph": "C", "pid": _PROCESS, "name": name, "ts": cycle * scale, "args": {name: value},
    }  # fmt: skip


def _name(kind: str, thread: int, value: str | int) -> dict[str, Any]:
    key = "sort_index" if kind == "thread_sort_index" else "name"
    return {"ph": "M", "pid": _PROCESS, "tid": thread, "name": kind, "args": {key: value}}
