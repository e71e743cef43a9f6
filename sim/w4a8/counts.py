# SPDX-License-Identifier: Apache-2.0
"""Action counts (section 8): their order in the kernels' count vector."""

from __future__ import annotations

from sim.w4a8.plan import Plan

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

MAC, OPERAND_REG, REQUANT, RESULT_WRITE, RESULT_READ, EPILOGUE, RING_WRITE, RING_READ, BEATS = (
    range(9)
)
"""`BEATS + s` counts the transfers of stream s (a, w, s, e, r, y)."""


def closed_form(plan: Plan, a_beat_bytes: int, w_beat_bytes: int) -> list[int]:
    """Return the counts of a whole job, in the order of `NAMES`."""
    rows, cols, m, n, k = plan.rows, plan.cols, plan.m, plan.n, plan.k
    tiles = plan.row_tiles * plan.col_tiles
    pairs = _sum_of_ceil(n, cols, 2)
    a_beats = m * plan.col_tiles * plan.parts
    w_beats = n * plan.row_tiles * plan.parts
    if plan.ws:
        loads = plan.row_tiles * plan.parts
        operand_reg = m * k * pairs + loads * n * rows * (rows + 1) // 2
        requant = loads * n * rows
        result_write = result_read = m * n * plan.parts
        ring_read = m * plan.col_tiles * plan.parts * rows + loads * rows * pairs
        scales = tiles * sum(
            1 + (min(k0 + rows, k) - 1) // plan.group - k0 // plan.group for k0 in range(0, k, rows)
        )
        row_scales = plan.col_tiles * _sum_of_ceil(m, plan.tile_rows, rows)
    else:
        operand_reg = k * m * (pairs + n)
        requant = k * n * plan.row_tiles
        result_write = result_read = m * n
        ring_read = k * (m * plan.col_tiles + pairs * plan.row_tiles)
        scales = tiles * -(-k // plan.group)
        row_scales = tiles
    return [
        m * n * k,
        operand_reg,
        plan.group_scales * requant,
        result_write,
        result_read,
        m * n,
        a_beats * a_beat_bytes + w_beats * w_beat_bytes,
        ring_read,
        a_beats,
        w_beats,
        plan.group_scales * scales,
        tiles,
        plan.fp16 * row_scales,
        m * _sum_of_ceil(n, cols, plan.lanes),
    ]


def _sum_of_ceil(total: int, tile: int, per: int) -> int:
    """Sum of ceil(size / per) over the tiles that `total` is cut into."""
    full, rest = divmod(total, tile)
    return full * -(-tile // per) + -(-rest // per)
