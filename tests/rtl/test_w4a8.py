# SPDX-License-Identifier: Apache-2.0
"""The engine and its elements in Amaranth's own simulator; verif/w4a8 goes much further."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job
from rtl.w4a8 import W4A8
from rtl.w4a8.layout import pair_bits
from rtl.w4a8.pe import add_product, products

LATENCY = 2


def pack(codes: NDArray[np.integer], bits: int) -> list[int]:
    """Rows of codes as 32-bit words, low code first; the engine's own layout (section 3)."""
    per_word = 32 // bits
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // per_word) * per_word), np.int64)
    padded[:, : codes.shape[1]] = codes
    fields = (padded & ((1 << bits) - 1)).reshape(-1, per_word)
    return [sum(int(code) << bits * i for i, code in enumerate(word)) for word in fields]


def field(words: list[int], bits: int, first: int, count: int) -> int:
    """`count` elements of `bits` bits from element `first` on; 0 past the end."""
    chosen = words[first : first + count]
    return sum(word << bits * i for i, word in enumerate(chosen))


def run(spec: W4A8Spec, job: Job, memory: dict[str, list[int]]) -> tuple[dict[int, int], int]:
    """Return the result at each address, and the cycles of the job; memories never stall."""
    beats = {
        "a": (32, spec.a_beat_bytes // 4),
        "w": (32, spec.w_beat_bytes // 4),
        "e": (64, spec.array_cols),
        "s": (16, spec.array_cols),
    }
    dut = W4A8(spec)
    names = [name for name in beats if hasattr(dut, f"o_{name}")]
    found: dict[int, int] = {}
    cycles = 0

    async def testbench(ctx) -> None:
        nonlocal cycles
        queues: dict[str, deque[tuple[int, int]]] = {name: deque() for name in names}
        for name, value in zip(dut.i_job.payload.shape(), job.words(), strict=True):
            ctx.set(dut.i_job.payload[name[0]], int(value))
        for name in names:
            ctx.set(getattr(dut, f"o_{name}").ready, 1)
        ctx.set(dut.o_y.ready, 1)
        ctx.set(dut.i_job.valid, 1)
        assert ctx.get(dut.i_job.ready)
        for cycle in range(2000):
            for name, queue in queues.items():
                port, (bits, count) = getattr(dut, f"i_{name}"), beats[name]
                there = bool(queue) and queue[0][0] <= cycle
                ctx.set(port.valid, there)
                if there:
                    ctx.set(port.payload, field(memory[name], bits, queue.popleft()[1], count))
                request = getattr(dut, f"o_{name}")
                if ctx.get(request.valid):
                    queue.append((cycle + LATENCY, ctx.get(request.payload)))
            if ctx.get(dut.o_y.valid):
                y = ctx.get(dut.o_y.payload)
                cycles = cycle + 1
                for lane in range(spec.epilogue_lanes):
                    if y.keep >> lane & 1:
                        assert y.addr + lane not in found
                        found[y.addr + lane] = y.data[lane]
            await ctx.tick()
            ctx.set(dut.i_job.valid, 0)
            if len(found) == job.m * job.n:
                assert ctx.get(dut.i_job.ready)
                break

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    return found, cycles


def expected_cycles(spec: W4A8Spec, m: int, n: int, k: int) -> int:
    """Return the closed form of section 5.5."""
    R, C, Q = spec.array_rows, spec.array_cols, spec.requant_stages
    n_tiles, cols = -(-n // C), min(n, C)
    if spec.dataflow == "os":
        tiles, rows = -(-m // R) * n_tiles, min(m, R)
        last = max(rows, cols) + LATENCY + 1 + (tiles - 1) * max(k, spec.period_min) + k - 1
        tail = m - (-(-m // R) - 1) * R
    else:
        passes = n_tiles * -(-k // R)  # one m-chunk
        last = cols + LATENCY + 1 + R + Q + (passes - 1) * max(m, spec.period_min) + m - 1
        tail = 1
    return last + spec.drain_latency + tail + spec.epilogue_latency


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (W4A8Spec(2, 3, "os", "channel", epilogue="fixed"), (5, 7, 11)),
        (W4A8Spec(2, 2, "ws", "group", epilogue="fixed", acc_rows=16), (6, 3, 7)),
    ],
    ids=["os-channel", "ws-group"],
)
def test_engine_equals_integer_product(spec: W4A8Spec, shape: tuple[int, int, int]) -> None:
    """Results equal NumPy's integers, each address is written once, and cycles the closed form."""
    m, n, k = shape
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, size=(m, k))
    q = rng.integers(-8, 8, size=(n, k))
    memory = {"a": pack(x, 8), "w": pack(q + (8 if spec.weight_encoding == "offset" else 0), 4)}
    weight = q
    if spec.scales == "group":
        scale = rng.integers(-20, 21, size=(2, n))  # integers: w8 = clamp(q * s) needs no rounding
        memory["s"] = [int(bits) for bits in scale.astype(np.float16).view(np.uint16).ravel()]
        weight = np.clip(q * np.repeat(scale, 4, axis=0)[:k].T, -128, 127)
    bias = rng.integers(-1000, 1000, size=n)
    memory["e"] = [(int(b) & 0xFFFFFFFF) | 3 << 32 | 2 << 48 for b in bias]
    # Half to even of (acc + bias) * 3 / 4, which is exact in float64.
    exact = np.clip(np.rint((x @ weight.T + bias) * 3 / 4), -32768, 32767).astype(np.int64)

    words = -(-k // 4), -(-k // 8)
    job = Job(m, n, k, 4, 0, words[0], 0, words[1], 0, n, 0, 0, 1000, n + 2, flags=2)
    found, cycles = run(spec, job, memory)
    for (row, col), value in np.ndenumerate(exact):
        assert int(value) & 0xFFFF == found.pop(1000 + row * (n + 2) + col)
    assert found == {}
    assert expected_cycles(spec, m, n, k) == cycles


class Multiply(wiring.Component):
    """A pair's products added to two totals."""

    a: Signal
    w: Signal
    total: Signal

    def __init__(self, spec: W4A8Spec) -> None:
        self._spec = spec
        super().__init__({"a": In(8), "w": In(pair_bits(spec, 2)), "total": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for col, product in enumerate(products(m, self._spec, 2, self.a, self.w)):
            zero = Signal(16, name=f"zero_{col}")
            m.d.comb += self.total.word_select(col, 16).eq(add_product(zero, product))
        return m


def test_one_multiplier_gives_both_products_of_a_pair() -> None:
    """(w1 * 2^12 + w2) * a separates exactly, for all weights and the corners of a."""
    dut = Multiply(W4A8Spec())

    async def testbench(ctx) -> None:
        for low in range(-8, 8):
            for high in range(-8, 8):
                ctx.set(dut.w, (low & 15) | ((high - (low < 0)) & 31) << 4)
                for a in (-128, -127, -1, 0, 1, 85, 127):
                    ctx.set(dut.a, a & 255)
                    await ctx.tick()
                    assert (low * a) & 0xFFFF | ((high * a) & 0xFFFF) << 16 == ctx.get(dut.total)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
