# SPDX-License-Identifier: Apache-2.0
"""The parts that make the W4A8 array's streams, surrounded so that the stream rules can be proved.

The array as a whole is far beyond induction. Each stream, though, comes out of one part, which
keeps the rules by itself as long as its neighbours do two things: a job starts only while no beat
is offered (the array takes a job only when idle), and no credit is given back that was not taken.
Every other input is free in every cycle.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.drain import OutputAddress
from rtl.w4a8.epilogue import Epilogue
from rtl.w4a8.fetch import ColumnFetcher, RowFetcher, RowScaleFetcher, ScaleFetcher
from rtl.w4a8.layout import PARAMETER_BEATS, WS_A_BEATS, y_layout
from verif.lib.formal import Proof, prove_stream_rules


class GuardedFetcher(wiring.Component):
    """A fetcher with free neighbours that keep to the two rules above.

    Parameters
    ----------
    fetcher : RowFetcher, ColumnFetcher, RowScaleFetcher or ScaleFetcher
    depth : int
        Units of credit.
    """

    start: Signal
    release: Signal
    o: stream.Interface

    def __init__(self, fetcher: Any, depth: int) -> None:
        self._fetcher = fetcher
        self._depth = depth
        self._free = [
            name
            for name, member in fetcher.signature.members.items()
            if member.is_port and member.flow == In
        ]
        members = fetcher.signature.members
        super().__init__(
            {name: In(members[name].shape) for name in self._free}
            | {"o": Out(stream.Signature(32))}
        )

    def elaborate(self, platform: object) -> Module:
        """Count the credit that is out, and give back none beyond it."""
        m = Module()
        m.submodules.fetcher = fetcher = self._fetcher
        wiring.connect(m, wiring.flipped(self.o), fetcher.o)
        for name in self._free:
            m.d.comb += Value.cast(getattr(fetcher, name)).eq(Value.cast(getattr(self, name)))
        credit = Signal(range(self._depth + 1))
        bounded = Signal()
        taken = fetcher.open if hasattr(fetcher, "open") else fetcher.o.valid & fetcher.o.ready
        m.d.comb += [
            fetcher.start.eq(self.start & ~fetcher.o.valid),
            fetcher.release.eq(self.release & (credit != 0)),
            bounded.eq(credit <= self._depth),
        ]
        m.d.sync += credit.eq(credit + taken - fetcher.release)
        return m


class GuardedOutput(wiring.Component):
    """Epilogue and output addresses, connected as in the array; its other parts are free.

    Parameters
    ----------
    spec : W4A8Spec
    """

    start: Signal
    o_y: Any

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        self._epilogue, self._output = Epilogue(spec), OutputAddress(spec)
        self._free = {
            name: part
            for part, driven in ((self._epilogue, ("en", "ready")), (self._output, ("next",)))
            for name, member in part.signature.members.items()
            if member.flow == In and name not in driven
        }
        super().__init__(
            {name: In(part.signature.members[name].shape) for name, part in self._free.items()}
            | {"o_y": Out(stream.Signature(y_layout(spec)))}
        )

    def elaborate(self, platform: object) -> Module:
        """Advance unless a result waits; no job starts while one does."""
        m = Module()
        m.submodules.epilogue, m.submodules.output = epilogue, output = self._epilogue, self._output
        for name, part in self._free.items():
            m.d.comb += Value.cast(getattr(part, name)).eq(Value.cast(getattr(self, name)))
        y = self.o_y
        m.d.comb += [
            epilogue.en.eq(~y.valid | y.ready),
            epilogue.ready.eq(y.ready),
            output.start.eq(self.start & ~y.valid),
            output.next.eq(y.valid & y.ready),
            y.valid.eq(epilogue.valid),
            y.payload.addr.eq(output.addr),
            y.payload.data.eq(epilogue.y),
            y.payload.keep.eq(output.keep),
        ]
        return m


def prove_fetcher(spec: W4A8Spec, stream_name: str) -> Proof:
    """Prove the stream rules of one of the request streams a, w, s, e, r."""
    depth = PARAMETER_BEATS
    if stream_name in ("a", "w"):
        whole = not (stream_name == "a" and spec.dataflow == "ws")
        depth = spec.prefetch_chunks if whole else WS_A_BEATS
        fetcher: Any = RowFetcher(spec, "a" if stream_name == "a" else "w")
    else:
        fetcher = {"s": ScaleFetcher, "e": ColumnFetcher, "r": RowScaleFetcher}[stream_name](spec)
    return prove_stream_rules(
        GuardedFetcher(fetcher, depth),
        invariants=[("credit", "device.fetcher.reserved"), ("bounded", "1'1")],
    )


def prove_output(spec: W4A8Spec) -> Proof:
    """Prove the stream rules of y, and that a lane's own valid bit is the stream's."""
    lanes = range(spec.epilogue_lanes) if spec.epilogue == "fp16" else ()
    return prove_stream_rules(
        GuardedOutput(spec),
        invariants=[(f"epilogue.valid_{lane}", "device.epilogue.valid") for lane in lanes],
    )
