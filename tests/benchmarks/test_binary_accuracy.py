# SPDX-License-Identifier: Apache-2.0
"""The study of binarisers: rows, kept runs, table; runs and pages that studies share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from algos.binary import BINARISERS
from algos.data.images import digits
from algos.models.registry import NamedModel
from algos.models.tasks import ImageTask
from benchmarks.binary_accuracy import BEGIN, END, PAGE, PUBLISHED, ROWS, Row, markdown, rows_of
from benchmarks.lib.runs import Runs, write_between

torch.set_num_threads(1)

BASE = {"steps": 2, "rate": 0.5, "batch": 8}


def _named() -> NamedModel:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    images = digits()
    task = ImageTask(images.take(np.arange(24)), images.take(np.arange(24, 40)), full=16.0)
    return NamedModel("tiny", module.eval(), task)


def test_rows_are_computed_once(tmp_path: Path):
    """A finished run is not repeated; a method without all of its runs has no row."""
    named, runs = _named(), Runs(tmp_path)
    assert rows_of(named, BASE, 1, Runs(tmp_path, kept=True), ["ste"]) == []
    (row,) = rows_of(named, BASE, 2, runs, ["ste"])
    assert len(row.accuracy) == len(row.flips) == len(row.silent) == 2
    assert all(0 <= value <= 1 for value in (*row.accuracy, *row.flips, *row.silent))
    assert rows_of(named, BASE, 2, Runs(tmp_path, kept=True), ["ste"]) == [row]
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert rows_of(named, BASE, 3, Runs(tmp_path, kept=True), ["ste"]) == []


def test_the_study_covers_every_binariser_and_random_offsets():
    """One row each, and one for `bias_init`; published figures belong to rows."""
    assert {values["binariser"] for values in ROWS.values()} == set(BINARISERS)
    assert any(values.get("bias_init") for values in ROWS.values())
    assert set(PUBLISHED) <= set(ROWS)


def test_the_table_is_sorted_and_names_what_is_published():
    """The best first, means and deviations in per cent."""
    rows = [Row("ste", [0.5], [0.01], [0.2]), Row("recu", [0.9, 0.8], [0.01, 0.03], [0.5, 0.5])]
    head, _, _, _, first, second = markdown(_named(), BASE, 2, rows).splitlines()
    assert "steps 2, batch 8, rate 0.5" in head
    assert "trained on 50,000 images" in head
    assert first == "| recu | 85.00 ± 7.07 | 2.00 ± 1.41 | 50.00 ± 0.00 | 87.5 | 92.2 |"
    assert second == "| ste | 50.00 | 1.00 | 20.00 |  |  |"


def test_text_goes_between_the_markers(tmp_path: Path):
    """What stands around the markers stays; a page without them is refused."""
    page = tmp_path / "page.md"
    page.write_text("a\n<b>\nold\n<e>\nc\n", encoding="utf-8")
    write_between(page, "<b>", "<e>", "new")
    assert page.read_text(encoding="utf-8") == "a\n<b>\nnew\n<e>\nc\n"
    with pytest.raises(ValueError, match=r"must hold the lines '<b>' and '<x>'$"):
        write_between(page, "<b>", "<x>", "new")
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
