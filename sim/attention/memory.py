# SPDX-License-Identifier: Apache-2.0
"""The two memory ports and the memory behind them, one cycle at a time (sections 3 and 5.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.attention.plan import Plan
from sim.lib.kernel import inner
from sim.lib.stalls import Stalls, is_stalled

PORT = np.dtype(
    [
        ("sent", np.int64),  # requests transferred
        ("arrived", np.int64),  # responses transferred
        ("usable", np.int64),  # responses that have passed the operand register
    ]
)


class Port(NamedTuple):
    """Requests of a port, in order; a ring of F.

    Attributes
    ----------
    port : record array of PORT, one entry
    due : int64[F]
        Earliest cycle of a request's response.
    address : int64[F, G]
        Its rows; -1 where none is asked for.
    codes : int16[F, G, D]
        What came back.
    """

    port: Any
    due: NDArray[np.int64]
    address: NDArray[np.int64]
    codes: NDArray[np.int16]


def make_port(plan: Plan) -> Port:
    """Return a port without requests."""
    depth, lanes = plan.fetch_beats, plan.lanes
    return Port(
        np.zeros(1, dtype=PORT).view(np.recarray),
        np.zeros(depth, dtype=np.int64),
        np.zeros((depth, lanes), dtype=np.int64),
        np.zeros((depth, lanes, plan.head_dim), dtype=np.int16),
    )


@inner
def request(plan: Plan, port: Port, queue: NDArray[np.int64], size: int, t: int) -> int:
    """Transfer a request for `size` bytes in cycle t; return its slot, whose addresses to set.

    `queue` holds where the last byte of the requests of both ports ends, in bytes since cycle 0.
    """
    p = port.port[0]
    slot = p.sent & (plan.fetch_beats - 1)
    p.sent += 1
    port.due[slot] = t + plan.memory_latency
    if plan.bytes_per_cycle:
        queue[0] = max(queue[0], (t + 1) * plan.bytes_per_cycle) + size
        port.due[slot] = (queue[0] - 1) // plan.bytes_per_cycle + plan.memory_latency - 1
    return slot


@inner
def port_cycle(plan: Plan, port: Port, stalls: Stalls, stream: int, sent: int, t: int) -> int:
    """Clock the port at the end of cycle t; return the slot whose response comes in, or -1.

    `sent` is how many requests were transferred in earlier cycles.
    """
    p = port.port[0]
    p.usable = p.arrived
    slot = p.arrived & (plan.fetch_beats - 1)
    if p.arrived == sent or port.due[slot] > t or is_stalled(stalls, stream, t):
        return -1
    p.arrived += 1
    return slot


@inner
def read_codes(
    plan: Plan, port: Port, slot: int, memory: NDArray[Any], bits: int, signed: bool
) -> None:
    """Fill a slot from int8[rows, D] or uint8[rows, D]; of each code the low `bits` bits count."""
    top = 1 << (bits - 1)
    for lane in range(plan.lanes):
        address = port.address[slot, lane]
        inside = 0 <= address < memory.shape[0]
        for d in range(plan.head_dim):
            code = np.int64(memory[address, d]) & (2 * top - 1) if inside else 0
            port.codes[slot, lane, d] = (code ^ top) - top if signed else code
