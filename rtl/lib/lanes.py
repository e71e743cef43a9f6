# SPDX-License-Identifier: Apache-2.0
"""Rows of lanes whose last one may be partial."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Value


def lanes_below(left: Value, lanes: int) -> Value:
    """Return which of `lanes` lanes, a power of two, hold one of the `left` elements to come."""
    bits = lanes.bit_length() - 1
    more = left[bits:].any()
    return Cat(more | (left[:bits] > lane) for lane in range(lanes))


def count_below(left: Value, lanes: int) -> Value:
    """Return the number of those lanes."""
    bits = lanes.bit_length() - 1
    return Mux(left[bits:].any(), lanes, left[:bits])
