# SPDX-License-Identifier: Apache-2.0
"""Smoke test of a generated engine: results and cycles as expected, without stalls.

It needs cocotb and a simulator, and nothing of cosil: `vectors.json` beside it holds the beats that
go in, the memories behind the streams, the results and the number of cycles. Run it with `make`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))


class Responder(ABC):
    """What is behind one request stream, always ready, and one response stream.

    Responses come in the order of requests, each `latency` cycles after its own.
    """

    def __init__(self, dut: Any, name: str, latency: int) -> None:
        self.name = name
        self.request_valid = getattr(dut, f"m_axis_{name}_tvalid")
        self.request = getattr(dut, f"m_axis_{name}_tdata")
        self.response_valid = getattr(dut, f"s_axis_{name}_tvalid")
        self.response = getattr(dut, f"s_axis_{name}_tdata")
        getattr(dut, f"m_axis_{name}_tready").value = 1
        self.response_valid.value = 0
        self.latency = latency
        self.waiting: list[tuple[int, int]] = []

    def drive(self, cycle: int) -> None:
        """Present the response that is due in this cycle."""
        due = bool(self.waiting) and self.waiting[0][0] <= cycle
        self.response_valid.value = int(due)
        if due:
            self.response.value = self.waiting.pop(0)[1]

    def sample(self, cycle: int) -> None:
        """Accept the request that is presented in this cycle."""
        if self.request_valid.value:
            answer = self.answer(cycle, int(self.request.value))
            self.waiting.append((cycle + self.latency, answer))

    @abstractmethod
    def answer(self, cycle: int, request: int) -> int:
        """Return the response to a request."""


class Memory(Responder):
    """A memory: a request names the element from which a beat is read; past the end it reads 0."""

    def __init__(self, dut: Any, name: str, content: dict[str, Any], latency: int) -> None:
        super().__init__(dut, name, latency)
        self.element_bits = bits = content["element_bits"]
        self.image = sum(value << (bits * i) for i, value in enumerate(content["elements"]))
        self.mask = (1 << content["beat_bits"]) - 1

    def answer(self, cycle: int, request: int) -> int:
        """Return the beat from the element requested on."""
        return (self.image >> (request * self.element_bits)) & self.mask


class Exchange(Responder):
    """A memory whose requests, of several rows each, are known, and the responses to them."""

    def __init__(self, dut: Any, name: str, content: dict[str, Any], latency: int) -> None:
        super().__init__(dut, name, latency)
        self.pairs = list(zip(content["requests"], content["responses"], strict=True))

    def answer(self, cycle: int, request: int) -> int:
        """Compare the request with the next one that is known, and return its response."""
        assert self.pairs, f"{self.name}: a request too many in cycle {cycle}"
        expected, response = self.pairs.pop(0)
        assert request == expected, f"{self.name}: request of cycle {cycle}"
        return response


class Source:
    """Beats for one stream, each offered as soon as the one before was taken."""

    def __init__(self, dut: Any, name: str, beats: list[int]) -> None:
        self.name = name
        self.valid = getattr(dut, f"s_axis_{name}_tvalid")
        self.ready = getattr(dut, f"s_axis_{name}_tready")
        self.data = getattr(dut, f"s_axis_{name}_tdata")
        self.beats = beats
        self.valid.value = 0

    def drive(self, cycle: int) -> None:
        """Offer the next beat."""
        self.valid.value = int(bool(self.beats))
        if self.beats:
            self.data.value = self.beats[0]

    def sample(self, cycle: int) -> None:
        """Note whether the beat was taken."""
        if self.beats and self.ready.value:
            self.beats = self.beats[1:]
        elif cycle == 0:
            assert self.name != VECTORS["job_stream"], "the engine must be idle after reset"


class Results:
    """A stream of results, always ready.

    With tuser, a beat holds elements from the address tuser on, those that tkeep marks; without, a
    beat is one result, tlast above tdata, under its number.
    """

    def __init__(self, dut: Any, name: str) -> None:
        self.valid = getattr(dut, f"m_axis_{name}_tvalid")
        self.data = getattr(dut, f"m_axis_{name}_tdata")
        self.user, self.keep, self.last = (
            getattr(dut, f"m_axis_{name}_{signal}", None) for signal in ("tuser", "tkeep", "tlast")
        )
        self.found: dict[int, int] = {}
        getattr(dut, f"m_axis_{name}_tready").value = 1

    def sample(self) -> None:
        """Take the beat that is presented in this cycle."""
        if not self.valid.value:
            return
        data = int(self.data.value)
        if self.user is None or self.keep is None:
            last = int(self.last.value) if self.last is not None else 0
            self.found[len(self.found)] = data | last << len(self.data)
            return
        first, keep = int(self.user.value), int(self.keep.value)
        bits = VECTORS["result_bits"]
        for lane in range(len(self.data) // bits):
            if keep >> (lane * bits // 8) & 1:
                self.found[first + lane] = data >> (lane * bits) & ((1 << bits) - 1)


@cocotb.test()  # pyright: ignore[reportUntypedFunctionDecorator]
async def as_simulated(dut: Any) -> None:
    """Every result bit and the number of cycles are as the simulator of cosil says."""
    latency = VECTORS["memory_latency"]
    ports: list[Source | Responder] = []
    for kind, contents in ((Memory, "memories"), (Exchange, "exchanges")):
        ports += [kind(dut, name, content, latency) for name, content in VECTORS[contents].items()]
    ports += [Source(dut, name, beats) for name, beats in VECTORS["inputs"].items()]
    outputs = {name: Results(dut, name) for name in VECTORS["outputs"]}
    dut.aresetn.value = 0
    cocotb.start_soon(Clock(dut.aclk, 10, "ns").start())
    for _ in range(4):
        await RisingEdge(dut.aclk)
    dut.aresetn.value = 1
    expected = {name: dict(results) for name, results in VECTORS["outputs"].items()}
    found = {name: output.found for name, output in outputs.items()}
    missing = sum(map(len, expected.values()))
    cycle = 0
    while sum(map(len, found.values())) < missing:
        assert cycle <= 2 * VECTORS["cycles"], f"no result after {cycle} cycles: {found}"
        for port in ports:
            port.drive(cycle)
        await FallingEdge(dut.aclk)
        for port in ports:
            port.sample(cycle)
        for output in outputs.values():
            output.sample()
        cycle += 1
        await RisingEdge(dut.aclk)
    assert found == expected
    assert cycle == VECTORS["cycles"], f"took {cycle} cycles, not {VECTORS['cycles']}"
