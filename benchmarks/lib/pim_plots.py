# SPDX-License-Identifier: Apache-2.0
"""Figures of the accuracy study behind ADCs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosil.lowering.pim_transfer import Grid, synthetic, with_errors
from cosil.packed.decomposition import DECOMPOSITIONS, code_range

COLUMNS = 8
"""Columns whose transfer curves are drawn."""


def draw(folder: Path, cells: Sequence[Mapping[str, Any]], chip: Mapping[str, float]) -> None:
    """Write accuracy-NETWORK.svg and transfer.svg.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    cells : sequence of mapping
        `benchmarks.pim_accuracy.Cell` as dicts.
    chip : mapping
        Errors of the non-ideal chip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for network in dict.fromkeys(str(cell["network"]) for cell in cells):
        _accuracy(folder, network, [cell for cell in cells if cell["network"] == network])
    _transfer(folder, chip)


def _accuracy(folder: Path, network: str, cells: Sequence[Mapping[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    digital = [cell for cell in cells if cell["table"] == "digital"]
    styles = {("conventional", "ideal"): "C1-o", ("conventional", "non-ideal"): "C1--o",
              ("PIM-QAT", "ideal"): "C0-s", ("PIM-QAT", "non-ideal"): "C0--s"}  # fmt: skip
    for axis, decomposition in zip(axes, DECOMPOSITIONS, strict=True):
        for (label, adc), style in styles.items():
            found = [
                cell for cell in cells
                if (cell["table"], cell["label"], cell["decomposition"], cell["adc"])
                == ("bits", label, decomposition, adc)
            ]  # fmt: skip
            found.sort(key=lambda cell: int(cell["adc_bits"]))
            bits = [int(cell["adc_bits"]) for cell in found]
            mean = [100 * float(np.mean(cell["accuracy"])) for cell in found]
            axis.plot(bits, mean, style, label=f"{label}, {adc}", markersize=4)
        for cell in digital:
            axis.axhline(100 * float(np.mean(cell["accuracy"])), color="0.5", linewidth=1)
        axis.set(title=decomposition, xlabel="ADC bits")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{network}, top-1 (%)")
    axes[0].legend(fontsize=7)
    figure.savefig(folder / f"accuracy-{network}.svg")
    plt.close(figure)


def _transfer(folder: Path, chip: Mapping[str, float]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, decomposition in zip(axes, DECOMPOSITIONS, strict=True):
        grid = Grid(decomposition, 4, 4, 144, 5)
        low, high = code_range(decomposition, 5)
        values = np.arange(grid.values[0], grid.values[1] + 1)
        errors = synthetic(
            grid, COLUMNS, gain_sigma=chip["gain_sigma"], offset_sigma=chip["offset_sigma"],
            inl_peak=chip["inl_peak"],
        )  # fmt: skip
        drawn = with_errors(grid, errors)
        for table in drawn:
            axis.plot(values, ((table.astype(int) + 8) >> 4).clip(low, high), linewidth=0.7)
        ideal = ((grid.table().astype(int) + 8) >> 4).clip(low, high)
        axis.plot(values, ideal, "k", linewidth=1.2, label="ideal")
        axis.set(title=f"{decomposition}, 5 bits", xlabel="column value (units)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("code")
    axes[0].legend(fontsize=7)
    figure.savefig(folder / "transfer.svg")
    plt.close(figure)
