# SPDX-License-Identifier: Apache-2.0
"""Smoke test of a generated engine: one matrix product, results and cycles as expected.

It needs cocotb and a simulator, and nothing of cosil: `vectors.json` beside it holds the job, the
memories behind the streams, the results and the number of cycles. Run it with `make`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))


class Memory:
    """A memory behind one request stream and one response stream, in order, fixed latency.

    A request names the element from which a beat is read; what lies past the end reads as 0.
    """

    def __init__(self, dut: Any, name: str, content: dict[str, Any], latency: int) -> None:
        self.request_valid = getattr(dut, f"m_axis_{name}_tvalid")
        self.request_addr = getattr(dut, f"m_axis_{name}_tdata")
        self.response_valid = getattr(dut, f"s_axis_{name}_tvalid")
        self.response_data = getattr(dut, f"s_axis_{name}_tdata")
        getattr(dut, f"m_axis_{name}_tready").value = 1
        self.response_valid.value = 0
        bits = content["element_bits"]
        self.image = sum(value << (bits * i) for i, value in enumerate(content["elements"]))
        self.element_bits = bits
        self.mask = (1 << content["beat_bits"]) - 1
        self.latency = latency
        self.waiting: list[tuple[int, int]] = []

    def drive(self, cycle: int) -> None:
        """Present the response that is due in this cycle."""
        due = bool(self.waiting) and self.waiting[0][0] <= cycle
        self.response_valid.value = int(due)
        if due:
            self.response_data.value = self.waiting.pop(0)[1]

    def sample(self, cycle: int) -> None:
        """Accept the request that is presented in this cycle."""
        if self.request_valid.value:
            element = int(self.request_addr.value)
            beat = (self.image >> (element * self.element_bits)) & self.mask
            self.waiting.append((cycle + self.latency, beat))


def results(dut: Any) -> dict[int, int]:
    """Return what this cycle's beat of results writes: element address -> 16-bit value."""
    keep, data = int(dut.m_axis_y_tkeep.value), int(dut.m_axis_y_tdata.value)
    first = int(dut.m_axis_y_tuser.value)
    lanes = len(dut.m_axis_y_tkeep) // 2
    return {
        first + lane: (data >> (16 * lane)) & 0xFFFF
        for lane in range(lanes)
        if (keep >> (2 * lane)) & 3
    }


@cocotb.test()  # pyright: ignore[reportUntypedFunctionDecorator]
async def one_product(dut: Any) -> None:
    """Every result bit and the number of cycles are as the simulator of cosil says."""
    memories = [
        Memory(dut, name, content, VECTORS["memory_latency"])
        for name, content in VECTORS["memories"].items()
    ]
    dut.aresetn.value = 0
    dut.s_axis_job_tvalid.value = 0
    dut.m_axis_y_tready.value = 1
    cocotb.start_soon(Clock(dut.aclk, 10, "ns").start())
    for _ in range(4):
        await RisingEdge(dut.aclk)
    dut.aresetn.value = 1
    dut.s_axis_job_tdata.value = sum(word << (32 * i) for i, word in enumerate(VECTORS["job"]))
    dut.s_axis_job_tvalid.value = 1
    expected = dict(VECTORS["results"])
    found: dict[int, int] = {}
    cycle = 0
    while len(found) < len(expected):
        assert cycle <= 2 * VECTORS["cycles"], f"no result after {cycle} cycles: {found}"
        for memory in memories:
            memory.drive(cycle)
        await FallingEdge(dut.aclk)
        if cycle == 0:
            assert dut.s_axis_job_tready.value, "the engine must be idle after reset"
        for memory in memories:
            memory.sample(cycle)
        if dut.m_axis_y_tvalid.value:
            found |= results(dut)
        cycle += 1
        await RisingEdge(dut.aclk)
        dut.s_axis_job_tvalid.value = 0
    assert found == expected
    assert cycle == VECTORS["cycles"], f"took {cycle} cycles, not {VECTORS['cycles']}"
