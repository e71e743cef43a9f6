# SPDX-License-Identifier: Apache-2.0
"""Cells of the accuracy study behind ADCs, its tables and its bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cosil.packed.decomposition import DECOMPOSITIONS

SEARCHED = (
    "Grid searched on calibration data, conventional training, norms calibrated, ideal ADC; of the"
    " first seed's layers k, l and the CSNR from full scale to searched grid:"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Accuracies of one setting, one a seed."""

    network: str
    table: str
    label: str
    decomposition: str
    adc_bits: int
    adc: str
    accuracy: list[float]

    @property
    def mean(self) -> float:
        """Mean over seeds, a fraction."""
        return float(np.mean(self.accuracy))


def _cells(cells: Sequence[Cell], **wanted: Any) -> list[Cell]:
    return [c for c in cells if all(getattr(c, name) == value for name, value in wanted.items())]


def percent(cell: Cell) -> str:
    """Return mean and, of several seeds, standard deviation in per cent."""
    if len(cell.accuracy) == 1:
        return f"{100 * cell.mean:.2f}"
    return f"{100 * cell.mean:.2f} ± {100 * float(np.std(cell.accuracy, ddof=1)):.2f}"


def markdown(title: str, cells: Sequence[Cell], grids: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of a network.

    Parameters
    ----------
    title : str
        Data and settings, the paragraph above the tables.
    cells : sequence of Cell
        Of the network.
    grids : sequence of mapping
        decomposition, adc_bits, layer, lsb, offset, csnr_db, full_scale_db.
    """
    lines = [title, ""]
    swept = _cells(cells, table="bits")
    bits = sorted({cell.adc_bits for cell in swept})
    adcs = dict.fromkeys(cell.adc for cell in swept)
    trainings = dict.fromkeys(cell.label for cell in swept)
    lines += [
        "| decomposition | ADC | training |" + "".join(f" {b} bits |" for b in bits),
        "|---|---|---|" + "---|" * len(bits),
    ]
    there = {cell.decomposition for cell in swept}
    decompositions = [name for name in DECOMPOSITIONS if name in there]
    for decomposition, adc, training in product(decompositions, adcs, trainings):
        row = {"label": training, "decomposition": decomposition, "adc": adc}
        line = f"| {decomposition} | {adc} | {training} |"
        for b in bits:
            found = _cells(swept, **row, adc_bits=b)
            line += f" {percent(found[0])} |" if found else " |"
        lines.append(line)
    if _cells(cells, table="ablation"):
        lines += _ablation(_cells(cells, table="ablation"))
    if _cells(cells, table="grid"):
        lines += _searched(_cells(cells, table="grid"), grids)
    return "\n".join(lines)


def _ablation(cells: Sequence[Cell]) -> list[str]:
    at = cells[0]
    lines = [
        "",
        f"Parts of the training switched, {at.decomposition}, {at.adc_bits} bits:",
        "",
        "| training | ideal | non-ideal |",
        "|---|---|---|",
    ]
    for label in dict.fromkeys(cell.label for cell in cells):
        found = {cell.adc: percent(cell) for cell in cells if cell.label == label}
        lines.append(f"| {label} | {found.get('ideal', '')} | {found.get('non-ideal', '')} |")
    return lines


def _searched(cells: Sequence[Cell], grids: Sequence[Mapping[str, Any]]) -> list[str]:
    layers = list(dict.fromkeys(str(grid["layer"]) for grid in grids))
    lines = [
        "",
        SEARCHED,
        "",
        "| decomposition | bits | full scale | searched | " + " | ".join(layers) + " |",
        "|---|---|---|---|" + "---|" * len(layers),
    ]
    bits = sorted({cell.adc_bits for cell in cells})
    for decomposition, b in product(DECOMPOSITIONS, bits):
        at = {"decomposition": decomposition, "adc_bits": b}
        found = {cell.label: percent(cell) for cell in _cells(cells, **at)}
        line = f"| {decomposition} | {b} | {found.get('B', '')} | {found.get('search', '')} |"
        for grid in grids:
            if (grid["decomposition"], grid["adc_bits"]) == (decomposition, b):
                line += (
                    f" {grid['lsb']}, {grid['offset']}:"
                    f" {grid['full_scale_db']:.1f} to {grid['csnr_db']:.1f} dB |"
                )
        lines.append(line)
    return lines


def results_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the comparison with the bars, one record each (docs/json.md)."""
    results: list[dict[str, Any]] = []

    def add(name: str, value: float, better: str, bar: float, ours: Cell, baseline: Cell) -> None:
        results.append(
            {"name": f"{ours.network}_{name}", "value": 100 * value, "unit": "points",
             "better": better, "bar": bar, "ours": 100 * ours.mean,
             "baseline": 100 * baseline.mean}
        )  # fmt: skip

    at = {"table": "bits", "decomposition": "bit_serial", "adc": "ideal"}
    for digital in _cells(cells, table="digital"):
        here = _cells(cells, network=digital.network, **at)
        trained = {cell.adc_bits: cell for cell in _cells(here, label="PIM-QAT")}
        direct = {cell.adc_bits: cell for cell in _cells(here, label="conventional")}
        if 7 in trained:
            drop = digital.mean - trained[7].mean
            add("bit_serial_7_drop", drop, "lower", 1.0, trained[7], digital)
        if 5 in trained and 5 in direct:
            gain = trained[5].mean - direct[5].mean
            add("bit_serial_5_gain", gain, "higher", 0.0, trained[5], direct[5])
    return results
