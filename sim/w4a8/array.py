# SPDX-License-Identifier: Apache-2.0
"""The array of processing elements, register by register (sections 5.2 and 5.3).

Registers that only pass a value on (skew, hops between column pairs, the requantiser's stages) are
kept as *lines*: buffers over which a window slides by one position each cycle. A wave enters at
the front and is found in `slot` d of the line when it is d cycles past the operand register of
PE(0, 0), so PE(i, p) multiplies what is in slot i + p. The wave launched in cycle v is in slot
t - v - 2 - Q in cycle t.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.lib.kernel import inner
from sim.w4a8.plan import Plan

WAVE, FIRST, LAST, FIRST_PART, LAST_PART = 1, 2, 4, 8, 16
"""Flags that travel with a wave: it exists; first, last of its tile (os) or pass (ws); its k-tile
is the tile's first, last (ws)."""

_SPARE = 512  # positions that the window slides before it is moved back


class Array(NamedTuple):
    """Registers of the array; two columns of a pair lie side by side, an odd C has one spare.

    Attributes
    ----------
    head : int64[1]
        Position of slot 0 in the lines.
    window : int64[2]
        Positions ahead of slot 0 and from slot 0 on that are in use.
    complete : int64[1]
        Tiles (os) or rows (ws) that may be drained.
    in_flight : int64[1]
        Flags in the lines that something waits for: LAST (os).
    flags, row : int64[length]
        Lines of the waves' flags and result rows.
    a : int16[R, 2 * length]
        Lines of the activations, each twice: once per column of a pair.
    keep : int32[2 * length]
        os: 0 where a wave is its tile's first, else -1; masks the accumulator.
    w : int16[length, 2 P]
        Line of weights. os: pair p runs p slots ahead, so that PE(i, p) finds its weight in slot i.
    step : int64[length]
        ws: line of load steps, -1 for none; slot 0 is the requantiser's output register.
    edge_a, edge_w : int16[R], int16[2 P]
        What enters the lines at the end of this cycle.
    edge : int64[3]
        Flags and result row of the wave, and the load step, that enter.
    product : int16[R, 2 P]
        Product register of each PE, at most 2**14 in magnitude.
    acc : int32[R, 2 P]
        Accumulator (os) or partial sum (ws) of each PE.
    chain : int32[2 P, R]
        Moves down. os: shadow chain of finished sums; ws: load chain of weights.
    weight : int16[R, 2 P]
        ws: the weight that each PE multiplies with.
    results : int32[result_rows, 2 P]
        Result memories of the columns.
    read, total : int32[2 P]
        ws: output register of a result memory, and its sum with the arriving partial sum.
    """

    head: NDArray[np.int64]
    window: NDArray[np.int64]
    complete: NDArray[np.int64]
    in_flight: NDArray[np.int64]
    flags: NDArray[np.int64]
    row: NDArray[np.int64]
    a: NDArray[np.int16]
    keep: NDArray[np.int32]
    w: NDArray[np.int16]
    step: NDArray[np.int64]
    edge_a: NDArray[np.int16]
    edge_w: NDArray[np.int16]
    edge: NDArray[np.int64]
    product: NDArray[np.int16]
    acc: NDArray[np.int32]
    chain: NDArray[np.int32]
    weight: NDArray[np.int16]
    results: NDArray[np.int32]
    read: NDArray[np.int32]
    total: NDArray[np.int32]


def make_array(plan: Plan) -> Array:
    """Return an empty array."""
    rows, columns = plan.rows, 2 * plan.pairs
    front = 1 + plan.quant_stages + plan.pairs  # edge register, requantiser, skew of the last pair
    depth = 2 * rows + plan.pairs + 4  # slots in which something still happens, and one more
    length = front + depth + _SPARE

    def zeros(*shape: int) -> NDArray[np.int32]:
        return np.zeros(shape, dtype=np.int32)

    def operands(*shape: int) -> NDArray[np.int16]:
        return np.zeros(shape, dtype=np.int16)

    return Array(
        head=np.array([length - depth]),
        window=np.array([front, depth]),
        complete=np.zeros(1, dtype=np.int64),
        in_flight=np.zeros(1, dtype=np.int64),
        flags=np.zeros(length, dtype=np.int64),
        row=np.zeros(length, dtype=np.int64),
        a=operands(rows, 2 * length),
        keep=np.full(2 * length, -1, dtype=np.int32),
        w=operands(length, columns),
        step=np.full(length, -1, dtype=np.int64),
        edge_a=operands(rows),
        edge_w=operands(columns),
        edge=np.array([0, 0, -1]),
        product=operands(rows, columns),
        acc=zeros(rows, columns),
        chain=zeros(columns, rows),
        weight=operands(rows, columns),
        results=zeros(plan.result_rows, columns),
        read=zeros(columns),
        total=zeros(columns),
    )


@inner
def os_cycle(plan: Plan, s: Array) -> None:
    """Clock an output-stationary array; modified in place, downstream registers first."""
    if s.in_flight[0]:
        _empty_accumulators(plan, s)
    head = s.head[0]
    columns = 2 * plan.pairs
    for i in range(plan.rows):
        acc = s.acc[i]
        product = s.product[i]
        # A product is one slot behind its operands.
        keep = s.keep[2 * (head + i + 1) : 2 * (head + i + 1) + columns]
        a = s.a[i, 2 * (head + i) : 2 * (head + i) + columns]
        w = s.w[head + i]
        for c in range(columns):
            acc[c] = (acc[c] & keep[c]) + product[c]
        for c in range(columns):
            product[c] = a[c] * w[c]
    _slide(plan, s)
    front = _enter_wave(plan, s)
    keep_bits = 0 if s.edge[0] & FIRST else -1
    s.keep[2 * front] = keep_bits
    s.keep[2 * front + 1] = keep_bits
    for p in range(plan.pairs):
        s.w[front - p, 2 * p] = s.edge_w[2 * p]
        s.w[front - p, 2 * p + 1] = s.edge_w[2 * p + 1]
    if s.edge[0] & LAST:
        s.in_flight[0] += 1


@inner
def _empty_accumulators(plan: Plan, s: Array) -> None:
    """Let each tile's LAST flag move sums: accumulator -> shadow chain -> result memory."""
    rows, pairs, head = plan.rows, plan.pairs, s.head[0]
    last_slot = 2 * rows + pairs
    # Oldest tile first: its chain still shifts below the rows that the next tile fills.
    for slot in range(last_slot, 1, -1):
        if not s.flags[head + slot] & LAST:
            continue
        base = s.row[head + slot]
        for p in range(max(0, slot - 2 * rows - 1), min(pairs, slot - 1)):
            step = slot - rows - 2 - p
            captured_row = slot - 2 - p
            for column in range(2 * p, 2 * p + 2):
                chain = s.chain[column]
                if step >= 0:
                    address = base + rows - 1 - step
                    address -= plan.result_rows if address >= plan.result_rows else 0
                    s.results[address, column] = chain[rows - 1]
                    for i in range(rows - 1, step, -1):
                        chain[i] = chain[i - 1]
                else:
                    chain[captured_row] = s.acc[captured_row, column]
        if slot == last_slot:
            s.complete[0] += 1
            s.in_flight[0] -= 1


@inner
def ws_cycle(plan: Plan, s: Array) -> None:
    """Clock a weight-stationary array; modified in place, downstream registers first."""
    _accumulate_rows(plan, s)
    head = s.head[0]
    columns = 2 * plan.pairs
    for i in range(plan.rows - 1, -1, -1):
        psum = s.acc[i]
        above = s.acc[i - 1] if i else s.acc[0]
        product = s.product[i]
        weight = s.weight[i]
        a = s.a[i, 2 * (head + i) : 2 * (head + i) + columns]
        if i:
            for c in range(columns):
                psum[c] = above[c] + product[c]
        else:
            for c in range(columns):
                psum[c] = product[c]
        for c in range(columns):
            product[c] = a[c] * weight[c]
    _slide(plan, s)
    _enter_wave(plan, s)
    head = s.head[0]
    # Slots are those of the next cycle from here on: a new pass's weight meets its first operand.
    for slot in range(plan.rows + plan.pairs - 1):
        if s.flags[head + slot] & FIRST:
            for p in range(max(0, slot - plan.rows + 1), min(plan.pairs, slot + 1)):
                for column in range(2 * p, 2 * p + 2):
                    s.weight[slot - p, column] = s.chain[column, slot - p]
    _shift_load_chains(plan, s)
    entering = head - plan.quant_stages
    s.step[entering] = s.edge[2]
    for c in range(columns):
        s.w[entering, c] = s.edge_w[c]


@inner
def _accumulate_rows(plan: Plan, s: Array) -> None:
    """Add the partial sums that leave the array to the result memories, pair by pair."""
    head, bottom = s.head[0], plan.rows - 1
    for p in range(plan.pairs):
        written = head + plan.rows + 2 + p
        summed = written - 1
        fetched = written - 2
        for column in range(2 * p, 2 * p + 2):
            fetched_value = s.results[s.row[fetched], column]
            if s.flags[written] & WAVE:
                s.results[s.row[written], column] = s.total[column]
            carried = 0 if s.flags[summed] & FIRST_PART else s.read[column]
            s.total[column] = carried + s.acc[bottom, column]
            s.read[column] = fetched_value
    if s.flags[head + plan.rows + plan.pairs + 1] & LAST_PART:
        s.complete[0] += 1


@inner
def _shift_load_chains(plan: Plan, s: Array) -> None:
    """Take a load step into the chains: pair p shifts rows 0..step when the step is in slot p."""
    # The lines have already slid: what was in slot p is in slot p + 1.
    for p in range(plan.pairs):
        position = s.head[0] + p + 1
        step = s.step[position]
        if step < 0:
            continue
        for column in range(2 * p, 2 * p + 2):
            chain = s.chain[column]
            for i in range(step, 0, -1):
                chain[i] = chain[i - 1]
            chain[0] = s.w[position, column]


@inner
def _slide(plan: Plan, s: Array) -> None:
    """Move every line on by one cycle."""
    head = s.head[0] - 1
    front, depth, length = s.window[0], s.window[1], s.flags.size
    if head < front:
        # Out of spare positions: move the window to the far end of the buffers.
        size = front + depth
        old, new = head + 1 - front, length - size
        for x in range(size - 1, -1, -1):
            s.flags[new + x] = s.flags[old + x]
            s.row[new + x] = s.row[old + x]
            s.step[new + x] = s.step[old + x]
            for c in range(2 * plan.pairs):
                s.w[new + x, c] = s.w[old + x, c]
        for x in range(2 * size - 1, -1, -1):
            s.keep[2 * new + x] = s.keep[2 * old + x]
        for i in range(plan.rows):
            for x in range(2 * size - 1, -1, -1):
                s.a[i, 2 * new + x] = s.a[i, 2 * old + x]
        head = new + front - 1
    s.head[0] = head


@inner
def _enter_wave(plan: Plan, s: Array) -> int:
    """Put the edge's activations and flags (zeros: no wave) in the lines; return the position."""
    front = s.head[0] - 1 - plan.quant_stages * (1 - plan.ws)
    for i in range(plan.rows):
        s.a[i, 2 * front] = s.edge_a[i]
        s.a[i, 2 * front + 1] = s.edge_a[i]
    s.flags[front] = s.edge[0]
    s.row[front] = s.edge[1]
    return front
