# SPDX-License-Identifier: Apache-2.0
"""Result memories: one per column, written by the array, read by the drain (sections 5.2, 5.3)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.lib.widths import index_bits
from rtl.w4a8.layout import pair_cols, psum_bits, result_layout


class ResultPair(wiring.Component):
    """Result memories of one column pair.

    Parameters
    ----------
    spec : W4A8Spec
    cols : int
        Columns of the pair, 1 or 2.

    Members
    -------
    control : In(result_layout)
        os: writes `sums` in this cycle. ws: reads the word to which `sums` are added two cycles
        later; the total is written one cycle after that.
    control_out : Out(result_layout)
        `control` one cycle later, for the pair to the right.
    sums : In(array of cols)
        os: bottom shadow registers; ws: sums of the array's bottom row.
    written : Out(1)
        The write that completes a tile (os) or a row (ws) happens in this cycle.
    read_en, read_addr : In
        Drain: `read` shows the word in the next cycle, and holds it while `read_en` is 0.
    read : Out(array of cols, acc_bits)
    """

    control: Any
    control_out: Any
    sums: Any
    written: Signal
    read_en: Signal
    read_addr: Signal
    read: Any

    def __init__(self, spec: W4A8Spec, cols: int) -> None:
        self._spec, self._cols = spec, cols
        self._os = spec.dataflow == "os"
        self._sum_bits = spec.acc_bits if self._os else psum_bits(spec)
        super().__init__(
            {
                "control": In(result_layout(spec)),
                "control_out": Out(result_layout(spec)),
                "sums": In(data.ArrayLayout(self._sum_bits, cols)),
                "written": Out(1),
                "read_en": In(1),
                "read_addr": In(index_bits(spec.result_rows)),
                "read": Out(data.ArrayLayout(spec.acc_bits, cols)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control
        m.d.sync += self.control_out.eq(control)
        write: Any = control
        if not self._os:
            # At the read data, at the sums, at the write.
            for name in ("control_read", "control_sum", "control_write"):
                write, earlier = Signal(control.shape(), name=name), write
                m.d.sync += write.eq(earlier)
        m.d.comb += self.written.eq(write.en & write.done)
        for col in range(self._cols):
            # One memory word per column: the drain and, in ws, the addition read at the same time,
            # so the memory has two read ports there, which block RAM gives by holding every word
            # twice.
            memory = Memory(shape=self._spec.acc_bits, depth=self._spec.result_rows, init=[])
            m.submodules[f"mem_{col}"] = memory
            write_port, drain_port = memory.write_port(), memory.read_port()
            m.d.comb += [
                write_port.en.eq(write.en),
                write_port.addr.eq(write.addr),
                drain_port.en.eq(self.read_en),
                drain_port.addr.eq(self.read_addr),
                self.read[col].eq(drain_port.data),
            ]
            if self._os:
                m.d.comb += write_port.data.eq(self.sums[col])
                continue
            # The access time of a block RAM leaves no time for a sum. The word may be the one that
            # is being written: three cycles between waves of one row are enough.
            add_port = memory.read_port(transparent_for=(write_port,))
            stored = Signal(self._spec.acc_bits, name=f"stored_{col}", reset_less=True)
            total = Signal(self._spec.acc_bits, name=f"total_{col}", reset_less=True)
            m.d.comb += [
                add_port.addr.eq(control.addr),
                write_port.data.eq(total),
            ]
            m.d.sync += [
                stored.eq(Mux(self.control_out.add, add_port.data, 0)),
                total.eq(stored + self.sums[col].as_signed()),
            ]
        return m


class Results(wiring.Component):
    """The result memories of all columns.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    control : In(result_layout)
        Control of the first pair (`ResultPair.control`).
    sums : In(array of C)
        What leaves the array.
    written : Out(1)
        The last pair completes a tile (os) or a row (ws): it can be read from the next cycle.
    read_en, read_addr, read : In, In, Out(array of C, acc_bits)
        As `ResultPair`, all columns at one address.
    """

    control: Any
    sums: Any
    written: Signal
    read_en: Signal
    read_addr: Signal
    read: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        bits = spec.acc_bits if spec.dataflow == "os" else psum_bits(spec)
        self._sum_bits = bits
        super().__init__(
            {
                "control": In(result_layout(spec)),
                "sums": In(data.ArrayLayout(bits, spec.array_cols)),
                "written": Out(1),
                "read_en": In(1),
                "read_addr": In(index_bits(spec.result_rows)),
                "read": Out(data.ArrayLayout(spec.acc_bits, spec.array_cols)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control: Any = self.control
        read: list[Any] = []
        sums = self.sums.as_value()
        for number in range(self._spec.pairs):
            cols = pair_cols(self._spec, number)
            first = 2 * number * self._sum_bits
            pair = ResultPair(self._spec, cols)
            m.submodules[f"pair_{number}"] = pair
            m.d.comb += [
                pair.control.eq(control),
                pair.sums.eq(sums[first : first + cols * self._sum_bits]),
                pair.read_en.eq(self.read_en),
                pair.read_addr.eq(self.read_addr),
            ]
            control = pair.control_out
            read.append(pair.read)
            if number == self._spec.pairs - 1:
                m.d.comb += self.written.eq(pair.written)
        m.d.comb += self.read.eq(Cat(read))
        return m


class ShadowWriter(wiring.Component):
    """os: writes the R rows of a tile, bottom row first, when its shadow chain begins to shift.

    Members
    -------
    captured : In(1)
        The first pair's bottom shadow register shows the tile in the next cycle.
    control : Out(result_layout)
        Control of the first pair, a register.
    """

    captured: Signal
    control: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__({"captured": In(1), "control": Out(result_layout(spec))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, control = self._spec.array_rows, self.control
        left = Signal(range(R))
        base = Signal(index_bits(self._spec.result_rows))
        with m.If(self.captured):
            m.d.sync += [
                left.eq(R - 1),
                control.en.eq(1),
                control.done.eq(R == 1),
                control.addr.eq(base + (R - 1)),
            ]
            if self._spec.double_buffer:
                m.d.sync += base.eq(base + R)
        with m.Elif(control.en):
            m.d.sync += [
                left.eq(left - 1),
                control.en.eq(left != 0),
                control.done.eq(left == 1),
                control.addr.eq(control.addr - 1),
            ]
        return m


class SumDelay(wiring.Component):
    """ws: delays a wave's result control until the first pair reads what its sum is added to.

    Members
    -------
    launch, control : In, Out(result_layout)
        Control at the launch, and R + 1 cycles later.
    """

    launch: Any
    control: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._stages = spec.array_rows + 1
        super().__init__({"launch": In(result_layout(spec)), "control": Out(result_layout(spec))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value: Any = self.launch
        for stage in range(self._stages):
            delayed = Signal(value.shape(), name=f"stage_{stage}")
            m.d.sync += delayed.eq(value)
            value = delayed
        m.d.comb += self.control.eq(value)
        return m
