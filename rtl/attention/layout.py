# SPDX-License-Identifier: Apache-2.0
"""Layouts that the parts of the attention engine pass to each other, and widths that they share."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.lib import data

from cosil.engines.attention import (
    CODE_BITS,
    CODE_WIDTHS,
    DISTANCE_BITS,
    IMPORTANCE_BITS,
    LOG_BITS,
    LSB_BITS,
    MULT_BITS,
    OUTPUT_BITS,
    PROBABILITY_BITS,
    QUERY_BITS,
    SCORE_BANKS,
    AttentionSpec,
)
from rtl.lib.widths import index_bits
from rtl.topk.layout import events_layout as topk_events

OP_ROW, OP_TOKENS, OP_HEADS, OP_RESET = range(4)
_SHIFT_BITS = 6
_WIDTH_BITS = 4
"""Bits of msb_bits and value_bits in a command."""

# -- commands (docs/engines/attention.md, section 4) ----------------------------------------------

_WORDS = 16

COMMAND = data.ArrayLayout(32, _WORDS)
"""Payload of `i_cmd`, word 0 low."""

ROW_COMMAND = data.StructLayout(
    {
        "op": 4, "add": 1, "_0": 3, "msb_bits": _WIDTH_BITS, "value_bits": _WIDTH_BITS, "_1": 16,
        "tag": 32, "n": 32, "values": 32,
        "key_msb_base": 32, "key_lsb_base": 32, "value_base": 32,
        "head": 32,
        "mult": MULT_BITS, "shift": _SHIFT_BITS, "_2": 10,
        "lsb_low": LOG_BITS, "_3": 4, "lsb_high": LOG_BITS, "_4": 4,
        "out_mult": MULT_BITS, "out_shift": _SHIFT_BITS, "_5": 10,
        "_6": 32 * (_WORDS - 11),
    }
)  # fmt: skip
"""A command as a row."""

CONTROL_COMMAND = data.StructLayout(
    {
        "op": 4, "clear_tokens": 1, "clear_heads": 1, "_0": 26,
        "count": 32, "k": 32, "recent": 32, "_1": 32 * (_WORDS - 4),
    }
)  # fmt: skip
"""A command as tokens, heads or reset; `count` is T or the number of heads."""


def row_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what a score bank keeps of the command of its row."""
    return data.StructLayout(
        {
            "add": 1, "msb_bits": _WIDTH_BITS, "value_bits": _WIDTH_BITS, "tag": 32,
            "n": count_bits(spec), "values": count_bits(spec),
            "key_lsb_base": 32, "value_base": 32, "head": index_bits(spec.max_heads),
            "mult": MULT_BITS, "shift": _SHIFT_BITS, "lsb_low": LOG_BITS, "lsb_high": LOG_BITS,
            "out_mult": MULT_BITS, "out_shift": _SHIFT_BITS,
        }
    )  # fmt: skip


def output_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what the output stage needs to know of a row."""
    return data.StructLayout(
        {
            "tag": 32, "head": index_bits(spec.max_heads),
            "out_mult": MULT_BITS, "out_shift": _SHIFT_BITS,
        }
    )  # fmt: skip


def context_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what is known of a row from its handover to weigh until its last value launch."""
    return data.StructLayout(
        {
            "log": LOG_BITS,
            "value_base": 32,
            "value_bits": _WIDTH_BITS,
            "output": output_layout(spec),
        }
    )


# -- widths ---------------------------------------------------------------------------------------


def count_bits(spec: AttentionSpec) -> int:
    """Bits of a number of tokens, 0..max_tokens."""
    return spec.id_bits + 1


def row_bits(spec: AttentionSpec) -> int:
    """Bits of the number of a row of G positions."""
    return index_bits(spec.rows)


def lane_bits(spec: AttentionSpec) -> int:
    """Bits of a lane's number; none for one lane."""
    return spec.lanes.bit_length() - 1


def head_rows(spec: AttentionSpec) -> int:
    """Rows of G heads."""
    return -(-spec.max_heads // spec.lanes)


# -- streams and what travels with beats ----------------------------------------------------------


def query_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Payload of `i_q`: D codes."""
    return data.ArrayLayout(QUERY_BITS, spec.head_dim)


def codes_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Payload of `i_k` and `i_v`: G rows of D codes."""
    return data.ArrayLayout(data.ArrayLayout(CODE_BITS, spec.head_dim), spec.lanes)


def value_request_layout(spec: AttentionSpec) -> data.StructLayout:
    """Payload of `o_v`: G row addresses, and which are kept; the others are 0."""
    return data.StructLayout({"addr": data.ArrayLayout(32, spec.lanes), "keep": spec.lanes})


def key_request_layout(spec: AttentionSpec) -> data.StructLayout:
    """Payload of `o_k`: likewise, and the plane, 1 for LSBs."""
    return data.StructLayout(
        {"addr": data.ArrayLayout(32, spec.lanes), "keep": spec.lanes, "plane": 1}
    )


def output_beat_layout(spec: AttentionSpec) -> data.StructLayout:
    """Payload of `o_e`."""
    return data.StructLayout(
        {"tag": 32, "data": data.ArrayLayout(OUTPUT_BITS, spec.out_lanes), "last": 1}
    )


def kept_layout(spec: AttentionSpec) -> data.StructLayout:
    """Payload of `o_kept`: G ids of tokens or heads, which are kept, whether the beat is the last.

    Ids of lanes that are not kept are 0.
    """
    return data.StructLayout(
        {"ids": data.ArrayLayout(16, spec.lanes), "keep": spec.lanes, "last": 1}
    )


def key_tag_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what is known of a key beat from its request on."""
    return data.StructLayout(
        {
            "first": 1, "last": 1, "plane": 1, "msb_bits": _WIDTH_BITS,
            "bank": index_bits(SCORE_BANKS), "keep": spec.lanes,
        }
    )  # fmt: skip


def value_tag_layout(spec: AttentionSpec) -> data.StructLayout:
    """Return what is known of a value beat from its acceptance on; `empty`: no kept lane."""
    return data.StructLayout({"keep": spec.lanes, "empty": 1, "last": 1})


def probabilities_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Return the probabilities of a beat or a row of keys."""
    return data.ArrayLayout(PROBABILITY_BITS, spec.lanes)


def distances_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Return a row of a distance bank."""
    return data.ArrayLayout(DISTANCE_BITS, spec.lanes)


def ids_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Return G token ids."""
    return data.ArrayLayout(spec.id_bits, spec.lanes)


def importance_layout(spec: AttentionSpec) -> data.ArrayLayout:
    """Return a row of importances."""
    return data.ArrayLayout(IMPORTANCE_BITS, spec.lanes)


def decode(code: Value, width: Value, *, lsb: Value | None = None) -> Value:
    """Return a stored code as a signed number.

    Parameters
    ----------
    code : 8 bits
    width : 4 bits
        4, 6 or 8: low bits of `code` that count, two's complement.
    lsb : 1 bit, optional
        The low 4 bits count, as an unsigned number.
    """
    narrow, medium, wide = CODE_WIDTHS
    is_wide, is_medium = (width == wide), (width == medium)
    filler = Mux(is_medium, code[medium - 1], code[narrow - 1])
    low: list[Any] = [code[:narrow]]
    low.append(Mux(is_wide | is_medium, code[narrow:medium], filler.replicate(medium - narrow)))
    low.append(Mux(is_wide, code[medium:], filler.replicate(CODE_BITS - medium)))
    value = Cat(*low)
    if lsb is not None:
        value = Mux(lsb, Cat(code[:LSB_BITS], Const(0, CODE_BITS - LSB_BITS)), value)
    return value.as_signed()


def events_layout(spec: AttentionSpec) -> data.StructLayout:
    """Payload of `o_events`: what happens in the cycle in which it shows (sections 6 and 7).

    Levels: `k_wait`, `v_wait` (reserved, and no beat usable), `sum_busy`, `weigh_busy`,
    `output_busy`, `flight` (a row is in flight). Amounts: kept keys of the beat that is launched,
    or of the row that is issued. The others are strobes. `value` and `token` are the events of the
    two selectors.
    """
    amount = range(spec.lanes + 1)
    return data.StructLayout(
        {
            "fetch_start": 1, "redo": 1,
            "launch_k": 1, "launch_v": 1, "mac_qk_lanes": amount, "mac_pv_lanes": amount,
            "score_write": 1, "score_read": 1, "score_read_lsb": 1,
            "sum_keys": amount, "distance_write": 1, "distance_read": 1,
            "weigh_keys": amount, "importance_keys": amount,
            "k_wait": 1, "v_wait": 1,
            "sum_busy": 1, "weigh_busy": 1, "output_busy": 1, "flight": 1,
            "value": topk_events(spec.value_selector),
            "token": topk_events(spec.importance_selector),
        }
    )  # fmt: skip
