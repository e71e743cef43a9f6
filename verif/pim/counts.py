# SPDX-License-Identifier: Apache-2.0
"""Action counts and causes of cycles from what the device showed (docs/engines/pim.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cosil.engines.pim import PimSpec
from verif.lib.events import by_cause, split, totals
from verif.lib.jobs import Cycle

CAUSES = ("convert", "result", "row", "load", "stalled_in", "stalled_out", "fill", "drain")


def action_counts(
    spec: PimSpec, n: int, observed: Mapping[Cycle, int], fields: Mapping[str, list[int]],
    beats: Mapping[str, int], results: int,
) -> dict[str, int]:  # fmt: skip
    """Return the counts of a job (section 6).

    Parameters
    ----------
    spec : PimSpec
        The macro.
    n : int
        Outputs of the job.
    observed : mapping of Cycle to int
        How often each kind of cycle was seen.
    fields : mapping of str to [int, int]
        Offset and width of the fields of `o_events`.
    beats : mapping of str to int
        Transfers on w, t, n, e, x, y and job.
    results : int
        Results kept in the beats.
    """
    events: Counter[int] = Counter()
    for cycle, times in observed.items():
        events[cycle.events] += times
    total = totals(events, fields)
    drives = total["rows"]
    return {
        # A row is driven once for each slice.
        "mac": drives * n // spec.slices,
        "row_drives": drives,
        "cell_ops": drives * n * spec.bit_planes,
        **{name: total[name] for name in ("samples", "conversions", "draws", "accumulates")},
        "results": results,
        **{f"{name}_beats": beats.get(name, 0) for name in ("w", "t", "n", "e", "x", "y", "job")},
    }


def causes(observed: Mapping[Cycle, int], fields: Mapping[str, list[int]]) -> dict[str, int]:
    """Return the cycles by cause (section 5)."""

    def holds(cycle: Cycle) -> dict[str, object]:
        event = split(cycle.events, fields)
        return {
            "convert": event["convert"],
            "result": event["result"],
            "row": event["drive"],
            "load": event["load"],
            "stalled_in": event["starved"],
            "stalled_out": cycle.held,
            "fill": event["remain"],
            "drain": True,
        }

    return by_cause(observed, CAUSES, holds)
