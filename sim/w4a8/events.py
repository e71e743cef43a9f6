# SPDX-License-Identifier: Apache-2.0
"""What both models leave behind, and the schedule of tiles for traces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.w4a8 import counts as count_names
from sim.w4a8.plan import CAUSES, Plan

EVENT = np.dtype(
    [
        ("m0", np.int64),
        ("n0", np.int64),
        ("rows", np.int64),
        ("cols", np.int64),
        ("first_launch", np.int64),
        ("last_launch", np.int64),
        ("first_drain", np.int64),
        ("last_drain", np.int64),
    ]
)
"""One tile: its place in Y, and the cycles of its first and last wave and drain step."""

_NO_EVENTS = np.zeros(0, dtype=EVENT)


class Record(NamedTuple):
    """What a simulation leaves behind; filled in place.

    Attributes
    ----------
    y : uint16[M, N]
        Result bits (stepped model).
    counts : int64[...]
        In the order of `sim.w4a8.counts.NAMES`.
    causes : int64[...]
        In the order of `sim.w4a8.plan.CAUSES`.
    tiles : int64[tiles or 0, 4]
        Per tile: cycle of the first and last launch, of the first and last drain step.
    """

    y: NDArray[np.uint16]
    counts: NDArray[np.int64]
    causes: NDArray[np.int64]
    tiles: NDArray[np.int64]


def make_record(plan: Plan, *, values: bool, trace: bool) -> Record:
    """Return an empty record; `y` has rows only for the stepped model, `tiles` only for a trace."""
    tiles = plan.row_tiles * plan.col_tiles if trace else 0
    return Record(
        np.zeros((plan.m if values else 0, plan.n), dtype=np.uint16),
        np.zeros(len(count_names.NAMES), dtype=np.int64),
        np.zeros(len(CAUSES), dtype=np.int64),
        np.full((tiles, 4), -1, dtype=np.int64),
    )


@inner
def note(tiles: NDArray[np.int64], tile: int, column: int, t: int) -> None:
    """Note cycle t as the first (once) and last of a tile's launches (0) or drain steps (2)."""
    if tile < tiles.shape[0]:
        if tiles[tile, column] < 0:
            tiles[tile, column] = t
        tiles[tile, column + 1] = t


def schedule(plan: Plan, tiles: NDArray[np.int64]) -> NDArray[np.void]:
    """Return the noted tiles as EVENT records, in the order in which they run."""
    if not len(tiles):
        return _NO_EVENTS
    events = np.zeros(len(tiles), dtype=EVENT)
    row_tile, col_tile = np.divmod(np.arange(len(tiles)), plan.col_tiles)
    events["m0"] = row_tile * plan.tile_rows
    events["n0"] = col_tile * plan.cols
    events["rows"] = np.minimum(plan.tile_rows, plan.m - events["m0"])
    events["cols"] = np.minimum(plan.cols, plan.n - events["n0"])
    for column, name in enumerate(("first_launch", "last_launch", "first_drain", "last_drain")):
        events[name] = tiles[:, column]
    return events
