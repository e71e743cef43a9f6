# SPDX-License-Identifier: Apache-2.0
"""Action counts (section 8): their order in the kernels' count vector."""

from __future__ import annotations

NAMES = (
    "mac",
    "operand_reg",
    "requant",
    "result_write",
    "result_read",
    "epilogue",
    "ring_write_bytes",
    "ring_read_bytes",
    "a_beats",
    "w_beats",
    "s_beats",
    "e_beats",
    "r_beats",
    "y_beats",
)

MAC, OPERAND_REG, REQUANT, RESULT_WRITE, RESULT_READ, EPILOGUE, RING_WRITE, RING_READ, BEATS = range(9)
"""`BEATS + s` counts the transfers of stream s (a, w, s, e, r, y)."""
