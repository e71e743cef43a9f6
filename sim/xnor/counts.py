# SPDX-License-Identifier: Apache-2.0
"""Action counts (docs/engines/xnor.md, section 6): their order in the kernels' count vector."""

from __future__ import annotations

NAMES = (
    "xnor",
    "weight_reads",
    "base_reads",
    "column_reads",
    "input_writes",
    "input_reads",
    "accumulates",
    "results",
    "outputs",
    "w_beats",
    "c_beats",
    "e_beats",
    "x_beats",
    "y_beats",
    "job_beats",
)

(
    XNOR, WEIGHT_READS, BASE_READS, COLUMN_READS, INPUT_WRITES, INPUT_READS, ACCUMULATES, RESULTS,
    OUTPUTS, LOAD_BEATS, _, _, X_BEATS, Y_BEATS, JOB_BEATS,
) = range(len(NAMES))  # fmt: skip
"""`LOAD_BEATS + s` counts the transfers of load stream s (w, c, e)."""
