# SPDX-License-Identifier: Apache-2.0
"""The analog part, behavioural: exact columns, and ADCs with transfer tables and noise.

It can be built, too: an FPGA with it computes what the chip would. What takes its place on the chip
has the same members (`MacroSignature`), without `tables`.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.pim import PimSpec
from rtl.lib.pipeline import register
from rtl.lib.tree import add, tree
from rtl.lib.widths import index_bits
from rtl.lib.xorshift import Xorshift
from rtl.pim.layout import WORD_BITS, MacroSignature, code_shape, rows_layout

_FRACTION_BITS = 4
"""Tables count sixteenths of an LSB."""

_HALF = 1 << (_FRACTION_BITS - 1)


class Column(wiring.Component):
    """Cells of one column, the sum over its rows, and its sample-and-hold.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    write, bit, group, word, data : In
        A word of cells is written: as `MacroSignature.cells`.
    select, select_group : In(1), In
        The group that is driven from the next cycle on.
    rows : In(rows_layout)
        What drives them.
    sample : In(banks)
        Hold the column's value in this bank at the end of the cycle.
    held : Out(array of banks)
        Values held, from v_min on.
    """

    write: Signal
    bit: Signal
    group: Signal
    word: Signal
    data: Signal
    select: Signal
    select_group: Signal
    rows: Any
    sample: Signal
    held: Any

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        group, banks = index_bits(spec.groups), 1 + spec.double_buffer
        super().__init__(
            {
                "write": In(1),
                "bit": In(index_bits(spec.cell_bits)),
                "group": In(group),
                "word": In(index_bits(spec.row_words)),
                "data": In(WORD_BITS),
                "select": In(1),
                "select_group": In(group),
                "rows": In(rows_layout(spec)),
                "sample": In(banks),
                "held": Out(data.ArrayLayout(value_bits(spec), banks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        value = Signal(value_bits(spec))
        m.d.comb += value.eq(tree(self._terms(m), add) - spec.value_min)
        for bank, held in enumerate(self.held):
            m.d.comb += held.eq(register(m, self.sample[bank], value, name=f"held_{bank}"))
        return m

    def _terms(self, m: Module) -> list[Value]:
        """Return cell times slice of every row."""
        spec = self._spec
        single = spec.slice_bits == 1
        planes: list[Signal] = []
        for bit in range(spec.cell_bits):
            plane = Signal(spec.rows, name=f"plane_{bit}")
            cells = self._cells(m, bit)
            # One wide gate for a plane: elaboration takes as long as there are operators.
            m.d.comb += plane.eq(cells & self.rows.as_value() if single else cells)
            planes.append(plane)
        values: list[Value] = [Cat(plane[row] for plane in planes) for row in range(spec.rows)]
        if spec.value_min:
            values = [value.as_signed() for value in values]
        return values if single else [a * b for a, b in zip(values, self.rows, strict=True)]

    def _cells(self, m: Module, bit: int) -> Value:
        """Return a bit of every cell of the group that is selected."""
        spec = self._spec
        words: list[Value] = []
        for word, first in enumerate(range(0, spec.rows, WORD_BITS)):
            width = min(WORD_BITS, spec.rows - first)
            memory = Memory(shape=width, depth=spec.groups, init=[])
            m.submodules[f"cells_{bit}_{word}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write & (self.bit == bit) & (self.word == word)),
                write.addr.eq(self.group),
                write.data.eq(self.data),
                read.en.eq(self.select),
                read.addr.eq(self.select_group),
            ]
            words.append(Value.cast(read.data))
        return Cat(words)


class Adc(wiring.Component):
    """One ADC: multiplexer, transfer tables of its columns, and noise.

    Parameters
    ----------
    spec : PimSpec

    Members
    -------
    held : In(array of M of arrays of banks)
        Of its columns.
    bank, position, first_entry, strobe : In
        In q: whose value is converted, and where its table begins.
    code : Out(code_shape)
        At q + 2.
    transfer_write, transfer_entry, transfer : In
        As `MacroSignature.tables`.
    noise_write, noise_entry, noise, state_write, state : In, with noise hardware
        Likewise; `state_write` for this ADC.
    """

    held: Any
    bank: Signal
    first_entry: Signal
    position: Signal
    strobe: Signal
    code: Any
    transfer_write: Signal
    transfer_entry: Signal
    transfer: Any
    noise_write: Signal
    noise_entry: Signal
    noise: Any
    state_write: Signal
    state: Signal

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        entry = index_bits(spec.mux * spec.entries)
        values = data.ArrayLayout(value_bits(spec), 1 + spec.double_buffer)
        noise = {
            "noise_write": In(1),
            "noise_entry": In(spec.noise_bits),
            "noise": In(signed(16)),
            "state_write": In(1),
            "state": In(32),
        }
        super().__init__(
            {
                "held": In(data.ArrayLayout(values, spec.mux)),
                "bank": In(1),
                "position": In(index_bits(spec.mux)),
                "first_entry": In(entry),
                "strobe": In(1),
                "code": Out(code_shape(spec)),
                "transfer_write": In(1),
                "transfer_entry": In(entry),
                "transfer": In(signed(16)),
                **(noise if spec.noise_bits else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        m.submodules.transfer = memory = Memory(
            shape=signed(17), depth=spec.mux * spec.entries, init=[]
        )
        write, read = memory.write_port(), memory.read_port()
        values = [self._value(at) for at in range(spec.mux)]
        value = Array(values)[self.position] if spec.mux > 1 else values[0]
        # The half that makes the shift round is added where a table is written.
        m.d.comb += [
            write.en.eq(self.transfer_write),
            write.addr.eq(self.transfer_entry),
            write.data.eq(self.transfer + (0 if spec.noise_bits else _HALF)),
            read.en.eq(self.strobe),
            read.addr.eq(self.first_entry + value),
        ]
        total = read.data
        if spec.noise_bits:
            total = total + self._noise(m)
        floor = Signal(signed(len(total) - _FRACTION_BITS))
        m.d.comb += floor.eq(total >> _FRACTION_BITS)
        low, high = spec.code_min, spec.code_max
        code = Mux(floor < low, low, Mux(floor > high, high, floor))
        with m.If(register(m, 1, self.strobe, name="read", reset=True)):
            m.d.sync += self.code.eq(code)
        return m

    def _value(self, position: int) -> Value:
        held = self.held[position]
        return Mux(self.bank, held[1], held[0]) if self._spec.double_buffer else held[0]

    def _noise(self, m: Module) -> Value:
        """Return the noise of the conversion that ended in the cycle before, with the half."""
        bits = self._spec.noise_bits
        m.submodules.generator = generator = Xorshift()
        m.submodules.noise = memory = Memory(
            shape=signed(17), depth=1 << bits, init=[_HALF] * (1 << bits)
        )
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            generator.load.eq(self.state_write),
            generator.i.eq(self.state),
            generator.draw.eq(self.strobe),
            write.en.eq(self.noise_write),
            write.addr.eq(self.noise_entry),
            write.data.eq(self.noise + _HALF),
            read.en.eq(self.strobe),
            read.addr.eq(generator.value[-bits:]),
        ]
        return read.data


class Macro(wiring.Component):
    """All columns and ADCs; the members are those of `MacroSignature`, seen from the macro.

    Parameters
    ----------
    spec : PimSpec
    """

    cells: Any
    select: Signal
    group: Signal
    drive: Signal
    rows: Any
    sample: Signal
    sample_bank: Signal
    convert: Signal
    convert_bank: Signal
    position: Signal
    strobe: Signal
    codes: Any
    tables: Any

    def __init__(self, spec: PimSpec) -> None:
        self._spec = spec
        super().__init__(dict(MacroSignature(spec).flip().members.items()))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, tables = self._spec, self.tables
        # Tables of an ADC's columns lie one behind the other: their beginnings need no product.
        first_entry = Signal(index_bits(spec.mux * spec.entries))
        with m.If(self.strobe):
            last = self.position == spec.mux - 1
            m.d.sync += first_entry.eq(Mux(last, 0, first_entry + spec.entries))
        columns = [self._column(m, number) for number in range(spec.columns)]
        for number in range(spec.adcs):
            m.submodules[f"adc_{number}"] = adc = Adc(spec)
            own = columns[number * spec.mux : (number + 1) * spec.mux]
            m.d.comb += [
                *(adc.held[at].eq(column.held) for at, column in enumerate(own)),
                adc.bank.eq(self.convert_bank),
                adc.position.eq(self.position),
                adc.first_entry.eq(first_entry),
                adc.strobe.eq(self.strobe),
                adc.transfer_write.eq(tables.transfer_write),
                adc.transfer_entry.eq(tables.transfer_entry),
                adc.transfer.eq(tables.transfer[number]),
                self.codes[number].eq(adc.code),
            ]
            if spec.noise_bits:
                m.d.comb += [
                    adc.noise_write.eq(tables.noise_write),
                    adc.noise_entry.eq(tables.noise_entry),
                    adc.noise.eq(tables.noise),
                    adc.state_write.eq(tables.state_write & (tables.state_adc == number)),
                    adc.state.eq(tables.state),
                ]
        return m

    def _column(self, m: Module, number: int) -> Column:
        spec, cells = self._spec, self.cells
        m.submodules[f"column_{number}"] = column = Column(spec)
        sample = [self.sample]
        if spec.double_buffer:
            sample = [self.sample & ~self.sample_bank, self.sample & self.sample_bank]
        m.d.comb += [
            column.write.eq(cells.write & (cells.column == number)),
            column.bit.eq(cells.bit),
            column.group.eq(cells.group),
            column.word.eq(cells.word),
            column.data.eq(cells.data),
            column.select.eq(self.select),
            column.select_group.eq(self.group),
            column.rows.eq(self.rows),
            column.sample.eq(Cat(sample)),
        ]
        return column


def value_bits(spec: PimSpec) -> int:
    """Bits of a column's value, counted from v_min."""
    return index_bits(spec.entries)
