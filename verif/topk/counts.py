# SPDX-License-Identifier: Apache-2.0
"""Action counts and causes of cycles from what the device showed (docs/engines/topk.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from verif.lib.events import by_cause, split, totals

CAUSES = ("stalled_out", "filter", "select", "load", "stalled_in", "handoff")


class Cycle(NamedTuple):
    """What a monitor saw of one cycle.

    Attributes
    ----------
    events : int
        `o_events`.
    row : bool
        A row of keys was transferred.
    held : bool
        A beat of items was offered and not taken.
    """

    events: int
    row: bool
    held: bool


def action_counts(
    observed: Mapping[Cycle, int], fields: Mapping[str, list[int]], beats: Mapping[str, int],
    items: int,
) -> dict[str, int]:  # fmt: skip
    """Return the counts of a run (section 7).

    Parameters
    ----------
    observed : mapping of Cycle to int
        How often each kind of cycle was seen.
    fields : mapping of str to [int, int]
        Offset and width of the fields of `o_events`.
    beats : mapping of str to int
        Transfers on job, keys and items.
    items : int
        Items kept in the beats.
    """
    events: Counter[int] = Counter()
    for cycle, times in observed.items():
        events[cycle.events] += times
    return named_counts(totals(events, fields), beats, items)


def named_counts(total: Mapping[str, int], beats: Mapping[str, int], items: int) -> dict[str, int]:
    """Return the counts by their names of section 7, from sums of the fields of `o_events`."""
    return {
        "bank_write_rows": total["bank_write"],
        "bank_read_rows": total["bank_read_select"] + total["bank_read_filter"],
        "histogram_keys": total["histogram_load"] + total["histogram_select"],
        "compare_keys": total["compare"],
        "fifo_write_keys": total["fifo_write"],
        "fifo_read_rows": total["fifo_read"],
        "draws": total["draw"],
        "passes": total["passes"],
        "items": items,
        **{f"{name}_beats": beats[name] for name in ("job", "keys", "items")},
    }


def causes(observed: Mapping[Cycle, int], fields: Mapping[str, list[int]]) -> dict[str, int]:
    """Return the cycles by cause (section 6)."""

    def holds(cycle: Cycle) -> dict[str, object]:
        event = split(cycle.events, fields)
        return {
            "stalled_out": cycle.held,
            "filter": event["filtering"],
            "select": event["selecting"],
            "load": cycle.row,
            "stalled_in": event["loading"],
            "handoff": True,
        }

    return by_cause(observed, CAUSES, holds)
