# SPDX-License-Identifier: Apache-2.0
"""Bandwidth as stall patterns: the closed form of beats, and what a memory may move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.gemm import gemm_job
from cosil.lowering.w4a8 import Job, Operands
from cosil.machine.array import traffic
from cosil.machine.spec import Memory
from cosil.packed import int4
from sim.w4a8 import run

SPECS = {
    "os channel fixed": W4A8Spec(3, 5, epilogue="fixed", epilogue_lanes=2),
    "os group fp16": W4A8Spec(4, 4, scales="group"),
    "ws channel fp16": W4A8Spec(8, 3, dataflow="ws", acc_rows=16, epilogue_lanes=2),
    "ws group fixed": W4A8Spec(4, 6, dataflow="ws", scales="group", epilogue="fixed", acc_rows=16),
}


def lower(spec: W4A8Spec, m: int, n: int, k: int, group: int) -> tuple[Job, Operands]:
    """Return a job of random operands."""
    rng = np.random.default_rng(m * n * k)
    codes = rng.integers(-128, 128, (m, k), dtype=np.int8)
    size = min(group, k) if spec.scales == "group" else 0
    weight = int4.encode(
        rng.integers(-8, 8, (n, k), dtype=np.int8),
        encoding=spec.weight_encoding or "twos",
        channel=np.ones(n, np.float32),
        group=np.ones((-(-k // size), n), np.float16) if size else None,
        group_size=size,
    )
    if spec.epilogue == "fixed":
        columns = np.full(n, 1 << 32 | 4 << 48, np.uint64)
        return gemm_job(spec, codes, weight, epilogue=columns)
    return gemm_job(spec, codes, weight, row_scales=np.ones(m, np.float32))


@pytest.mark.parametrize("name", SPECS)
@settings(deadline=None, max_examples=12)
@given(m=st.integers(1, 40), n=st.integers(1, 13), k=st.integers(1, 70), group=st.integers(1, 40))
def test_beats_are_those_that_the_simulator_counts(
    name: str, m: int, n: int, k: int, group: int
) -> None:
    """The closed form equals the transfers of each stream, for each dataflow and datapath."""
    spec = SPECS[name]
    job, operands = lower(spec, m, n, k, group)
    counted = run(spec, job, operands).counts
    assert {stream: counted[f"{stream}_beats"] for stream in "awsery"} == traffic(spec, job).beats


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rate", [1.0, 3.7, 24.0])
def test_no_span_moves_more_than_the_bandwidth(name: str, rate: float) -> None:
    """In any span, free slots hold at most rate x cycles bytes and one beat of each stream."""
    spec = SPECS[name]
    job, _ = lower(spec, 30, 11, 50, 16)
    moves = traffic(spec, job)
    patterns, width = moves.stalls(Memory(rate)), moves.beat_bytes
    for stream, pattern in patterns.items():
        share = moves.beats[stream] * width[stream] / moves.bytes
        slots = np.concatenate([[0], np.cumsum(np.tile(~pattern, 2))])
        for span in (1, 2, 7, 100, 4096, 65536):
            most = int((slots[span:] - slots[:-span]).max()) * width[stream]
            assert most <= rate * share * span + width[stream]
    throttled = sum(moves.beats[stream] * width[stream] for stream in patterns)
    assert throttled == moves.bytes or rate == 24.0


@pytest.mark.parametrize("name", SPECS)
def test_cycles_follow_the_bandwidth(name: str) -> None:
    """Results never change; ample bandwidth costs nothing; a low one takes bytes / rate cycles."""
    spec = SPECS[name]
    job, operands = lower(spec, 30, 11, 50, 16)
    free = run(spec, job, operands)
    moves = traffic(spec, job)
    total, burst = moves.bytes, sum(moves.beat_bytes.values())
    cycles: list[int] = []
    for rate in (0.0, 1e6, 8.0, 2.0, 0.5):
        bound = run(spec, job, operands, stalls=moves.stalls(Memory(rate)))
        assert free.y.tobytes() == bound.y.tobytes()
        assert dict(free.counts) == dict(bound.counts)
        cycles.append(bound.cycles)
        if rate:
            assert bound.cycles >= (total - burst) / rate
    assert free.cycles == cycles[0] == cycles[1]
    assert sorted(cycles) == cycles
    assert cycles[-1] <= 2.0 * total / 0.5 + 2 * free.cycles
