# SPDX-License-Identifier: Apache-2.0
"""Action counts (section 7): their order in the kernels' count vector."""

from __future__ import annotations

NAMES = (
    "bank_write_rows",
    "bank_read_rows",
    "histogram_keys",
    "compare_keys",
    "fifo_write_keys",
    "fifo_read_rows",
    "draws",
    "passes",
    "items",
    "job_beats",
    "keys_beats",
    "items_beats",
)

(
    BANK_WRITE, BANK_READ, HISTOGRAM, COMPARE, FIFO_WRITE, FIFO_READ, DRAWS, PASSES, ITEMS,
    JOB_BEATS, KEYS_BEATS, ITEMS_BEATS,
) = range(len(NAMES))  # fmt: skip
