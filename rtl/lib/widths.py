# SPDX-License-Identifier: Apache-2.0
"""Widths of ports."""

from __future__ import annotations


def index_bits(depth: int) -> int:
    """Return the bits of an index into `depth` elements; one at least, since a port has a width."""
    return max(1, (depth - 1).bit_length())
