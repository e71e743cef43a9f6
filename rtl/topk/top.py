# SPDX-License-Identifier: Apache-2.0
"""The engine: load, select, filter, and the banks that a job passes through (section 4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.topk import TopkSpec
from rtl.topk.filter import Filter
from rtl.topk.layout import JOB, events_layout, items_layout, keys_layout
from rtl.topk.load import Load
from rtl.topk.select_quick import SelectQuick
from rtl.topk.select_radix import SelectRadix


class Topk(wiring.Component):
    """Exact streaming top-k: keys in, the k best with their indices out, in input order.

    Parameters
    ----------
    spec : TopkSpec

    Members
    -------
    i_job : In(stream(JOB))
        Number of keys and k; ready while load is idle and a bank free.
    i_keys : In(stream(keys_layout))
        Rows of keys.
    o_items : Out(stream(items_layout))
        Kept keys and their indices, packed.
    o_events : Out(events_layout)
        Strobes and amounts for monitors (sections 6 and 7).
    """

    i_job: stream.Interface
    i_keys: stream.Interface
    o_items: stream.Interface
    o_events: Any

    def __init__(self, spec: TopkSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "i_job": In(stream.Signature(JOB)),
                "i_keys": In(stream.Signature(keys_layout(spec))),
                "o_items": Out(stream.Signature(items_layout(spec))),
                "o_events": Out(events_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        radix = spec.architecture == "radix"
        m.submodules.load = load = Load(spec)
        select: Any = SelectRadix(spec) if radix else SelectQuick(spec)
        m.submodules.select = select
        m.submodules.filter = filter_ = Filter(spec)
        wiring.connect(m, wiring.flipped(self.i_job), load.i_job)
        wiring.connect(m, wiring.flipped(self.i_keys), load.i_keys)
        wiring.connect(m, wiring.flipped(self.o_items), filter_.o_items)
        hand, take = Signal(), Signal()
        m.d.comb += [
            hand.eq(load.complete & select.idle),
            take.eq(select.known & filter_.idle),
            load.hand.eq(hand),
            select.hand.eq(hand),
            select.task.eq(load.task),
            select.choice.eq(load.choice) if radix else select.need.eq(load.need),
            select.take.eq(take),
            filter_.take.eq(take),
            filter_.task.eq(select.held),
            filter_.cut.eq(select.cut),
        ]
        self._banks(m, load, select, filter_)
        self._events(m, load, select, filter_)
        return m

    def _banks(self, m: Module, load: Load, select: Any, filter_: Filter) -> None:
        """Connect every stage with the bank of its job; banks are taken in turn."""
        spec, buffers = self.spec, self.spec.buffers
        used = Signal(range(buffers + 1))
        m.d.comb += load.free.eq(used != buffers)
        m.d.sync += used.eq(used + load.accept - filter_.done)
        load_bank = self._turn(m, "load_bank", load.hand)
        select_bank = self._turn(m, "select_bank", filter_.take)
        filter_bank = self._turn(m, "filter_bank", filter_.done)
        rows: list[Value] = []
        for number in range(buffers):
            memory = Memory(shape=spec.lanes * spec.key_bits, depth=spec.memory_depth, init=[])
            m.submodules[f"bank_{number}"] = memory
            write = memory.write_port()
            read = memory.read_port()
            filtered = Signal(name=f"filtered_{number}")
            m.d.comb += [
                write.en.eq(load.write & (load_bank == number)),
                write.addr.eq(load.row),
                write.data.eq(load.i_keys.payload),
                filtered.eq(~filter_.idle & (filter_bank == number)),
                read.en.eq(filter_.en | ~filtered),
                read.addr.eq(Mux(filtered, filter_.row, select.row)),
            ]
            rows.append(read.data)
        m.d.comb += [
            select.i.eq(_choose(rows, select_bank)),
            filter_.i.eq(_choose(rows, filter_bank)),
        ]

    def _turn(self, m: Module, name: str, step: Value) -> Signal:
        """Return a counter modulo the banks."""
        last = self.spec.buffers - 1
        turn = Signal(range(last + 1), name=name)
        with m.If(step):
            m.d.sync += turn.eq(Mux(turn == last, 0, turn + 1))
        return turn

    def _events(self, m: Module, load: Load, select: Any, filter_: Filter) -> None:
        """Show what happens in this cycle."""
        events = self.o_events
        m.d.comb += [
            events.loading.eq(load.i_keys.ready),
            events.selecting.eq(~select.idle),
            events.filtering.eq(~filter_.idle),
            events.decided.eq(select.first),
            events.bank_write.eq(load.write),
            events.bank_read_select.eq(select.read_bank),
            events.bank_read_filter.eq(filter_.issue),
            events.fifo_write.eq(select.written),
            events.fifo_read.eq(select.read_memory),
            events.passes.eq(select.passes),
        ]
        if self.spec.architecture == "radix":
            m.d.comb += [
                events.histogram_load.eq(load.counted),
                events.histogram_select.eq(select.matched),
            ]
        else:
            m.d.comb += [events.compare.eq(select.compared), events.draw.eq(select.passes)]


def _choose(values: list[Value], number: Value) -> Value:
    """Return one of few values."""
    chosen = values[0]
    for other, value in enumerate(values[1:], 1):
        chosen = Mux(number == other, value, chosen)
    return chosen
