# SPDX-License-Identifier: Apache-2.0
"""Value: requests for the selected values, and their beats' launches and sums (section 5.5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.attention import (
    CODE_BITS,
    CONTEXT_ROWS,
    PROBABILITY_BITS,
    AttentionSpec,
)
from rtl.attention.layout import (
    codes_layout,
    context_layout,
    ids_layout,
    output_layout,
    probabilities_layout,
    value_request_layout,
    value_tag_layout,
)
from rtl.attention.probability import Probability
from rtl.lib.counters import tally
from rtl.lib.pipeline import register
from rtl.lib.read_ahead import ReadAheadQueue
from rtl.lib.tree import add, registered_tree
from rtl.topk.layout import items_layout


class ValueFetch(wiring.Component):
    """From the selector's items to value beats that can be launched.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    push, context : In(1), In(context_layout)
        A row is handed over in this cycle; only where `room` is 1.
    room : Out(1)
    i : In(stream(items_layout))
        Items of the rows in that order.
    item_index, item_ids : Out(ids_layout), In(ids_layout)
        Read port of the token list.
    o : Out(stream(value_request_layout))
    i_v : In(stream(codes_layout))
        Responses; ready is 1.
    usable : Out(1)
        A beat can be launched, as far as this part knows.
    waiting : Out(1)
        Items were accepted whose beats are not launched.
    launch : In(1)
        It is launched.
    tag, probability, codes, value_bits, output : Out
        The beat, its row's width of codes and what the output stage needs.
    """

    push: Signal
    context: Any
    room: Signal
    i: stream.Interface
    item_index: Any
    item_ids: Any
    o: stream.Interface
    i_v: stream.Interface
    usable: Signal
    waiting: Signal
    launch: Signal
    tag: Any
    probability: Any
    codes: Any
    value_bits: Signal
    output: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "push": In(1),
                "context": In(context_layout(spec)),
                "room": Out(1),
                "i": In(stream.Signature(items_layout(spec.value_selector))),
                "item_index": Out(ids_layout(spec)),
                "item_ids": In(ids_layout(spec)),
                "o": Out(stream.Signature(value_request_layout(spec))),
                "i_v": In(stream.Signature(codes_layout(spec), always_ready=True)),
                "usable": Out(1),
                "waiting": Out(1),
                "launch": In(1),
                "tag": Out(value_tag_layout(spec)),
                "probability": Out(probabilities_layout(spec)),
                "codes": Out(codes_layout(spec)),
                "value_bits": Out(4),
                "output": Out(output_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes, items = self._spec, range(self._spec.lanes), self.i.payload
        m.submodules.requests = requests = ReadAheadQueue(
            value_request_layout(spec), spec.fetch_beats
        )
        # Apart: what decides on a launch is narrow, and so not behind a block RAM.
        m.submodules.tags = tags = ReadAheadQueue(value_tag_layout(spec), spec.fetch_beats)
        m.submodules.factors = factors = ReadAheadQueue(
            probabilities_layout(spec), spec.fetch_beats
        )
        m.submodules.beats = beats = ReadAheadQueue(codes_layout(spec), spec.fetch_beats)
        m.submodules.probability = probability = Probability(spec)

        accept, last_launch = Signal(), Signal()
        reserved = tally(m, "reserved", spec.fetch_beats, accept, self.launch)
        rows = tally(m, "rows", CONTEXT_ROWS, self.push, last_launch)
        accepted, launched = self._contexts(m, accept & items.last, last_launch)
        m.d.comb += [
            self.i.ready.eq(~reserved[-1]),  # fetch_beats is a power of two
            accept.eq(self.i.valid & self.i.ready),
            self.waiting.eq(reserved.any()),
            self.room.eq(rows != CONTEXT_ROWS),
            last_launch.eq(self.launch & self.tag.last),
        ]

        # Accepted in c: ids c + 1, registered c + 2; probabilities c + 3.
        some = accept & items.keep.any()
        here = Signal(2)
        m.d.sync += here.eq((here << 1) | some)
        keep = register(m, 1, items.keep, name="keep_reg", stages=2)
        base = register(m, 1, accepted.value_base, name="base", stages=2)
        ids: Any = register(m, 1, self.item_ids, name="ids")
        m.d.comb += [
            *(self.item_index[lane].eq(items.index[lane]) for lane in lanes),
            requests.push.eq(here[1]),
            requests.i.keep.eq(keep),
            *(requests.i.addr[lane].eq(Mux(keep[lane], base + ids[lane], 0)) for lane in lanes),
            self.o.valid.eq(requests.usable),
            self.o.payload.eq(requests.o),
            requests.pop.eq(self.o.valid & self.o.ready),
        ]

        coming = Signal(Probability.STAGES)
        m.d.sync += coming.eq((coming << 1) | accept)
        tag: Any = Signal(value_tag_layout(spec))
        m.d.comb += [
            tag.keep.eq(items.keep),
            tag.empty.eq(~items.keep.any()),
            tag.last.eq(items.last),
        ]
        tag = register(m, 1, tag, name="tag_reg", stages=Probability.STAGES)
        m.d.comb += [
            *(probability.distance[lane].eq(items.key[lane]) for lane in lanes),
            probability.log.eq(accepted.log),
            probability.keep.eq(items.keep),
            tags.push.eq(coming[-1]),
            tags.i.eq(tag),
            factors.push.eq(coming[-1]),
            factors.i.eq(probability.probability),
        ]

        m.d.comb += [
            beats.push.eq(self.i_v.valid),
            beats.i.eq(self.i_v.payload),
            self.tag.eq(tags.o),
            self.probability.eq(factors.o),
            self.codes.eq(beats.o),
            self.usable.eq(tags.usable & (tags.o.empty | beats.usable)),
            tags.pop.eq(self.launch),
            factors.pop.eq(self.launch),
            beats.pop.eq(self.launch & ~tags.o.empty),
            self.value_bits.eq(launched.value_bits),
            self.output.eq(launched.output),
        ]
        return m

    def _contexts(self, m: Module, accepted: Value, launched: Value) -> tuple[Any, Any]:
        """Return the contexts of the row that is accepted and of the row that is launched."""
        layout = context_layout(self._spec)
        contexts = [Signal(layout, name=f"context_{i}") for i in range(CONTEXT_ROWS)]
        pushes = Signal(range(CONTEXT_ROWS))
        for index, context in enumerate(contexts):
            with m.If(self.push & (pushes == index)):
                m.d.sync += context.eq(self.context)
        found: list[Any] = []
        for name, moves in (("accepts", accepted), ("launches", launched)):
            place = Signal(range(CONTEXT_ROWS), name=name)
            m.d.sync += place.eq(place + moves)
            words = Array(Value.cast(context) for context in contexts)
            shown: Any = Signal(layout, name=f"{name}_context")
            m.d.comb += shown.eq(words[place])
            found.append(shown)
        m.d.sync += pushes.eq(pushes + self.push)
        return found[0], found[1]


class Accumulate(wiring.Component):
    """Products of value beats summed over lanes and over a row's beats.

    Parameters
    ----------
    spec : AttentionSpec

    Members
    -------
    launch, last : In(1)
        A value beat is launched in this cycle (v); it is its row's last.
    products : In(array of G of arrays of D, signed)
        At v + 2.
    done : Out(1)
        At v + 3 + lane_tree of a last beat: `acc` is the row's.
    acc : Out(array of D, signed(acc_bits))
    """

    launch: Signal
    last: Signal
    products: Any
    done: Signal
    acc: Any

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        columns = data.ArrayLayout(signed(PROBABILITY_BITS + 1 + CODE_BITS), spec.head_dim)
        super().__init__(
            {
                "launch": In(1),
                "last": In(1),
                "products": In(data.ArrayLayout(columns, spec.lanes)),
                "done": Out(1),
                "acc": Out(data.ArrayLayout(signed(spec.acc_bits), spec.head_dim)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        stages = 2 + spec.lane_tree
        launched, ended = Signal(stages), Signal(stages)
        first = Signal(init=1)
        m.d.sync += [
            launched.eq((launched << 1) | self.launch),
            ended.eq((ended << 1) | (self.launch & self.last)),
            self.done.eq(ended[-1]),
        ]
        with m.If(launched[-1]):
            m.d.sync += first.eq(ended[-1])
        for column in range(spec.head_dim):
            products = [self.products[lane][column] for lane in range(spec.lanes)]
            beat = registered_tree(m, products, add, name=f"sum_{column}")
            acc = Signal(signed(spec.acc_bits), name=f"acc_{column}", reset_less=True)
            with m.If(launched[-1]):
                m.d.sync += acc.eq(Mux(first, 0, acc) + beat)
            m.d.comb += self.acc[column].eq(acc)
        return m
