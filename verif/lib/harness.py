# SPDX-License-Identifier: Apache-2.0
"""Hardware around a device under test: a mutator on every stream, and few, wide ports.

Every access from Python costs microseconds. So the harness samples what the device shows in a
cycle into one register, which the bench reads once, in the middle of the next cycle; what the bench
drives there takes effect at the clock edge that follows. Nothing is read or driven near an edge, so
the order in which a simulator runs its processes does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from verif.lib.mutants import BEAT_BITS
from verif.lib.mutator import Mutator


class StreamPort(NamedTuple):
    """One stream of a device.

    Attributes
    ----------
    name : str
        Member of the component.
    sink : bool
        The device accepts the stream.
    width : int
        Bits of the payload.
    """

    name: str
    sink: bool
    width: int


def stream_ports(component: wiring.Component) -> list[StreamPort]:
    """Return the streams of a component in the order of its signature."""
    ports: list[StreamPort] = []
    for name, member in component.signature.members.items():
        if member.is_signature and isinstance(member.signature, stream.Signature):
            width = Shape.cast(member.signature.members["payload"].shape).width
            ports.append(StreamPort(name, member.flow == In, width))
    return ports


def status_layout(component: wiring.Component, observed: str | None = None) -> data.StructLayout:
    """Return what the harness samples of a cycle.

    `<stream>_ready` of every stream that the device accepts, `<stream>_valid` of every one that it
    offers, then the payloads of the offered ones, then the observed member.
    """
    ports = stream_ports(component)
    fields: dict[str, Any] = {f"{port.name}_ready": 1 for port in ports if port.sink}
    fields |= {f"{port.name}_valid": 1 for port in ports if not port.sink}
    fields |= {f"{port.name}_payload": port.width for port in ports if not port.sink}
    if observed is not None:
        fields["observed"] = component.signature.members[observed].shape
    return data.StructLayout(fields)


class Harness(wiring.Component):
    """A device between its bench and mutators.

    Parameters
    ----------
    device : Component
        All members are streams, but for the observed one.
    observed : str, optional
        An output that is sampled every cycle beside the streams.
    flipped_bits : mapping of str to int
        The bit that the mutant inverts, by stream; 0 where none is given.

    Members
    -------
    valid : In(streams that the device accepts)
        One bit each, in the order of the signature.
    ready : In(streams that the device offers)
        Likewise.
    <stream> : In(width)
        Payload of each stream that the device accepts.
    status : Out(status_layout)
        What the previous cycle showed.
    mutant_kind, mutant_stream, mutant_beat : In(3), In(8), In(16)
        The `Mutant`, the number of its stream in the order of the signature, and the number of the
        stream's beat after reset that it breaks.
    """

    valid: Signal
    ready: Signal
    status: Signal
    mutant_kind: Signal
    mutant_stream: Signal
    mutant_beat: Signal

    def __init__(
        self,
        device: Any,
        *,
        observed: str | None = None,
        flipped_bits: Mapping[str, int] | None = None,
    ) -> None:
        self._device = device
        self._observed = observed
        self._flipped_bits = dict(flipped_bits or {})
        self._ports = stream_ports(device)
        self.layout = status_layout(device, observed)
        sinks = [port for port in self._ports if port.sink]
        super().__init__(
            {
                "valid": In(len(sinks)),
                "ready": In(len(self._ports) - len(sinks)),
                **{port.name: In(port.width) for port in sinks},
                "status": Out(self.layout.size),
                "mutant_kind": In(3),
                "mutant_stream": In(8),
                "mutant_beat": In(BEAT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect every stream through its mutator and sample what it shows."""
        m = Module()
        m.submodules.device = device = self._device
        now = Signal(self.layout)
        sinks = sources = 0
        for number, port in enumerate(self._ports):
            bit = self._flipped_bits.get(port.name, 0)
            m.submodules[f"mutator_{port.name}"] = mutator = Mutator(port.width, bit)
            m.d.comb += mutator.beat.eq(self.mutant_beat)
            with m.If(self.mutant_stream == number):
                m.d.comb += mutator.kind.eq(self.mutant_kind)
            inner = getattr(device, port.name)
            if port.sink:
                m.d.comb += [
                    mutator.i.payload.eq(getattr(self, port.name)),
                    mutator.i.valid.eq(self.valid[sinks]),
                    now[f"{port.name}_ready"].eq(mutator.i.ready),
                    Value.cast(inner.payload).eq(mutator.o.payload),
                    inner.valid.eq(mutator.o.valid),
                    mutator.o.ready.eq(inner.ready),
                ]
                sinks += 1
            else:
                m.d.comb += [
                    mutator.i.payload.eq(Value.cast(inner.payload)),
                    mutator.i.valid.eq(inner.valid),
                    inner.ready.eq(mutator.i.ready),
                    now[f"{port.name}_payload"].eq(mutator.o.payload),
                    now[f"{port.name}_valid"].eq(mutator.o.valid),
                    mutator.o.ready.eq(self.ready[sources]),
                ]
                sources += 1
        if self._observed is not None:
            m.d.comb += Value.cast(now["observed"]).eq(Value.cast(getattr(device, self._observed)))
        m.d.sync += self.status.eq(now)
        return m

    def describe(self) -> dict[str, Any]:
        """Return the fields of `verif.lib.bench.HarnessMap`."""
        observed: dict[str, list[int]] = {}
        if self._observed is not None:
            shape = self.layout.members["observed"]
            if isinstance(shape, data.Layout):
                observed = _leaves(shape)
        return {
            "streams": [port.name for port in self._ports],
            "sinks": [port.name for port in self._ports if port.sink],
            "sources": [port.name for port in self._ports if not port.sink],
            "fields": _extents(self.layout),
            "observed": observed,
        }


def _extents(layout: data.Layout) -> dict[str, list[int]]:
    return {str(name): [field.offset, field.width] for name, field in layout}


def _leaves(layout: data.Layout) -> dict[str, list[int]]:
    """Return extents where a struct's fields stand for it, as ``struct.field``."""
    extents: dict[str, list[int]] = {}
    for name, field in layout:
        if isinstance(field.shape, data.StructLayout):
            for inner, (offset, width) in _leaves(field.shape).items():
                extents[f"{name}.{inner}"] = [field.offset + offset, width]
        else:
            extents[str(name)] = [field.offset, field.width]
    return extents
