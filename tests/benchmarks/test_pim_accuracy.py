# SPDX-License-Identifier: Apache-2.0
"""The accuracy study behind ADCs: which runs it makes, what it keeps, tables and bars."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.lib.pim_plots import draw
from benchmarks.lib.pim_tables import Cell, markdown, percent, results_of
from benchmarks.pim_accuracy import ABLATION, BITS, CHIP, NETWORKS, Study

torch.set_num_threads(1)

GRID = {"decomposition": "native", "adc_bits": 3, "layer": "a", "lsb": 9, "offset": -2,
        "csnr_db": 12.04, "full_scale_db": 0.5}  # fmt: skip


def _cell(table: str, label: str, bits: int, accuracy: list[float], adc: str = "ideal") -> Cell:
    return Cell("net", table, label, "bit_serial", bits, adc, accuracy)


CELLS = [
    _cell("digital", "exact sums", 0, [0.98, 0.99]),
    _cell("bits", "conventional", 5, [0.30, 0.34]),
    _cell("bits", "conventional", 7, [0.90, 0.90]),
    _cell("bits", "PIM-QAT", 5, [0.90, 0.92]),
    _cell("bits", "PIM-QAT", 7, [0.97, 0.98]),
    _cell("bits", "PIM-QAT", 7, [0.5, 0.5], "non-ideal"),
    _cell("ablation", "all parts", 5, [0.9]),
    Cell("net", "grid", "B", "native", 3, "ideal", [0.1]),
    Cell("net", "grid", "search", "native", 3, "ideal", [0.97]),
]


def test_bars():
    """The drop at 7 bits is against exact sums, the gain at 5 against direct deployment."""
    results = {item["name"]: item for item in results_of(CELLS)}
    assert results["net_bit_serial_7_drop"]["value"] == pytest.approx(1.0)
    assert results["net_bit_serial_7_drop"]["bar"] == 1.0
    assert results["net_bit_serial_5_gain"]["value"] == pytest.approx(59.0)
    assert results["net_bit_serial_5_gain"]["baseline"] == pytest.approx(32.0)
    assert results_of(CELLS[1:]) == []


def test_tables():
    """Means and deviations over seeds; a cell without runs stays empty; grids with their CSNR."""
    assert percent(CELLS[0]) == "98.50 ± 0.71"
    lines = markdown("title", CELLS, [GRID]).splitlines()
    assert lines[0] == "title"
    assert "| bit_serial | ideal | PIM-QAT | 91.00 ± 1.41 | 97.50 ± 0.71 |" in lines
    assert "| bit_serial | non-ideal | PIM-QAT | | 50.00 ± 0.00 |" in lines
    assert "| all parts | 90.00 |  |" in lines
    assert "| native | 3 | 10.00 | 97.00 | 9, -2: 0.5 to 12.0 dB |" in lines


def test_the_study_covers_what_the_project_promises():
    """Three to ten bits, three seeds on digits; every switch of the method in the ablation."""
    assert BITS == (3, 5, 7, 10)
    assert NETWORKS[0].name == "digits-cnn"
    assert NETWORKS[0].seeds == 3
    switched = {name for values in ABLATION.values() for name in values}
    assert switched == {
        "pim_training", "bn_calibration", "backward_rescale", "forward_rescale", "train_adc_bits",
        "error_training", "grid",
    }  # fmt: skip
    assert all(CHIP.values())


def test_a_run_is_made_once_and_a_training_serves_several_chips(tmp_path: Path):
    """What is kept is not computed again; with `kept` nothing is computed."""

    def study(kept: bool) -> Study:
        changes = {"steps": 1, "start_samples": 32}
        return Study(NETWORKS[0], tmp_path, kept, 20, torch.device("cpu"), changes, 1)

    first = study(False)
    settings = first.settings(0, adc_bits=5)
    value = first.accuracy(settings)
    assert value is not None
    assert 0 <= value <= 1
    assert len(list(tmp_path.iterdir())) == 1
    chip = first.settings(0, adc_bits=5, **CHIP)
    trained = first.training(settings)
    assert first.training(chip) is trained
    again = study(True)
    assert again.accuracy(settings) == value
    assert again.accuracy(chip) is None
    assert {cell.label for cell in again.cells((5,))} == {"PIM-QAT", "all parts"}


def test_figures(tmp_path: Path):
    """One of accuracies for each network, one of transfer curves."""
    draw(tmp_path, [vars_of(cell) for cell in CELLS], CHIP)
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy-net.svg", "transfer.svg"}


def vars_of(cell: Cell) -> dict[str, object]:
    """Return a cell's fields."""
    return {name: getattr(cell, name) for name in Cell.__slots__}
