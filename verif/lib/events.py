# SPDX-License-Identifier: Apache-2.0
"""The strobes that a device shows to its monitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def split(value: int, fields: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the fields of a packed value.

    Parameters
    ----------
    value : int
        `o_events` as one number.
    fields : mapping of str to [int, int]
        Offset and width of each field.
    """
    return {name: value >> offset & (1 << width) - 1 for name, (offset, width) in fields.items()}
