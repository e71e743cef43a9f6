# SPDX-License-Identifier: Apache-2.0
"""The closed form of the W4A8 array against the simulator."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from sim.w4a8 import run

pytestmark = pytest.mark.xdist_group("sim-w4a8")

SIZES = st.one_of(st.integers(1, 20), st.integers(1, 70))


@settings(max_examples=300)
@given(
    st.sampled_from(["os", "ws"]),
    st.sampled_from(["channel", "group"]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2, 3, 5, 8, 16]),
    st.tuples(SIZES, SIZES, st.one_of(SIZES, st.integers(1, 300))),
    st.integers(1, 17),
    st.integers(0, 3),
)
def test_closed_form_is_the_simulators_count(
    dataflow: str,
    scales: str,
    rows: int,
    cols: int,
    shape: tuple[int, int, int],
    memory_latency: int,
    fewer_lanes: int,
) -> None:
    """In its stated domain, latency() equals the cycles of run() for every shape."""
    lanes = max(1, cols - fewer_lanes) if dataflow == "os" else cols
    spec = W4A8Spec(rows, cols, dataflow, scales, epilogue_lanes=lanes, acc_rows=16)
    longest = max(rows, cols) + 1
    assume(memory_latency <= (longest if dataflow == "os" else min(longest, 8 * rows - 2)))
    m, n, k = shape
    group = max(spec.chunk, 8)
    job = Job(m, n, k, group, 0, -(-k // 4), 0, -(-k // 8), 0, n, 0, 0, 0, n)
    empty = np.zeros(0, dtype=np.uint32)
    operands = Operands(empty, empty, empty.astype(np.uint16), empty, empty)
    counted = run(spec, job, operands, memory_latency=memory_latency).cycles
    assert counted == spec.latency(m, n, k, memory_latency)


def test_closed_form_is_refused_outside_its_domain() -> None:
    """A shape or spec for which the closed form does not hold is refused, with what to use."""
    message = "w4a8: the closed form holds for memory_latency in 1..17, not 18; use sim.w4a8.run"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        W4A8Spec().latency(1, 1, 1, 18)
    with pytest.raises(ValueError, match=r"^w4a8: k must be in 1..16384, not 0$"):
        W4A8Spec().latency(1, 1, 0)
    with pytest.raises(ValueError, match=r"^w4a8: the closed form needs double_buffer and "):
        W4A8Spec(double_buffer=False).latency(1, 1, 1)
    with pytest.raises(ValueError, match=r"^w4a8: the closed form of ws needs at least 16 "):
        W4A8Spec(dataflow="ws", epilogue_lanes=8).latency(1, 99, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array_rows": 0}, "array_rows must be in 1..64, not 0; the nearest legal value is 1"),
        ({"array_cols": 65}, "array_cols must be in 1..64, not 65; the nearest legal value is 64"),
        ({"dataflow": "is"}, "dataflow must be one of 'os', 'ws', not 'is'"),
        (
            {"dataflow": "ws", "array_rows": 13},
            (
                "array_rows of a ws array must be 1, 2, 4 or a multiple of 8, not 13; "
                "the nearest legal value is 16"
            ),
        ),
        (
            {"acc_rows": 100},
            "acc_rows must be a power of two in 16..8192, not 100; the nearest legal value is 128",
        ),
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, object], message: str) -> None:
    """An impossible value is refused with what is possible and the nearest legal value."""
    with pytest.raises(ValueError, match=f"^{re.escape('w4a8: ' + message)}$"):
        W4A8Spec.from_dict(changes)


@pytest.mark.parametrize(("scales", "product"), [("channel", 8 * 128), ("group", 128 * 128)])
def test_accumulator_holds_the_largest_sum(scales: str, product: int) -> None:
    """acc_bits holds max_k products of the largest magnitude, for every max_k at a power of two."""
    for exponent in range(17):
        for max_k in {1, 2**exponent - 1, 2**exponent} - {0}:
            spec = W4A8Spec(scales=scales, max_k=max_k)
            assert max_k * product < 2 ** (spec.acc_bits - 1)
            assert spec.acc_bits <= 32
