# SPDX-License-Identifier: Apache-2.0
"""AXI4-Stream names for the streams of a component."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


class AxisTop(wiring.Component):
    """Wrap a component whose streams are named ``i_NAME`` and ``o_NAME``.

    An input stream becomes ``s_axis_NAME``, an output stream ``m_axis_NAME``, with tdata, tvalid
    and tready. Amaranth's stream rules are those of AXI4-Stream (valid does not wait for ready, the
    payload holds until the transfer), so this renames and adds no logic. tdata is padded with zeros
    to whole bytes. Outputs that are no streams are for monitors and are left out.

    A payload with fields ``addr``, ``data`` and ``keep`` becomes tuser, tdata and tkeep, a keep bit
    for each byte of its data. The top bit of a payload becomes tlast where it is a field ``last``.

    Parameters
    ----------
    core : wiring.Component
        What is wrapped; all of it runs in the domain ``sync``.

    Members
    -------
    aclk, aresetn : In(1)
        Clock, and synchronous reset, active low.
    """

    aclk: Signal
    aresetn: Signal

    def __init__(self, core: Any) -> None:
        self.core = core
        members: dict[str, wiring.Member] = {"aclk": In(1), "aresetn": In(1)}
        self.streams: dict[str, str] = {}
        """Stream of the core -> its prefix here."""
        for name, member in core.signature.members.items():
            if not (member.is_signature and isinstance(member.signature, stream.Signature)):
                continue
            if not name.startswith(("i_", "o_")):
                raise ValueError(f"AxisTop: stream {name!r} must be named i_NAME or o_NAME")
            inward = member.flow == In
            prefix = f"{'s' if inward else 'm'}_axis_{name[2:]}"
            self.streams[name] = prefix
            to_core, to_world = (In, Out) if inward else (Out, In)
            members[f"{prefix}_tvalid"] = to_core(1)
            members[f"{prefix}_tready"] = to_world(1)
            for field, width in axis_widths(getattr(self.core, name).payload.shape()).items():
                members[f"{prefix}_{field}"] = to_core(width)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.core = self.core
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn)]
        for name, prefix in self.streams.items():
            port = getattr(self.core, name)
            fields = {
                field: getattr(self, f"{prefix}_{field}")
                for field in axis_widths(port.payload.shape())
            }
            valid, ready = getattr(self, f"{prefix}_tvalid"), getattr(self, f"{prefix}_tready")
            bits = Value.cast(port.payload)
            low, last = bits, fields.get("tlast")
            if last is not None:
                low = bits[:-1]
            if prefix.startswith("s_"):
                m.d.comb += [
                    low.eq(fields["tdata"]),
                    port.valid.eq(valid),
                    ready.eq(port.ready),
                ]
                if last is not None:
                    m.d.comb += bits[-1].eq(last)
                continue
            m.d.comb += [valid.eq(port.valid), port.ready.eq(ready)]
            if last is not None:
                m.d.comb += last.eq(bits[-1])
            if "tuser" not in fields:
                m.d.comb += fields["tdata"].eq(low)
                continue
            m.d.comb += [
                fields["tdata"].eq(port.payload.data),
                fields["tuser"].eq(port.payload.addr),
            ]
            lanes = len(port.payload.keep)
            each = len(fields["tkeep"]) // lanes
            m.d.comb += [
                fields["tkeep"][lane * each : (lane + 1) * each].eq(
                    port.payload.keep[lane].replicate(each)
                )
                for lane in range(lanes)
            ]
        return m


def axis_widths(shape: Any) -> dict[str, int]:
    """Return the AXI4-Stream signals of a payload beside tvalid and tready: name -> bits."""
    if isinstance(shape, data.StructLayout) and set(shape.members) == {"addr", "data", "keep"}:
        width = Shape.cast(shape.members["data"]).width
        return {
            "tdata": width,
            "tkeep": width // 8,
            "tuser": Shape.cast(shape.members["addr"]).width,
        }
    width = Shape.cast(shape).width
    if isinstance(shape, data.StructLayout) and list(shape.members)[-1] == "last":
        return {"tdata": -(-(width - 1) // 8) * 8, "tlast": 1}
    return {"tdata": -(-width // 8) * 8}
