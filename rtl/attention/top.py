# SPDX-License-Identifier: Apache-2.0
"""The engine: streams in, streams out (docs/engines/attention.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import CONTEXT_ROWS, SCORE_BANKS, AttentionSpec
from rtl.attention.commands import Commands
from rtl.attention.fetch import Fetch
from rtl.attention.importance import HeadImportance, TokenImportance
from rtl.attention.layout import (
    COMMAND,
    codes_layout,
    events_layout,
    kept_layout,
    key_request_layout,
    key_tag_layout,
    output_beat_layout,
    query_layout,
    row_layout,
    value_request_layout,
)
from rtl.attention.output import Output
from rtl.attention.pool import Pool
from rtl.attention.score import Score
from rtl.attention.softmax import Sum
from rtl.attention.tokens import TokenList
from rtl.attention.value import Accumulate, ValueFetch
from rtl.attention.weigh import Weigh
from rtl.lib.counters import tally
from rtl.lib.read_ahead import ReadAheadQueue
from rtl.lib.widths import index_bits
from rtl.topk import Topk

_ROWS_IN_FLIGHT = SCORE_BANKS + CONTEXT_ROWS + 1
"""A row is in a score bank, has a context, or is in the output stage."""


class Attention(wiring.Component):
    """Sparse attention with cascade pruning, one query of one head after the other.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    i_cmd : In(stream(COMMAND))
        Commands; ready while none is held.
    i_q : In(stream(query_layout))
        A query for each row command.
    o_k, i_k : Out(stream(key_request_layout)), In(stream(codes_layout))
        Key requests, and responses in order; ready is constantly 1.
    o_v, i_v : Out(stream(value_request_layout)), In(stream(codes_layout))
        Likewise for values.
    o_e : Out(stream(output_beat_layout))
        Outputs.
    o_kept : Out(stream(kept_layout))
        Results of tokens and heads commands.
    o_events : Out(events_layout)
        For monitors (sections 6 and 7).
    """

    i_cmd: stream.Interface
    i_q: stream.Interface
    i_k: stream.Interface
    i_v: stream.Interface
    o_k: stream.Interface
    o_v: stream.Interface
    o_e: stream.Interface
    o_kept: stream.Interface
    o_events: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "i_cmd": In(stream.Signature(COMMAND)),
                "i_q": In(stream.Signature(query_layout(spec))),
                "i_k": In(stream.Signature(codes_layout(spec))),
                "i_v": In(stream.Signature(codes_layout(spec))),
                "o_k": Out(stream.Signature(key_request_layout(spec))),
                "o_v": Out(stream.Signature(value_request_layout(spec))),
                "o_e": Out(stream.Signature(output_beat_layout(spec))),
                "o_kept": Out(stream.Signature(kept_layout(spec))),
                "o_events": Out(events_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = _Parts(self.spec)
        for name, part in vars(parts).items():
            m.submodules[name] = part
        rows = _Rows(m, self.spec)
        self._fetch(m, parts, rows)
        launch_k, launch_v = self._launch(m, parts, rows)
        self._sum(m, parts, rows)
        self._select(m, parts)
        self._output(m, parts, launch_v)
        self._commands(m, parts, rows)
        self._events(m, parts, rows, launch_k, launch_v)
        return m

    def _fetch(self, m: Module, parts: _Parts, rows: _Rows) -> None:
        """Start a redo or, with a free bank and a query, the row that is held; ask for keys."""
        commands, fetch, command = parts.commands, parts.fetch, parts.commands.command
        new, start = Signal(), Signal()
        m.d.comb += [
            self.i_q.ready.eq(fetch.idle & ~rows.redo & commands.row & rows.room),
            new.eq(self.i_q.valid & self.i_q.ready),
            start.eq(new | (fetch.idle & rows.redo)),
            commands.take.eq(new),
            fetch.start.eq(start),
            fetch.row.plane.eq(rows.redo),
            rows.take.eq(new),
            rows.query.eq(self.i_q.payload),
            rows.taken.eq(start),
            *(rows.new[name].eq(command[name]) for name, _ in rows.new.shape()),
        ]
        with m.If(rows.redo):
            m.d.comb += [
                fetch.row.n.eq(rows.summed.n),
                fetch.row.base.eq(rows.summed.key_lsb_base),
                fetch.row.msb_bits.eq(rows.summed.msb_bits),
                fetch.row.bank.eq(rows.sum_bank),
            ]
        with m.Else():
            m.d.comb += [
                fetch.row.n.eq(command.n),
                fetch.row.base.eq(command.key_msb_base),
                fetch.row.msb_bits.eq(command.msb_bits),
                fetch.row.bank.eq(rows.fetch_bank),
            ]
        m.d.comb += [
            parts.tokens.fetch_en.eq(fetch.list_en),
            parts.tokens.fetch_row.eq(fetch.list_row),
            fetch.list_ids.eq(parts.tokens.fetch_ids),
            self.o_k.valid.eq(fetch.o.valid),
            self.o_k.payload.eq(fetch.o.payload),
            fetch.o.ready.eq(self.o_k.ready),
            parts.key_tags.push.eq(fetch.o.valid & fetch.o.ready),
            parts.key_tags.i.eq(fetch.tag),
            parts.key_beats.push.eq(self.i_k.valid),
            parts.key_beats.i.eq(self.i_k.payload),
            self.i_k.ready.eq(1),
        ]

    def _launch(self, m: Module, parts: _Parts, rows: _Rows) -> tuple[Signal, Signal]:
        """Give the multipliers to a value beat, else to a key beat; return the strobes of both."""
        spec, value, score = self.spec, parts.value, parts.score
        launch_k, launch_v = Signal(), Signal()
        shared = spec.pool == "shared"
        m.d.comb += [
            launch_v.eq(value.usable & ~(value.tag.last & parts.output.busy)),
            launch_k.eq(parts.key_beats.usable & ~(launch_v if shared else 0)),
        ]
        tag = parts.key_tags.o
        pools = [Pool(spec, "both")] if shared else [Pool(spec, "keys"), Pool(spec, "values")]
        for name, pool in zip(("pool", "value_pool"), pools, strict=False):
            m.submodules[name] = pool
        for_keys, for_values = pools[0], pools[-1]
        if shared:
            m.d.comb += for_keys.value_beat.eq(launch_v)
        for lane in range(spec.lanes):
            for column in range(spec.head_dim):
                product = for_keys.products[lane][column]
                m.d.comb += score.products[lane][column].eq(product)
        m.d.comb += [
            for_keys.query.eq(Array(rows.queries)[tag.bank]),
            for_keys.key.eq(parts.key_beats.o),
            for_keys.msb_bits.eq(tag.msb_bits),
            for_keys.plane.eq(tag.plane),
            for_values.probability.eq(value.probability),
            for_values.value.eq(value.codes),
            for_values.value_bits.eq(value.value_bits),
            parts.key_beats.pop.eq(launch_k),
            parts.key_tags.pop.eq(launch_k),
            parts.fetch.launch.eq(launch_k),
            score.launch.eq(launch_k),
            score.tag.eq(tag),
            value.launch.eq(launch_v),
            parts.accumulate.launch.eq(launch_v),
            parts.accumulate.last.eq(value.tag.last),
            parts.accumulate.products.eq(for_values.products),
        ]
        return launch_k, launch_v

    def _sum(self, m: Module, parts: _Parts, rows: _Rows) -> None:
        """Start the next row whose scores are complete; hand it over when its sum is there."""
        score, total, weigh, value = parts.score, parts.sum, parts.weigh, parts.value
        row, job = rows.summed, parts.value_topk.i_job
        done = Signal()
        m.d.comb += [
            total.start.eq(~total.busy & Array(score.complete)[rows.sum_bank]),
            score.take.eq(total.start),
            *(total.row[name].eq(row[name]) for name, _ in total.row.shape()),
            total.retried.eq(rows.retried),
            total.maximum.eq(score.maximum),
            score.read.eq(total.read),
            score.read_bank.eq(rows.sum_bank),
            score.read_row.eq(total.read_row),
            total.scores.eq(score.scores),
            weigh.write.eq(total.write),
            weigh.write_row.eq(total.write_row),
            weigh.write_distances.eq(total.distances),
            rows.flat.eq(total.redo),
            rows.give.eq(done),
            job.valid.eq(total.ready & ~weigh.busy & value.room),
            job.payload.n.eq(row.n),
            job.payload.k.eq(row.values),
            done.eq(job.valid & job.ready),
            total.done.eq(done),
            weigh.start.eq(done),
            weigh.n.eq(row.n),
            weigh.log.eq(total.log),
            weigh.add.eq(row.add),
            value.push.eq(done),
            value.context.log.eq(total.log),
            value.context.value_base.eq(row.value_base),
            value.context.value_bits.eq(row.value_bits),
            *(value.context.output[name].eq(row[name]) for name, _ in value.context.output.shape()),
        ]

    def _select(self, m: Module, parts: _Parts) -> None:
        """Send distances through the selector, and add probabilities to the importance."""
        weigh, value, selector = parts.weigh, parts.value, parts.value_topk
        tokens, importance = parts.tokens, parts.token_importance
        m.d.comb += [
            selector.i_keys.valid.eq(weigh.keys_valid),  # taken at once: load is ready (5.4)
            selector.i_keys.payload.eq(weigh.keys),
            value.i.valid.eq(selector.o_items.valid),
            value.i.payload.eq(selector.o_items.payload),
            selector.o_items.ready.eq(value.i.ready),
            tokens.weigh_row.eq(weigh.list_row),
            weigh.list_ids.eq(tokens.weigh_ids),
            importance.add.eq(weigh.add_lanes),
            importance.ids.eq(weigh.add_ids),
            importance.probability.eq(weigh.add_probability),
            tokens.item_index.eq(value.item_index),
            value.item_ids.eq(tokens.item_ids),
            self.o_v.valid.eq(value.o.valid),
            self.o_v.payload.eq(value.o.payload),
            value.o.ready.eq(self.o_v.ready),
            value.i_v.valid.eq(self.i_v.valid),
            value.i_v.payload.eq(self.i_v.payload),
            self.i_v.ready.eq(1),
        ]

    def _output(self, m: Module, parts: _Parts, launch_v: Value) -> None:
        output, heads = parts.output, parts.head_importance
        m.d.comb += [
            output.claim.eq(launch_v & parts.value.tag.last),
            output.row.eq(parts.value.output),
            output.load.eq(parts.accumulate.done),
            output.acc.eq(parts.accumulate.acc),
            self.o_e.valid.eq(output.o.valid),
            self.o_e.payload.eq(output.o.payload),
            output.o.ready.eq(self.o_e.ready),
            heads.busy.eq(output.busy),
            heads.transfer.eq(self.o_e.valid & self.o_e.ready),
            heads.beat.eq(output.o.payload),
            heads.head.eq(output.head),
        ]

    def _commands(self, m: Module, parts: _Parts, rows: _Rows) -> None:
        commands, tokens, selector = parts.commands, parts.tokens, parts.token_topk
        in_flight = tally(m, "in_flight", _ROWS_IN_FLIGHT, rows.take, parts.output.done)
        m.d.comb += [
            commands.i.valid.eq(self.i_cmd.valid),
            commands.i.payload.eq(self.i_cmd.payload),
            self.i_cmd.ready.eq(commands.i.ready),
            commands.flight.eq(in_flight.any()),
            tokens.reset.eq(commands.reset),
            tokens.write.eq(commands.list_write),
            tokens.write_row.eq(commands.list_row),
            tokens.write_ids.eq(commands.list_ids),
            parts.head_importance.clear.eq(commands.clear_heads),
            parts.head_importance.scan_row.eq(commands.head_row),
            commands.head_scan.eq(parts.head_importance.scan),
            parts.token_importance.clear.eq(commands.clear),
            parts.token_importance.clear_row.eq(commands.clear_row),
            parts.token_importance.scan_row.eq(commands.token_row),
            commands.token_scan.eq(parts.token_importance.scan),
            self.o_kept.valid.eq(commands.o_kept.valid),
            self.o_kept.payload.eq(commands.o_kept.payload),
            commands.o_kept.ready.eq(self.o_kept.ready),
        ]
        for source, sink in (
            (commands.o_job, selector.i_job),
            (commands.o_keys, selector.i_keys),
            (selector.o_items, commands.i_items),
        ):
            m.d.comb += [
                sink.valid.eq(source.valid),
                sink.payload.eq(source.payload),
                source.ready.eq(sink.ready),
            ]

    def _events(
        self, m: Module, parts: _Parts, rows: _Rows, launch_k: Value, launch_v: Value
    ) -> None:
        events, weigh, value = self.o_events, parts.weigh, parts.value
        m.d.comb += [
            events.fetch_start.eq(rows.taken),
            events.redo.eq(rows.flat),
            events.launch_k.eq(launch_k),
            events.launch_v.eq(launch_v),
            events.mac_qk_lanes.eq(Mux(launch_k, _ones(parts.key_tags.o.keep), 0)),
            events.mac_pv_lanes.eq(Mux(launch_v, _ones(value.tag.keep), 0)),
            events.score_write.eq(parts.score.wrote),
            events.score_read.eq(parts.sum.read),
            events.score_read_lsb.eq(parts.score.read_stored),
            events.sum_keys.eq(parts.sum.keys),
            events.distance_write.eq(parts.sum.write),
            events.distance_read.eq(weigh.read.any()),
            events.weigh_keys.eq(weigh.read),
            events.importance_keys.eq(Mux(weigh.adds, weigh.read, 0)),
            events.k_wait.eq(parts.fetch.waiting & ~parts.key_beats.usable),
            events.v_wait.eq(value.waiting & ~value.usable),
            events.sum_busy.eq(parts.sum.busy),
            events.weigh_busy.eq(weigh.busy),
            events.output_busy.eq(parts.output.busy),
            events.flight.eq(parts.commands.flight),
            events.value.eq(parts.value_topk.o_events),
            events.token.eq(parts.token_topk.o_events),
        ]


class _Parts:
    """The parts of the engine, each a submodule of that name; the multipliers apart."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.commands = Commands(spec)
        self.tokens = TokenList(spec)
        self.fetch = Fetch(spec)
        self.key_tags: Any = ReadAheadQueue(key_tag_layout(spec), spec.fetch_beats)
        self.key_beats: Any = ReadAheadQueue(codes_layout(spec), spec.fetch_beats)
        self.score = Score(spec)
        self.sum = Sum(spec)
        self.weigh = Weigh(spec)
        self.value_topk = Topk(spec.value_selector)
        self.value = ValueFetch(spec)
        self.accumulate = Accumulate(spec)
        self.output = Output(spec)
        self.token_importance = TokenImportance(spec)
        self.head_importance = HeadImportance(spec)
        self.token_topk = Topk(spec.importance_selector)


class _Rows:
    """Rows from their fetch until they are handed over: a score bank, query and command of each.

    Attributes
    ----------
    take, new, query : Signal
        A row takes bank `fetch_bank` with this command and query; only where `room` is 1.
    give : Signal
        The oldest row, in bank `sum_bank` with command `summed`, leaves its bank.
    flat, redo, retried : Signal
        Its LSBs are needed: a strobe; until `taken` (fetch starts); and from the next cycle on.
    queries : list of Signal
        By bank.
    """

    def __init__(self, m: Module, spec: AttentionSpec) -> None:
        layout = row_layout(spec)
        bank = index_bits(SCORE_BANKS)
        self.take, self.give, self.flat, self.taken = Signal(), Signal(), Signal(), Signal()
        self.new: Any = Signal(layout)
        self.query: Any = Signal(query_layout(spec))
        self.fetch_bank, self.sum_bank = Signal(bank), Signal(bank)
        self.redo, self.retried, self.room = Signal(), Signal(), Signal()
        self.summed: Any = Signal(layout)

        used = tally(m, "used", SCORE_BANKS, self.take, self.give)
        m.d.comb += self.room.eq(used != SCORE_BANKS)
        for number, moves in ((self.fetch_bank, self.take), (self.sum_bank, self.give)):
            with m.If(moves):
                m.d.sync += number.eq(Mux(number == SCORE_BANKS - 1, 0, number + 1))
        rows: list[Value] = []
        self.queries: list[Value] = []
        for index in range(SCORE_BANKS):
            row = Signal(layout, name=f"row_{index}")
            query = Signal(query_layout(spec), name=f"query_{index}")
            with m.If(self.take & (self.fetch_bank == index)):
                m.d.sync += [row.eq(self.new), query.eq(self.query)]
            rows.append(row.as_value())
            self.queries.append(query.as_value())
        m.d.comb += self.summed.eq(Array(rows)[self.sum_bank])

        waits = Signal()
        m.d.comb += self.redo.eq(self.flat | waits)
        m.d.sync += waits.eq(self.redo & ~self.taken)
        with m.If(self.flat):
            m.d.sync += self.retried.eq(1)
        with m.Elif(self.give):
            m.d.sync += self.retried.eq(0)


def _ones(flags: Value) -> Value:
    return sum(flags[1:], start=flags[0])
