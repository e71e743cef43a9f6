# SPDX-License-Identifier: Apache-2.0
"""Action counts and causes of cycles from what the device showed (docs/engines/attention.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cosil.engines.attention import AttentionSpec
from verif.lib.events import by_cause, split, totals
from verif.topk.counts import named_counts

CAUSES = ("qk", "pv", "dram", "softmax", "topk", "output", "handoff")

_NAMED = {
    "exp": "sum_keys",
    "weigh": "weigh_keys",
    "importance_add": "importance_keys",
    "score_write": "score_write",
    "distance_write": "distance_write",
    "distance_read": "distance_read",
    "redo_rows": "redo",
}
"""Counts that are a field of `o_events`."""


def action_counts(
    spec: AttentionSpec,
    observed: Mapping[int, int],
    fields: Mapping[str, list[int]],
    beats: Mapping[str, int],
    traffic: Mapping[str, int],
) -> dict[str, int]:
    """Return the counts of a run (section 7).

    Parameters
    ----------
    spec : AttentionSpec
    observed : mapping of int to int
        How often each value of `o_events` was seen.
    fields : mapping of str to [int, int]
        Offset and width of its fields.
    beats : mapping of str to int
        Transfers on cmd, q, k, v, e and kept.
    traffic : mapping of str to int
        What the beats of requests and of `o_kept` said: k_msb_bytes, k_lsb_bytes, v_bytes, and ids.
    """
    total = totals(observed, fields)
    counts = {name: total[field] for name, field in _NAMED.items()}
    counts |= {
        "mac_qk": total["mac_qk_lanes"] * spec.head_dim,
        "mac_pv": total["mac_pv_lanes"] * spec.head_dim,
        "score_read": total["score_read"] + total["score_read_lsb"],
        "out": beats["e"] * spec.out_lanes,
        **{name: traffic[name] for name in ("k_msb_bytes", "k_lsb_bytes", "v_bytes")},
        **{f"{name}_beats": beats[name] for name in ("k", "v", "q", "e", "kept", "cmd")},
    }
    # What a selector emits comes to light where it is used: each beat of values is launched once.
    used = {
        "value": (total["launch_v"], total["mac_pv_lanes"]),
        "token": (beats["kept"], traffic["ids"]),
    }
    for selector, (item_beats, items) in used.items():
        own = {
            name.removeprefix(f"{selector}."): amount
            for name, amount in total.items()
            if name.startswith(f"{selector}.")
        }
        inner = {"job": own["decided"], "keys": own["bank_write"], "items": item_beats}
        named = named_counts(own, inner, items)
        counts |= {f"{selector}_{name}": amount for name, amount in named.items()}
    return counts


def causes(observed: Mapping[int, int], fields: Mapping[str, list[int]]) -> dict[str, int]:
    """Return the cycles by cause (section 6)."""
    choosing = [
        f"{selector}.{level}"
        for selector in ("value", "token")
        for level in ("loading", "selecting", "filtering")
    ]

    def holds(events: int) -> dict[str, object]:
        event = split(events, fields)
        return {
            "qk": event["launch_k"],
            "pv": event["launch_v"],
            "dram": event["k_wait"] | event["v_wait"],
            "softmax": event["sum_busy"] | event["weigh_busy"],
            "topk": any(event[name] for name in choosing),
            "output": event["output_busy"],
            "handoff": True,
        }

    return by_cause(observed, CAUSES, holds)
