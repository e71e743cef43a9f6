# SPDX-License-Identifier: Apache-2.0
"""Commands: the register that holds one, and the execution of tokens, heads and reset (5.6)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import HEADS, RESET, ROW, TOKENS
from rtl.attention.layout import (
    COMMAND,
    CONTROL_COMMAND,
    ROW_COMMAND,
    count_bits,
    head_rows,
    ids_layout,
    importance_layout,
    kept_layout,
    lane_bits,
    row_bits,
)
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.topk.layout import JOB, items_layout, keys_layout


class Commands(wiring.Component):
    """Holds a command until fetch takes the row, or until it has been executed.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    i : In(stream(COMMAND))
        Ready while no command is held.
    row, command : Out(1), Out(ROW_COMMAND)
        A row command is held.
    take : In(1)
        Fetch takes it.
    flight : In(1)
        Rows are in flight; the other commands wait.
    reset, clear_heads : Out(1)
        The list begins anew; importance of heads does.
    clear, clear_row : Out
        A row of the tokens' importance becomes 0.
    token_row, token_scan : Out, In(importance_layout)
        Importance of G tokens, 1 + lane_tree cycles later.
    head_row, head_scan : Out, In(importance_layout)
        Importance of G heads, a cycle later.
    o_job, o_keys, i_items : streams of the selector
    list_write, list_row, list_ids : Out
        Kept tokens for the list.
    o_kept : Out(stream(kept_layout))
    """

    i: stream.Interface
    row: Signal
    command: Any
    take: Signal
    flight: Signal
    reset: Signal
    clear_heads: Signal
    clear: Signal
    clear_row: Signal
    token_row: Signal
    token_scan: Any
    head_row: Signal
    head_scan: Any
    o_job: stream.Interface
    o_keys: stream.Interface
    i_items: stream.Interface
    list_write: Signal
    list_row: Signal
    list_ids: Any
    o_kept: stream.Interface

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        selector = spec.importance_selector
        super().__init__(
            {
                "i": In(stream.Signature(COMMAND)),
                "row": Out(1),
                "command": Out(ROW_COMMAND),
                "take": In(1),
                "flight": In(1),
                "reset": Out(1),
                "clear_heads": Out(1),
                "clear": Out(1),
                "clear_row": Out(row_bits(spec)),
                "token_row": Out(row_bits(spec)),
                "token_scan": In(importance_layout(spec)),
                "head_row": Out(index_bits(head_rows(spec))),
                "head_scan": In(importance_layout(spec)),
                "o_job": Out(stream.Signature(JOB)),
                "o_keys": Out(stream.Signature(keys_layout(selector))),
                "i_items": In(stream.Signature(items_layout(selector))),
                "list_write": Out(1),
                "list_row": Out(row_bits(spec)),
                "list_ids": Out(ids_layout(spec)),
                "o_kept": Out(stream.Signature(kept_layout(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held, word = Signal(), Signal(COMMAND)
        control: Any = data.View(CONTROL_COMMAND, word.as_value())
        executed, alone = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~held),
            self.command.eq(word.as_value()),
            self.row.eq(held & (control.op == ROW)),
            alone.eq(held & ~self.flight),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [word.eq(self.i.payload), held.eq(1)]
        with m.Elif(self.take | executed):
            m.d.sync += held.eq(0)

        reset_ends, kept_all = Signal(), Signal()
        m.d.comb += executed.eq(reset_ends | kept_all)
        self._reset(m, control, alone & (control.op == RESET), reset_ends)
        ranks = alone & ((control.op == TOKENS) | (control.op == HEADS))
        self._rank(m, control, ranks, kept_all)
        return m

    def _reset(self, m: Module, control: Any, resets: Any, ends: Signal) -> None:
        """Clear a row a cycle, where asked; otherwise be done at once."""
        rows = self._spec.rows
        number = Signal(row_bits(self._spec))
        m.d.comb += [
            self.reset.eq(resets),
            self.clear_heads.eq(resets & control.clear_heads),
            self.clear.eq(resets & control.clear_tokens),
            self.clear_row.eq(number),
            ends.eq(resets & (~control.clear_tokens | (number == rows - 1))),
        ]
        with m.If(self.clear):
            m.d.sync += number.eq(Mux(ends, 0, number + 1))

    def _rank(self, m: Module, control: Any, ranks: Any, ends: Signal) -> None:
        """Send all importances to the selector, and what it keeps out and into the list."""
        spec, lanes = self._spec, self._spec.lanes
        heads = control.op == HEADS
        started, reads = Signal(), Signal()
        left, number = Signal(count_bits(spec)), Signal(row_bits(spec))
        job = self.o_job
        m.d.comb += [
            job.valid.eq(ranks & ~started),
            job.payload.n.eq(control.count),
            job.payload.k.eq(control.k),
        ]
        older = Signal(count_bits(spec))  # tokens that are not protected for being recent
        with m.If(job.valid & job.ready):
            m.d.sync += [started.eq(1), reads.eq(1), left.eq(control.count), number.eq(0)]
            m.d.sync += older.eq(control.count - Mux(heads, 0, control.recent))
        with m.Elif(ends):
            m.d.sync += started.eq(0)
        with m.Elif(reads):
            m.d.sync += [left.eq(left - lanes), number.eq(number + 1), reads.eq(left > lanes)]

        # A row is read in c, there at c + 1 + T_g and sent at c + 2 + T_g. Heads are read T_g
        # later, so that an output that has just left counts.
        late = register(m, 1, number, name="late_number", stages=spec.lane_tree)
        there = register(m, 1, reads, name="there", stages=1 + spec.lane_tree, reset=True)
        first = register(m, 1, late, name="scanned_number") << lane_bits(spec)
        m.d.sync += self.o_keys.valid.eq(there)
        for lane in range(lanes):
            key = Mux(heads, self.head_scan[lane], self.token_scan[lane])
            m.d.sync += self.o_keys.payload[lane].eq(Mux((first | lane) < older, key, ~0))
        m.d.comb += [self.token_row.eq(number), self.head_row.eq(late)]

        items, kept = self.i_items, self.o_kept
        accept = Signal()
        listed = Signal(row_bits(spec))
        m.d.comb += [
            items.ready.eq(~kept.valid | kept.ready),
            accept.eq(items.valid & items.ready),
            ends.eq(kept.valid & kept.ready & kept.payload.last),
            self.list_write.eq(accept & ~heads),
            self.list_row.eq(listed),
            *(self.list_ids[lane].eq(items.payload.index[lane]) for lane in range(lanes)),
        ]
        with m.If(items.ready):
            m.d.sync += [
                kept.valid.eq(items.valid),
                kept.payload.keep.eq(items.payload.keep),
                kept.payload.last.eq(items.payload.last),
                *(kept.payload.ids[lane].eq(items.payload.index[lane]) for lane in range(lanes)),
            ]
        with m.If(accept):
            m.d.sync += listed.eq(Mux(items.payload.last, 0, listed + 1))
