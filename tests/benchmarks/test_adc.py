# SPDX-License-Identifier: Apache-2.0
"""The table of ADC models: all of them in each row, measured converters inside the range."""

from __future__ import annotations

from benchmarks.adc import BITS, costs, measured
from energy_models.lib.adc import AREA_MODELS, MODELS, Converter


def test_every_model_in_every_row() -> None:
    """Five energies and three areas of 4 to 10 bits, inside the range that is given."""
    for bits in BITS:
        row = costs(Converter(bits, 1e9, 32, 0.9))
        assert set(row["pj"]) == set(MODELS)
        assert set(row["um2"]) == set(AREA_MODELS)
        assert row["pj_low"] < min(row["pj"].values()) < max(row["pj"].values()) < row["pj_high"]


def test_measured_converters_lie_in_the_range() -> None:
    """Jia et al. at both voltages, energy and area."""
    rows = measured()
    assert len(rows) == 2
    for row in rows:
        assert row["pj_low"] < row["measured_pj"] < row["pj_high"]
        assert row["um2_low"] < row["measured_um2"] < row["um2_high"]
