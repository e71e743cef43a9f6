# SPDX-License-Identifier: Apache-2.0
"""Layouts that the parts of the top-k engine pass to each other, and widths that they share."""

from __future__ import annotations

from amaranth.hdl import Const, Shape, Value, signed
from amaranth.lib import data

from cosil.engines.topk import TopkSpec
from rtl.lib.widths import index_bits

JOB = data.StructLayout({"n": 32, "k": 32})
"""Job, word 0 in the low bits (docs/engines/topk.md, section 3)."""


def keys_layout(spec: TopkSpec) -> data.ArrayLayout:
    """Payload of `i_keys`, and a row of a bank: P keys as they came."""
    return data.ArrayLayout(spec.key_bits, spec.lanes)


def items_layout(spec: TopkSpec) -> data.StructLayout:
    """Payload of `o_items`: P keys, their indices, a keep bit each, and whether it is the last."""
    return data.StructLayout(
        {
            "key": keys_layout(spec),
            "index": data.ArrayLayout(spec.index_bits, spec.lanes),
            "keep": spec.lanes,
            "last": 1,
        }
    )


def events_layout(spec: TopkSpec) -> data.StructLayout:
    """Payload of `o_events`: what happens in the cycle in which it shows (sections 6 and 7).

    `loading`, `selecting`, `filtering`: load waits for a row; select, filter is busy. `decided`:
    first cycle in which the cut is known. The others are the actions of section 7; an action that
    an architecture lacks is 0.
    """
    amount = range(spec.lanes + 1)
    return data.StructLayout(
        {
            "loading": 1,
            "selecting": 1,
            "filtering": 1,
            "decided": 1,
            "bank_write": 1,
            "bank_read_select": 1,
            "bank_read_filter": 1,
            "histogram_load": amount,
            "histogram_select": amount,
            "compare": amount,
            "fifo_write": amount,
            "fifo_read": 1,
            "draw": 1,
            "passes": 1,
        }
    )


def task_layout(spec: TopkSpec) -> data.StructLayout:
    """Return what travels with a job from stage to stage.

    `n` keys, of which `kept` = min(k, n) are kept; `trivial`: none or all of them.
    """
    return data.StructLayout({"n": spec.count_bits, "kept": spec.count_bits, "trivial": 1})


def cut_layout(spec: TopkSpec) -> data.StructLayout:
    """Return a cut: a code, masked, is kept if it is above `prefix`, or equal and a first tie."""
    return data.StructLayout(
        {"prefix": spec.key_bits, "mask": spec.key_bits, "ties": spec.count_bits}
    )


def choice_layout(spec: TopkSpec) -> data.StructLayout:
    """Return a chosen digit with `short` and `spare` of the keys that have it (radix).

    `short` is minus the need among them, `spare` their number minus the need.
    """
    return data.StructLayout(
        {"digit": spec.digit_widths[0], "short": balance(spec), "spare": balance(spec)}
    )


def balance(spec: TopkSpec) -> Shape:
    """Return the shape of a number of keys minus a need."""
    return signed(spec.count_bits + 1)


def row_bits(spec: TopkSpec) -> int:
    """Bits of a row's number."""
    return index_bits(spec.memory_depth)


def lane_bits(spec: TopkSpec) -> int:
    """Bits of a lane's number; none for one lane."""
    return spec.lanes.bit_length() - 1


def order_code(spec: TopkSpec, key: Value) -> Value:
    """Return the order code of a key: larger is better (section 1)."""
    return (key ^ Const(spec.code_mask, spec.key_bits))[: spec.key_bits]


def digits_of(spec: TopkSpec, code: Value) -> list[Value]:
    """Return the digits of an order code, most significant first."""
    return [
        code[shift : shift + width]
        for shift, width in zip(spec.digit_shifts, spec.digit_widths, strict=True)
    ]
