# SPDX-License-Identifier: Apache-2.0
"""Action counts (section 7): their order in the kernels' count vector."""

from __future__ import annotations

from sim.topk.counts import NAMES as SELECTOR_NAMES

ENGINE_NAMES = (
    "mac_qk",
    "mac_pv",
    "exp",
    "weigh",
    "importance_add",
    "score_write",
    "score_read",
    "distance_write",
    "distance_read",
    "out",
    "k_msb_bytes",
    "k_lsb_bytes",
    "v_bytes",
    "k_beats",
    "v_beats",
    "q_beats",
    "e_beats",
    "kept_beats",
    "cmd_beats",
    "redo_rows",
)

(
    MAC_QK, MAC_PV, EXP, WEIGH, IMPORTANCE_ADD, SCORE_WRITE, SCORE_READ, DISTANCE_WRITE,
    DISTANCE_READ, OUT, K_MSB_BYTES, K_LSB_BYTES, V_BYTES, K_BEATS, V_BEATS, Q_BEATS, E_BEATS,
    KEPT_BEATS, CMD_BEATS, REDO_ROWS,
) = range(len(ENGINE_NAMES))  # fmt: skip

NAMES = (
    *ENGINE_NAMES,
    *(f"value_{name}" for name in SELECTOR_NAMES),
    *(f"token_{name}" for name in SELECTOR_NAMES),
)
