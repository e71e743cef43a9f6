# SPDX-License-Identifier: Apache-2.0
"""Action counts (docs/engines/pim.md, section 6): their order in the kernels' count vector."""

from __future__ import annotations

NAMES = (
    "mac",
    "row_drives",
    "cell_ops",
    "samples",
    "conversions",
    "draws",
    "accumulates",
    "results",
    "w_beats",
    "t_beats",
    "n_beats",
    "e_beats",
    "x_beats",
    "y_beats",
    "job_beats",
)

(
    MAC, ROW_DRIVES, CELL_OPS, SAMPLES, CONVERSIONS, DRAWS, ACCUMULATES, RESULTS,
    LOAD_BEATS, _, _, _, X_BEATS, Y_BEATS, JOB_BEATS,
) = range(len(NAMES))  # fmt: skip
"""`LOAD_BEATS + s` counts the transfers of load stream s (w, t, n, e)."""
