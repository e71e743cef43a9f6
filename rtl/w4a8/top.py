# SPDX-License-Identifier: Apache-2.0
"""The engine: streams in, streams out (docs/engines/w4a8.md)."""

from __future__ import annotations

from typing import Any, Literal

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import FLAG_RELU, FLAG_WIDE
from rtl.w4a8.array_os import ArrayOs
from rtl.w4a8.array_ws import ArrayWs
from rtl.w4a8.drain import Drain, OutputAddress
from rtl.w4a8.epilogue import Epilogue
from rtl.w4a8.fetch import ColumnFetcher, RowFetcher, RowScaleFetcher, ScaleFetcher
from rtl.w4a8.launcher_os import LauncherOs
from rtl.w4a8.launcher_ws import LauncherWs, LoaderWs
from rtl.w4a8.layout import (
    JOB,
    PARAMETER_BEATS,
    WS_A_BEATS,
    a_slots,
    events_layout,
    scale_slots,
    y_layout,
)
from rtl.w4a8.operand import BeatBuffer, ChunkBuffer
from rtl.w4a8.result import Results, ShadowWriter, SumDelay


class W4A8(wiring.Component):
    """Systolic int4 x int8 array: Y = X W^T with scales, from packed words to results.

    Parameters
    ----------
    spec : W4A8Spec

    Members
    -------
    i_job : In(stream(JOB))
        Descriptor; ready while no job runs. Its transfer is cycle 0.
    o_a, o_w, o_s, o_e, o_r : Out(stream(32))
        Read requests: word addresses (a, w), element addresses (s, e, r).
    i_a, i_w, i_s, i_e, i_r : In(stream)
        Responses in order, at least one cycle after the request; ready is constantly 1. `s` exists
        with group scales only, `r` with the fp16 epilogue only.
    o_y : Out(stream(y_layout))
        Results.
    o_events : Out(events_layout)
        Strobes for monitors (section 8).
    """

    i_job: stream.Interface
    i_a: stream.Interface
    i_w: stream.Interface
    i_s: stream.Interface
    i_e: stream.Interface
    i_r: stream.Interface
    o_a: stream.Interface
    o_w: stream.Interface
    o_s: stream.Interface
    o_e: stream.Interface
    o_r: stream.Interface
    o_y: stream.Interface
    o_events: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self.spec = spec
        beats = {
            "a": 8 * spec.a_beat_bytes,
            "w": 8 * spec.w_beat_bytes,
            "e": spec.e_bits * spec.array_cols,
        }
        if spec.scales == "group":
            beats["s"] = 16 * spec.array_cols
        if spec.epilogue == "fp16":
            beats["r"] = 32 * spec.array_rows
        super().__init__(
            {
                "i_job": In(stream.Signature(JOB)),
                "o_y": Out(stream.Signature(y_layout(spec))),
                "o_events": Out(events_layout(spec)),
                **{f"o_{name}": Out(stream.Signature(32)) for name in beats},
                **{f"i_{name}": In(stream.Signature(bits)) for name, bits in beats.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = _JobRegister()
        m.submodules.drain = drain = Drain(self.spec)
        m.submodules.results = results = Results(self.spec)
        buffers = {"a": self._rows(m, job, "a"), "w": self._rows(m, job, "w")}
        buffers["e"] = self._beats(m, job, "e", ColumnFetcher(self.spec))
        if self.spec.scales == "group":
            buffers["s"] = self._beats(m, job, "s", ScaleFetcher(self.spec))
        if self.spec.epilogue == "fp16":
            buffers["r"] = self._beats(m, job, "r", RowScaleFetcher(self.spec))
        if self.spec.dataflow == "os":
            self._array_os(m, job, buffers, results, drain)
        else:
            self._array_ws(m, job, buffers, results, drain)
        last = self._epilogue(m, job, buffers, results, drain)
        self._job(m, job, last)
        return m

    def _job(self, m: Module, job: _JobRegister, last: Value) -> None:
        """Take a descriptor while idle; be idle again in the cycle after the last result."""
        idle = Signal(init=1)
        m.d.comb += [
            self.i_job.ready.eq(idle),
            job.start.eq(idle & self.i_job.valid),
            job.new.eq(self.i_job.payload),
            # Groups longer than K are one group, and then fit the counters.
            job.new.group.eq(
                Mux(
                    self.i_job.payload.group > self.i_job.payload.k,
                    self.i_job.payload.k,
                    self.i_job.payload.group,
                )
            ),
        ]
        m.d.sync += job.started.eq(job.start)
        with m.If(job.start):
            m.d.sync += [job.held.eq(job.new), idle.eq(0)]
        with m.Elif(last):
            m.d.sync += idle.eq(1)

    def _rows(self, m: Module, job: _JobRegister, name: Literal["a", "w"]) -> Any:
        """Return the buffer of a or w behind its fetcher."""
        spec = self.spec
        fetcher = RowFetcher(spec, name)
        if name == "a" and spec.dataflow == "ws":
            buffer = BeatBuffer(8 * spec.a_beat_bytes, WS_A_BEATS, a_slots(spec))
        else:
            bits = 8 * (spec.a_beat_bytes if name == "a" else spec.w_beat_bytes)
            lines = spec.array_rows if name == "a" else spec.array_cols
            buffer = ChunkBuffer(bits, spec.prefetch_chunks, lines)
            m.d.comb += [
                buffer.open.eq(fetcher.open),
                buffer.open_lines.eq(fetcher.open_rows),
            ]
        self._join(m, job, name, fetcher, buffer)
        return buffer

    def _beats(
        self,
        m: Module,
        job: _JobRegister,
        name: str,
        fetcher: ColumnFetcher | ScaleFetcher | RowScaleFetcher,
    ) -> BeatBuffer:
        """Return the buffer of s, e or r behind its fetcher."""
        slots = scale_slots(self.spec) if name == "s" else PARAMETER_BEATS
        bits = len(getattr(self, f"i_{name}").payload)
        buffer = BeatBuffer(bits, PARAMETER_BEATS, slots)
        self._join(m, job, name, fetcher, buffer)
        return buffer

    def _join(self, m: Module, job: _JobRegister, name: str, fetcher: Any, buffer: Any) -> None:
        m.submodules[f"fetch_{name}"] = fetcher
        m.submodules[f"buffer_{name}"] = buffer
        source, request = getattr(self, f"i_{name}"), getattr(self, f"o_{name}")
        m.d.comb += [
            fetcher.start.eq(job.start),
            *_fields(fetcher.new, job.new, name),
            *_fields(fetcher.job, job.held, name),
            fetcher.release.eq(buffer.release),
            request.valid.eq(fetcher.o.valid),
            request.payload.eq(fetcher.o.payload),
            fetcher.o.ready.eq(request.ready),
            buffer.i.valid.eq(source.valid),
            buffer.i.payload.eq(source.payload),
            source.ready.eq(1),
        ]

    def _array_os(
        self, m: Module, job: _JobRegister, buffers: dict[str, Any], results: Results, drain: Drain
    ) -> None:
        spec = self.spec
        m.submodules.launcher = launcher = LauncherOs(spec)
        m.submodules.array = array = ArrayOs(spec)
        m.submodules.writer = writer = ShadowWriter(spec)
        a, w, s = buffers["a"], buffers["w"], buffers.get("s")
        row_wave: Any = launcher.row_wave
        for stage in range(spec.requant_stages):  # activations wait for the requantiser
            delayed = Signal(row_wave.shape(), name=f"row_wave_{stage}")
            m.d.sync += delayed.eq(row_wave)
            row_wave = delayed
        m.d.comb += [
            launcher.start.eq(job.started),
            *_fields(launcher.job, job.held),
            launcher.a_usable.eq(a.usable),
            launcher.w_usable.eq(w.usable),
            launcher.give.eq(drain.give),
            a.release.eq(launcher.release),
            w.release.eq(launcher.release),
            array.a_write.eq(a.write),
            array.w_write.eq(w.write),
            array.row_wave.eq(row_wave),
            array.column_wave.eq(launcher.column_wave),
            writer.captured.eq(array.captured),
            results.control.eq(writer.control),
            results.sums.eq(array.bottom),
        ]
        if s is not None:
            m.d.comb += [
                launcher.s_usable.eq(s.usable),
                s.release.eq(launcher.scale_pop),
                array.s_write.eq(s.write),
            ]
        self._wave_events(m, launcher)
        m.d.comb += self.o_events.scale_pop.eq(launcher.scale_pop)

    def _array_ws(
        self, m: Module, job: _JobRegister, buffers: dict[str, Any], results: Results, drain: Drain
    ) -> None:
        spec = self.spec
        m.submodules.loader = loader = LoaderWs(spec)
        m.submodules.launcher = launcher = LauncherWs(spec)
        m.submodules.array = array = ArrayWs(spec)
        m.submodules.delay = delay = SumDelay(spec)
        a, w, s = buffers["a"], buffers["w"], buffers.get("s")
        m.d.comb += [
            loader.start.eq(job.started),
            launcher.start.eq(job.started),
            *_fields(loader.job, job.held),
            *_fields(launcher.job, job.held),
            loader.w_usable.eq(w.usable),
            launcher.a_usable.eq(a.usable),
            launcher.loaded.eq(loader.loaded),
            launcher.give.eq(drain.give),
            a.release.eq(launcher.wave),
            w.release.eq(loader.release),
            array.a_write.eq(a.write),
            array.w_write.eq(w.write),
            array.row_wave.eq(launcher.row_wave),
            array.column_wave.eq(loader.column_wave),
            array.load.eq(loader.rows),
            delay.launch.eq(launcher.result),
            results.control.eq(delay.control),
            results.sums.eq(array.psums),
        ]
        if spec.double_buffer:
            m.d.comb += loader.first_wave.eq(launcher.pass_first)
        else:
            m.d.comb += loader.last_wave.eq(launcher.last_wave)
        if s is not None:
            m.d.comb += [
                loader.s_usable.eq(s.usable),
                s.release.eq(loader.scale_pop),
                array.s_write.eq(s.write),
            ]
        self._wave_events(m, launcher)
        m.d.comb += [
            self.o_events.load.eq(loader.load),
            self.o_events.load_cols.eq(loader.load_cols),
            self.o_events.load_step.eq(loader.load_step),
            self.o_events.scale_pop.eq(loader.scale_pop),
        ]

    def _wave_events(self, m: Module, launcher: LauncherOs | LauncherWs) -> None:
        m.d.comb += [
            self.o_events.wave.eq(launcher.wave),
            self.o_events.wave_rows.eq(launcher.wave_rows),
            self.o_events.wave_cols.eq(launcher.wave_cols),
            self.o_events.wave_first.eq(launcher.wave_first),
        ]

    def _epilogue(
        self, m: Module, job: _JobRegister, buffers: dict[str, Any], results: Results, drain: Drain
    ) -> Value:
        """Connect drain, epilogue and output; return the transfer of the job's last result."""
        m.submodules.epilogue = epilogue = Epilogue(self.spec)
        m.submodules.output = output = OutputAddress(self.spec)
        e, y = buffers["e"], self.o_y
        en = Signal()
        m.d.comb += [
            en.eq(~y.valid | y.ready),
            drain.start.eq(job.started),
            drain.m.eq(job.held.m),
            drain.n.eq(job.held.n),
            drain.written.eq(results.written),
            drain.e_usable.eq(e.usable),
            drain.en.eq(en),
            e.release.eq(drain.e_release),
            results.read_en.eq(en),
            results.read_addr.eq(drain.addr),
            epilogue.en.eq(en),
            epilogue.ready.eq(y.ready),
            epilogue.e_write.eq(e.write),
            epilogue.issue.eq(drain.issue),
            epilogue.group.eq(drain.group),
            epilogue.e_slot.eq(drain.e_slot),
            epilogue.acc.eq(results.read),
            output.start.eq(job.started),
            *_fields(output.job, job.held),
            output.next.eq(y.valid & y.ready),
            y.valid.eq(epilogue.valid),
            y.payload.addr.eq(output.addr),
            y.payload.data.eq(epilogue.y),
            y.payload.keep.eq(output.keep),
            self.o_events.drain.eq(drain.issue),
            self.o_events.drain_lanes.eq(drain.lanes),
            self.o_events.drain_last_lane.eq(drain.row_ends),
        ]
        if self.spec.epilogue == "fp16":
            r = buffers["r"]
            m.d.comb += [
                drain.r_usable.eq(r.usable),
                r.release.eq(drain.r_release),
                epilogue.r_write.eq(r.write),
                epilogue.r_slot.eq(drain.r_slot),
                epilogue.r_row.eq(drain.r_row),
            ]
        else:
            m.d.comb += [
                epilogue.relu.eq((job.held.flags & FLAG_RELU) != 0),
                epilogue.wide.eq((job.held.flags & FLAG_WIDE) != 0),
            ]
        return output.next & output.last


class _JobRegister:
    """The job as it arrives (`start`, `new`) and as it stays (`started` a cycle later, `held`)."""

    def __init__(self) -> None:
        self.start, self.started = Signal(), Signal()
        self.new: Any = Signal(JOB)
        self.held: Any = Signal(JOB)


def _fields(port: Any, job: Any, stream_name: str = "") -> list[Any]:
    """Return the assignments of a part's job fields; base and stride are those of its stream."""
    return [
        field.eq(job[f"{stream_name}_{name}" if name in {"base", "stride"} else name])
        for name, field in ((name, port[name]) for name, _ in port.shape())
    ]
