# SPDX-License-Identifier: Apache-2.0
"""Broken hardware on demand: a bench that passes with any of these is no bench."""

from __future__ import annotations

from enum import IntEnum

BEAT_BITS = 16
"""Width of the number of the beat that a mutant breaks."""


class Mutant(IntEnum):
    """What a `verif.lib.mutator.Mutator` does: all but the first break its stream."""

    NONE = 0
    VALID_STUCK_LOW = 1
    FLIPPED_BIT = 2
    DROPPED_BEAT = 3
    EXTRA_CYCLE = 4
