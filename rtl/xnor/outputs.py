# SPDX-License-Identifier: Apache-2.0
"""Output: thresholds and pool windows, or fixed-point lanes (sections 1 and 5)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cosil.engines.xnor import XnorSpec
from rtl.lib.fixed_point import FRACTION_BITS, PARAMETERS, FixedPointLane
from rtl.lib.pipeline import register
from rtl.lib.widths import index_bits
from rtl.xnor.layout import TAG, job_layout, results_layout, sums_layout


class Outputs(wiring.Component):
    """Makes results of sums, P a cycle.

    Parameters
    ----------
    spec : XnorSpec

    Members
    -------
    job : In(job_layout)
        The job that runs.
    loaded : In(1)
        1 wherever parameters are read, 0 wherever they are written.
    column_write, column_address, columns : In(1), In, In(array of P, PARAMETERS)
        Parameters of a fold are written.
    tag : In(TAG)
        The step whose mismatches are counted (u + 1 + D).
    sums : In(sums_layout)
        At u + 3 + D.
    tail : In(P)
        Lanes that the last fold of a vector fills.
    en : Out(1)
        The pipeline moves.
    column_read : Out(1)
        Parameters are read in this cycle.
    summed, final : Out(1)
        `sums` are those of a fold, of the last one of a vector; 0 where the pipeline stands.
    finished : Out(1)
        The job's last result is transferred in this cycle.
    o_y : Out(stream(results_layout))
        As the array's.
    """

    job: Any
    loaded: Signal
    column_write: Signal
    column_address: Signal
    columns: Any
    tag: Any
    sums: Any
    tail: Signal
    en: Signal
    column_read: Signal
    summed: Signal
    final: Signal
    finished: Signal
    o_y: stream.Interface

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        super().__init__(
            {
                "job": In(job_layout(spec)),
                "loaded": In(1),
                "column_write": In(1),
                "column_address": In(index_bits(spec.output_folds_max)),
                "columns": In(data.ArrayLayout(PARAMETERS, spec.pe)),
                "tag": In(TAG),
                "sums": In(sums_layout(spec)),
                "tail": In(spec.pe),
                "en": Out(1),
                "column_read": Out(1),
                "summed": Out(1),
                "final": Out(1),
                "finished": Out(1),
                "o_y": Out(stream.Signature(results_layout(spec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        en, tag, y = self.en, self.tag, self.o_y
        fold = Signal(index_bits(self._spec.output_folds_max))
        with m.If(en & tag.valid & tag.first):
            m.d.sync += fold.eq(Mux(tag.fresh, 0, fold + 1))
        accumulated: Any = register(m, en, tag, name="accumulated", reset=True)
        summed: Any = register(m, en, accumulated, name="summed_reg", reset=True)
        done = Signal()
        m.d.comb += [
            en.eq(~y.valid | y.ready),
            self.column_read.eq(en & accumulated.valid & accumulated.last & self.loaded),
            done.eq(summed.valid & summed.last),
            self.summed.eq(en & done),
            self.final.eq(summed.final),
            self.finished.eq(y.valid & y.ready & y.payload.last),
        ]
        columns = self._columns(m, fold)
        if self._spec.epilogue == "threshold":
            self._threshold(m, columns, fold, summed, done)
        else:
            self._rescale(m, columns, summed, done)
        return m

    def _columns(self, m: Module, fold: Signal) -> Any:
        """Store what the epilogue needs of the parameters; return those of the fold, at u+3+D."""
        spec = self._spec
        shape = _column_layout(spec)
        m.submodules.columns = words = Memory(
            shape=data.ArrayLayout(shape, spec.pe), depth=spec.output_folds_max, init=[]
        )
        write, read = words.write_port(), words.read_port()
        m.d.comb += [
            write.en.eq(self.column_write),
            write.addr.eq(self.column_address),
            read.en.eq(self.column_read),
            read.addr.eq(fold),
        ]
        for lane in range(spec.pe):
            stored, given = write.data[lane], self.columns[lane]
            if spec.epilogue == "threshold":
                m.d.comb += [
                    stored.threshold.eq(_saturated(given.bias, spec.sum_bits)),
                    stored.flip.eq(given.negate),
                ]
            else:
                m.d.comb += [stored[name].eq(given[name]) for name, _ in shape]
        return read.data

    def _threshold(
        self, m: Module, columns: Any, fold: Signal, summed: Any, done: Signal
    ) -> None:  # fmt: skip
        """Compare (u + 4 + D), and combine the vectors of a window (u + 5 + D)."""
        spec, en, y = self._spec, self.en, self.o_y
        m.submodules.windows = windows = Memory(shape=spec.pe, depth=spec.output_folds_max, init=[])
        write = windows.write_port()
        # A fold may be the next one again, so that what is written has to be seen at once.
        read = windows.read_port(transparent_for=(write,))
        compared: Any = register(m, en, summed, name="compared", reset=True)
        valid = register(m, en, done, name="compared_valid", reset=True)
        place = register(m, en, fold, name="place")
        ones = Signal(spec.pe)
        reached = Cat(self.sums[lane] >= columns[lane].threshold for lane in range(spec.pe))
        reached = register(m, en, reached, name="reached")
        # A cycle after the comparison, which follows a memory.
        flip = register(m, en, Cat(columns[lane].flip for lane in range(spec.pe)), name="flip")
        keep = self._kept(compared.final)
        m.d.comb += [
            read.en.eq(en),
            read.addr.eq(place),
            ones.eq((reached ^ flip) | (read.data & ~compared.opens.replicate(spec.pe))),
            write.en.eq(en & valid & ~compared.closes),
            write.addr.eq(register(m, en, place, name="place_compared")),
            write.data.eq(ones),
            y.payload.data.eq(register(m, en, ones & keep, name="data")),
            y.payload.keep.eq(register(m, en, keep, name="keep")),
            y.payload.last.eq(register(m, en, compared.end, name="last")),
            y.valid.eq(register(m, en, valid & compared.closes, name="valid", reset=True)),
        ]

    def _rescale(self, m: Module, columns: Any, summed: Any, done: Signal) -> None:
        """Rescale (u + 9 + D); lanes that hold no output have the multiplier 0."""
        spec, en, y = self._spec, self.en, self.o_y
        stages = FixedPointLane.STAGES
        keep = self._kept(summed.final)
        for number in range(spec.pe):
            m.submodules[f"lane_{number}"] = lane = FixedPointLane(
                spec.sum_bits + FRACTION_BITS, negates=True
            )
            column = columns[number]
            m.d.comb += [
                lane.en.eq(en),
                lane.acc.eq(Cat(Const(0, FRACTION_BITS), self.sums[number])),
                lane.column.bias.eq(column.bias),
                lane.column.mult.eq(column.mult & keep[number].replicate(16)),
                lane.column.shift.eq(column.shift),
                lane.negate.eq(column.negate),
                lane.relu.eq(self.job.relu),
                lane.wide.eq(self.job.wide),
                y.payload.data[number].eq(lane.y),
            ]
        final = register(m, en, summed.final, name="final_rescaled", stages=stages - 1)
        m.d.comb += [
            y.payload.keep.eq(register(m, en, self._kept(final), name="keep")),
            y.payload.last.eq(register(m, en, summed.end, name="last", stages=stages)),
            y.valid.eq(register(m, en, done, name="valid", stages=stages, reset=True)),
        ]

    def _kept(self, final: Value) -> Value:
        return Mux(final, self.tail, (1 << self._spec.pe) - 1)


def _column_layout(spec: XnorSpec) -> data.StructLayout:
    """Return what is stored of an output's parameters."""
    if spec.epilogue == "threshold":
        return data.StructLayout({"threshold": signed(spec.sum_bits), "flip": 1})
    return data.StructLayout({"bias": signed(32), "mult": 16, "shift": 6, "negate": 1})


def _saturated(value: Value, bits: int) -> Value:
    """Return a threshold in the width of the sums, whose largest value no sum reaches."""
    fits = Mux(value[-1], value[bits - 1 :].all(), ~value[bits - 1 :].any())
    bound = Cat((~value[-1]).replicate(bits - 1), value[-1])
    return Mux(fits, value[:bits], bound).as_signed()
