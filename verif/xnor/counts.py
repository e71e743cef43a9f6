# SPDX-License-Identifier: Apache-2.0
"""Action counts and causes of cycles from what the device showed (docs/engines/xnor.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from verif.lib.events import by_cause, split, totals
from verif.lib.jobs import Cycle

CAUSES = ("compute", "stalled_out", "load", "stalled_in", "drain")
NONE = "no cause"


def action_counts(
    n: int, folds: int, observed: Mapping[Cycle, int], fields: Mapping[str, list[int]],
    beats: Mapping[str, int], outputs: int,
) -> dict[str, int]:  # fmt: skip
    """Return the counts of a job (section 6).

    Parameters
    ----------
    n, folds : int
        Outputs of the job, and their folds NF.
    observed : mapping of Cycle to int
        How often each kind of cycle was seen.
    fields : mapping of str to [int, int]
        Offset and width of the fields of `o_events`.
    beats : mapping of str to int
        Transfers on w, c, e, x, y and job.
    outputs : int
        Results kept in the beats.
    """
    events: Counter[int] = Counter()
    for cycle, times in observed.items():
        events[cycle.events] += times
    total = totals(events, fields)
    return {
        # A vector's inputs are taken once for each fold.
        "xnor": total["inputs"] * n // folds,
        "weight_reads": total["issue"],
        "base_reads": total["base"],
        "column_reads": total["column"],
        "input_writes": total["take"],
        "input_reads": total["issue"] - total["take"],
        "accumulates": total["accumulates"],
        "results": total["results"],
        "outputs": outputs,
        **{f"{name}_beats": beats[name] for name in ("w", "c", "e", "x", "y", "job")},
    }


def causes(observed: Mapping[Cycle, int], fields: Mapping[str, list[int]]) -> dict[str, int]:
    """Return the cycles by cause (section 5), and those without one, if there are any."""

    def holds(cycle: Cycle) -> dict[str, object]:
        event = split(cycle.events, fields)
        return {
            "compute": event["issue"],
            "stalled_out": cycle.held,
            "load": event["load"],
            "stalled_in": event["starved"],
            "drain": not event["remain"],
            NONE: True,
        }

    total = by_cause(observed, (*CAUSES, NONE), holds)
    return {cause: cycles for cause, cycles in total.items() if cycles or cause != NONE}
