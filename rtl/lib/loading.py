# SPDX-License-Identifier: Apache-2.0
"""Taking jobs one at a time, and the beats of the streams that a job loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Signal, Value


class Beats:
    """Beats of a stream: a transfer, whether it is the last one, and whether more remain.

    Whoever takes the beats drives `end`.
    """

    def __init__(self, name: str) -> None:
        self.step = Signal(name=f"step_{name}")
        self.end = Signal(name=f"end_{name}")
        self.remain = Signal(name=f"remain_{name}")


def accept(m: Module, port: Any, *, start: Value, wanted: Value | int, name: str) -> Beats:
    """Be ready for the beats of a stream that a job needs, from the cycle after its start.

    Parameters
    ----------
    m : Module
        Module that receives the logic.
    port : stream.Interface
        The stream, seen from within.
    start : Value
        A job is taken in this cycle.
    wanted : Value or int
        With `start`: the job needs beats of this stream.
    name : str
        End of the signals' names.
    """
    waits, beats = Signal(name=f"waits_{name}"), Beats(name)
    m.d.comb += [
        port.ready.eq(waits),
        beats.step.eq(port.valid & waits),
        beats.remain.eq(waits & ~beats.end),
    ]
    with m.If(start):
        m.d.sync += waits.eq(wanted)
    with m.Elif(beats.end):
        m.d.sync += waits.eq(0)
    return beats


def take_job(
    m: Module,
    port: Any,
    *,
    start: Value,
    job: Any,
    running: Value,
    finished: Value,
    flags: Mapping[str, int],
) -> None:
    """Take a job while none runs, and hold it until the next one.

    Parameters
    ----------
    m : Module
        Module that receives the logic.
    port : stream.Interface
        Jobs as they come, with a field `flags`.
    start : Value
        Output: a job is taken in this cycle.
    job : View
        Output: the job that is taken or runs.
    running : Value
        Output, a register: a job was taken and is not `finished`.
    finished : Value
        The job ends in this cycle.
    flags : mapping of str to int
        Fields of `job` that are bits of `flags`; all others have the name of theirs in `port`.
    """
    held: Any = Signal(job.shape(), name="held")
    m.d.comb += [
        port.ready.eq(~running),
        start.eq(port.valid & port.ready),
        job.eq(held),
    ]
    with m.If(~running):
        for name, _ in job.shape():
            taken = port.payload.flags & flags[name] if name in flags else port.payload[name]
            m.d.comb += job[name].eq(taken.any() if name in flags else taken)
    with m.If(start):
        m.d.sync += [held.eq(job), running.eq(1)]
    with m.Elif(finished):
        m.d.sync += running.eq(0)
