# SPDX-License-Identifier: Apache-2.0
"""Action counts from what the device showed (docs/engines/w4a8.md, section 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cosil.engines.w4a8 import W4A8Spec
from verif.lib.events import split


def action_counts(
    spec: W4A8Spec, k: int, observed: Mapping[int, int], beats: Mapping[str, int],
    fields: Mapping[str, list[int]],
) -> dict[str, int]:  # fmt: skip
    """Return the counts of one job.

    Parameters
    ----------
    spec : W4A8Spec
        The array.
    k : int
        K of the job.
    observed : mapping of int to int
        How many cycles showed each value of `o_events`.
    beats : mapping of str to int
        Transfers on each of the streams a, w, s, e, r and y.
    fields : mapping of str to [int, int]
        Offset and width of the fields of `o_events`.

    Returns
    -------
    dict of str to int
        The names of section 8, and `waves`, the cycles in which a wave was launched.
    """
    ws, group = spec.dataflow == "ws", spec.scales == "group"
    counts: Counter[str] = Counter()
    for value, times in observed.items():
        event = split(value, fields)
        if event["wave"]:
            rows, cols = event["wave_rows"], event["wave_cols"]
            pairs = (cols + 1) // 2
            counts["waves"] += times
            counts["mac"] += times * rows * cols
            counts["operand_reg"] += times * rows * pairs
            if ws:
                counts["result_write"] += times * cols
                counts["result_read"] += times * cols * (not event["wave_first"])
                counts["ring_read_bytes"] += times * spec.array_rows
            else:
                counts["operand_reg"] += times * rows * cols
                counts["requant"] += times * cols * group
                counts["ring_read_bytes"] += times * (rows + pairs)
        if event["load"]:
            cols = event["load_cols"]
            counts["operand_reg"] += times * (event["load_step"] + 1) * cols
            counts["requant"] += times * cols * group
            counts["ring_read_bytes"] += times * ((cols + 1) // 2)
        if event["drain"]:
            counts["epilogue"] += times * event["drain_lanes"]
            counts["result_read"] += times * event["drain_lanes"]
    if not ws:
        # Each of a tile's K waves shows the rows x columns that the tile writes once.
        counts["result_write"] = counts["mac"] // k
    counts["ring_write_bytes"] = beats["a"] * spec.a_beat_bytes + beats["w"] * spec.w_beat_bytes
    names = (
        "waves", "mac", "operand_reg", "requant", "result_write", "result_read", "epilogue",
        "ring_write_bytes", "ring_read_bytes",
    )  # fmt: skip
    return {name: counts[name] for name in names} | {
        f"{stream}_beats": beats.get(stream, 0) for stream in "awsery"
    }
