# SPDX-License-Identifier: Apache-2.0
"""Inputs: two banks of activations, and the serialiser that drives the rows with slices."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from rtl.lib.blocks import Blocks
from rtl.lib.counters import pending
from rtl.lib.widths import index_bits
from rtl.pim.layout import codes_layout, job_layout, rows_layout

BANKS = 2
"""Vectors that are written or launched."""


class Inputs(wiring.Component):
    """Holds the codes of two vectors.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    i_x : In(stream(codes_layout))
        As the engine's.
    start, job : In(1), In(job_layout)
        The job that is taken in this cycle or runs.
    available : Out(1)
        A group's beat is written that no first slice was launched of: a register.
    launch : In(1)
        The rows of `group` are driven with slice `slice` from the next cycle on.
    bank, group, slice : In
    launch_first, launch_last : In(1)
        With `launch`: it is a first slice, the last step of its vector.
    rows : Out(rows_layout)
        What is driven, until the next launch.
    """

    i_x: stream.Interface
    start: Signal
    job: Any
    available: Signal
    launch: Signal
    bank: Signal
    group: Signal
    slice: Signal
    launch_first: Signal
    launch_last: Signal
    rows: Any

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "i_x": In(stream.Signature(codes_layout(spec))),
                "start": In(1),
                "job": In(job_layout(spec)),
                "available": Out(1),
                "launch": In(1),
                "bank": In(1),
                "group": In(index_bits(spec.groups)),
                "slice": In(index_bits(spec.slices)),
                "launch_first": In(1),
                "launch_last": In(1),
                "rows": Out(rows_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        m.submodules.banks = banks = Memory(
            shape=spec.rows * spec.activation_bits, depth=BANKS * spec.groups, init=[]
        )
        write, read = banks.write_port(), banks.read_port()
        present = Signal(range(spec.slices))
        step, bank, group, used = self._take(m)
        m.d.comb += [
            write.en.eq(step),
            write.addr.eq(Cat(bank, group)),
            write.data.eq(self._by_slice(used)),
            read.en.eq(self.launch),
            read.addr.eq(Cat(self.bank, self.group)),
        ]
        with m.If(self.launch):
            m.d.sync += present.eq(self.slice)
        slice_width = spec.rows * spec.slice_bits
        slices = [read.data.word_select(number, slice_width) for number in range(spec.slices)]
        chosen = Array(slices)[present] if spec.slices > 1 else slices[0]
        m.d.comb += [
            self.rows.eq(chosen),
            self.available.eq(
                pending(m, "ahead", BANKS * spec.groups, step, self.launch & self.launch_first)
            ),
        ]
        return m

    def _take(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """Accept a beat where a bank is free; return the strobe, its place and the rows in use."""
        spec, job = self._spec, self.job
        waits, ready, bank = Signal(), Signal(), Signal()
        group = Signal(index_bits(spec.groups))
        vectors = Signal(32)
        groups = Blocks(job.rows, len(job.k), "groups", most=spec.rows)
        step, complete, leaves = Signal(), Signal(), Signal()
        occupied = pending(m, "occupied", BANKS, complete, leaves)
        m.d.comb += [
            leaves.eq(self.launch & self.launch_last),
            self.i_x.ready.eq(ready),
            step.eq(self.i_x.valid & ready),
            complete.eq(step & ~groups.more),
        ]
        with m.If(step):
            m.d.sync += [*groups.step(), group.eq(group + 1)]
        with m.If(complete):
            m.d.sync += [
                *groups.load(job.k), group.eq(0), bank.eq(~bank),
                vectors.eq(vectors - 1), waits.eq(vectors != 1),
            ]  # fmt: skip
            # Both banks are occupied, unless the other one is free or becomes so.
            m.d.sync += ready.eq((vectors != 1) & (~occupied | leaves))
        with m.Elif(leaves):
            m.d.sync += ready.eq(waits)
        with m.If(self.start):
            m.d.sync += [*groups.load(job.k), group.eq(0), vectors.eq(job.m)]
            m.d.sync += [waits.eq(1), ready.eq(1)]
        used = Signal(spec.rows)
        m.d.comb += used.eq(Cat(groups.part > row for row in range(spec.rows)))
        return step, bank, group, used

    def _by_slice(self, used: Signal) -> Value:
        """Return the codes of the rows in use, slice after slice, most significant slice first."""
        spec = self._spec
        width = spec.slice_bits
        return Cat(
            self.i_x.payload[row][first : first + width] & used[row].replicate(width)
            for first in range(spec.activation_bits - width, -1, -width)
            for row in range(spec.rows)
        )
