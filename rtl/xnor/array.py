# SPDX-License-Identifier: Apache-2.0
"""The array: weights, processing elements and base values (sections 1 and 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.xnor.element import Element
from rtl.xnor.layout import TAG, base_bits, border_bits, sums_layout, weights_layout


class ProcessingArray(wiring.Component):
    """P processing elements, and the memories that feed them.

    Weights are written while no step is issued, at the address that steps read: the memory needs
    one port.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    en : In(1)
        All but writes advances.
    loaded : In(1)
        1 wherever something is read, 0 wherever something is written.
    tile, write, weights : In, In(1), In(weights_layout)
        The tile that is written or read.
    base_write, base_address, base : In(1), In, In(array of P, base_bits)
        Base values of a class and fold are written.
    tag : In(TAG)
        The step that is issued (u).
    bits, border : In
        What it takes (u + 1).
    counted : Out(TAG)
        The step whose mismatches are counted (u + 1 + D).
    base_read : Out(1)
        Base values are read in this cycle.
    sums : Out(sums_layout)
        At u + 3 + D of a fold's last step.
    """

    en: Signal
    loaded: Signal
    tile: Signal
    write: Signal
    weights: Any
    base_write: Signal
    base_address: Signal
    base: Any
    tag: Any
    bits: Signal
    border: Signal
    counted: Any
    base_read: Signal
    sums: Any

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "en": In(1),
                "loaded": In(1),
                "tile": In(index_bits(spec.weight_depth)),
                "write": In(1),
                "weights": In(weights_layout(spec)),
                "base_write": In(1),
                "base_address": In(index_bits(spec.base_depth)),
                "base": In(data.ArrayLayout(base_bits(spec), spec.pe)),
                "tag": In(TAG),
                "bits": In(spec.simd),
                "border": In(max(1, border_bits(spec))),
                "counted": Out(TAG),
                "base_read": Out(1),
                "sums": Out(sums_layout(spec)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self._spec
        m.submodules.weights = weights = Memory(
            shape=weights_layout(spec), depth=spec.weight_depth, init=[]
        )
        writes, reads = weights.write_port(), weights.read_port()
        m.d.comb += [
            writes.en.eq(self.write),
            writes.addr.eq(self.tile),
            writes.data.eq(self.weights),
            reads.en.eq(self.tag.valid),
            reads.addr.eq(self.tile),
        ]
        early: Any = register(m, self.en, self.tag, name="tag", stages=spec.tree_stages, reset=True)
        counted: Any = register(m, self.en, early, name="counted_reg", reset=True)
        add = Signal()
        m.d.comb += [
            self.counted.eq(counted),
            add.eq(self.en & counted.valid),
            self.base_read.eq(add & counted.last & self.loaded),
        ]
        base = self._base(m, early)
        for lane in range(spec.pe):
            m.submodules[f"element_{lane}"] = element = Element(spec)
            m.d.comb += [
                element.en.eq(self.en),
                element.bits.eq(self.bits),
                *(
                    getattr(element, plane).eq(reads.data[plane][lane])
                    for plane, _ in weights_layout(spec)
                ),
                element.add.eq(add),
                element.clear.eq(counted.first),
                element.base.eq(base[lane]),
                self.sums[lane].eq(element.sum),
            ]
        return m

    def _base(self, m: Module, early: Any) -> Any:
        """Return the base values, at u + 2 + D, of a fold whose first step is `early` at u + D."""
        spec = self._spec
        m.submodules.base = words = Memory(shape=self.base.shape(), depth=spec.base_depth, init=[])
        writes, reads = words.write_port(), words.read_port()
        address, begin = Signal(index_bits(spec.base_depth)), self._class_begins(m)
        with m.If(self.en & early.valid & early.first):
            m.d.sync += address.eq(address + 1)
            with m.If(early.fresh):
                m.d.sync += address.eq(begin)
        m.d.comb += [
            writes.en.eq(self.base_write),
            writes.addr.eq(self.base_address),
            writes.data.eq(self.base),
            reads.en.eq(self.base_read),
            reads.addr.eq(address),
        ]
        return reads.data

    def _class_begins(self, m: Module) -> Value | int:
        """Return the address of a class, a table instead of a product."""
        spec = self._spec
        if spec.border_classes == 1:
            return 0
        border = register(m, self.en, self.border, name="border", stages=spec.tree_stages - 1)
        bits = index_bits(spec.base_depth)
        rows = range(0, spec.base_depth, spec.output_folds_max)
        return Array(Const(row, bits) for row in rows)[border]
