# SPDX-License-Identifier: Apache-2.0
"""Layouts that the parts of the array pass to each other."""

from __future__ import annotations

from dataclasses import fields

from amaranth.lib import data

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job
from rtl.lib.widths import index_bits
from rtl.w4a8.operand import beat_write, chunk_write

JOB = data.StructLayout({**{field.name: 32 for field in fields(Job)}, "reserved": 32})
"""Job descriptor, word 0 in the low bits (docs/engines/w4a8.md, section 4)."""

PARAMETER_BEATS = 8
"""Depth of the buffers of s, e and r (section 5.1)."""

WS_A_BEATS = 32
"""Depth of the activation buffer of a weight-stationary array (section 5.1)."""


def y_layout(spec: W4A8Spec) -> data.StructLayout:
    """Payload of `o_y`: element address, E results of 16 bit, one keep bit each."""
    lanes = spec.epilogue_lanes
    return data.StructLayout({"addr": 32, "data": data.ArrayLayout(16, lanes), "keep": lanes})


def events_layout(spec: W4A8Spec) -> data.StructLayout:
    """Payload of `o_events` (section 8); each field belongs to the cycle in which it shows."""
    return data.StructLayout(
        {
            "wave": 1,
            "wave_rows": range(spec.array_rows + 1),
            "wave_cols": range(spec.array_cols + 1),
            "wave_first": 1,
            "load": 1,
            "load_cols": range(spec.array_cols + 1),
            "load_step": index_bits(spec.array_rows),
            "scale_pop": 1,
            "drain": 1,
            "drain_lanes": range(spec.epilogue_lanes + 1),
            "drain_last_lane": 1,
        }
    )


# -- operand buffers ---------------------------------------------------------------------------


def scale_slots(spec: W4A8Spec) -> int:
    """Words of a scale memory.

    Pair p reads a beat p cycles after its credit is back; at one beat a cycle, P more words keep
    the beat until then.
    """
    return 1 << (PARAMETER_BEATS + spec.pairs - 1).bit_length()


def a_slots(spec: W4A8Spec) -> int:
    """Words of an activation memory; ws: row r reads r cycles after the credit is back."""
    if spec.dataflow == "os":
        return spec.prefetch_chunks
    return 1 << (WS_A_BEATS + spec.array_rows - 1).bit_length()


def a_choices(spec: W4A8Spec) -> int:
    """Activations of one row in a word of its memory."""
    return spec.chunk if spec.dataflow == "os" else max(1, 4 // spec.array_rows)


def w_codes(spec: W4A8Spec) -> int:
    """Nibbles in a beat of weights."""
    return 2 * spec.w_beat_bytes


def flags_layout(spec: W4A8Spec) -> data.StructLayout:
    """Return the flags that travel through a row with its activation, each gated by the launch.

    os: `valid` accumulates, `first` drops the old sum, `last` copies the new one to the shadow
    register. ws: `first` makes the loaded weight the active one, `load` shifts the load chain (and
    belongs to a load step, not to the wave).
    """
    names = ("valid", "first", "last") if spec.dataflow == "os" else ("first", "load")
    return data.StructLayout(dict.fromkeys(names, 1))


def row_layout(spec: W4A8Spec) -> data.StructLayout:
    """Return what launches a wave into a row: its flags, and where its activation lies."""
    names = ("valid", "first", "last") if spec.dataflow == "os" else ("first",)
    return data.StructLayout(
        {
            **dict.fromkeys(names, 1),
            "slot": index_bits(a_slots(spec)),
            "index": index_bits(a_choices(spec)),
        }
    )


def column_layout(spec: W4A8Spec) -> data.StructLayout:
    """Where a column's weight lies and, with group scales, whether a new scale begins with it."""
    fields: dict[str, int] = {
        "slot": index_bits(spec.prefetch_chunks),
        "index": index_bits(w_codes(spec)),
    }
    if spec.dataflow == "ws":
        fields["zero"] = 1
    if spec.scales == "group":
        fields |= {"pop": 1, "scale_slot": index_bits(scale_slots(spec))}
    return data.StructLayout(fields)


def a_write_layout(spec: W4A8Spec) -> data.StructLayout:
    """Return the layout of an arriving beat of activations."""
    if spec.dataflow == "os":
        return chunk_write(8 * spec.a_beat_bytes, spec.prefetch_chunks, spec.array_rows)
    return beat_write(8 * spec.a_beat_bytes, a_slots(spec))


def w_write_layout(spec: W4A8Spec) -> data.StructLayout:
    """Return the layout of an arriving beat of weights."""
    return chunk_write(8 * spec.w_beat_bytes, spec.prefetch_chunks, spec.array_cols)


def s_write_layout(spec: W4A8Spec) -> data.StructLayout:
    """Return the layout of an arriving beat of group scales."""
    return beat_write(16 * spec.array_cols, scale_slots(spec))


# -- array -------------------------------------------------------------------------------------


def pair_cols(spec: W4A8Spec, pair: int) -> int:
    """Columns of a pair: 1 for the last pair of an odd array, else 2."""
    return min(2, spec.array_cols - 2 * pair)


def pair_bits(spec: W4A8Spec, cols: int) -> int:
    """Bits of a pair's weights on their way through the array.

    Channel: the low column's 4 bits and 5 bits of the high one, less the low one's sign, which
    together are w1 * 2^12 + w2 without a subtraction in every element. Group: 8 bits each.
    """
    if spec.scales == "group":
        return 8 * cols
    return 9 if cols == 2 else 4


def psum_bits(spec: W4A8Spec) -> int:
    """Bits of the sum of R products."""
    return (spec.array_rows * spec.product_max).bit_length() + 1


# -- results -----------------------------------------------------------------------------------


def result_layout(spec: W4A8Spec) -> data.StructLayout:
    """Write control of a column pair's result memory; hops one register per pair.

    `done` marks the write that completes a tile (os) or a row (ws); `add` (ws) adds the stored
    word.
    """
    fields = {"en": 1, "done": 1, "addr": index_bits(spec.result_rows)}
    if spec.dataflow == "ws":
        fields["add"] = 1
    return data.StructLayout(fields)
