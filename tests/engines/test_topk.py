# SPDX-License-Identifier: Apache-2.0
"""The top-k spec: widths, refusals, files, and closed forms against the simulator."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cosil.engines.topk import Course, TopkSpec
from sim.topk import items, run

pytestmark = pytest.mark.xdist_group("sim-topk")


@st.composite
def one_job(draw: st.DrawFn) -> tuple[TopkSpec, NDArray[np.int64], int]:
    """Draw an engine, keys with more or fewer ties, and k."""
    spec = TopkSpec(
        draw(st.sampled_from(["radix", "quick_select"])),
        draw(st.sampled_from([1, 2, 4, 8, 16])),
        draw(st.sampled_from([1, 4, 12, 13])),
        max_n=300,
        digit_bits=draw(st.sampled_from([1, 4, 6])),
        buffers=draw(st.integers(1, 3)),
        seed=draw(st.integers(1, 1000)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n = draw(st.integers(1, 300))
    keys = rng.integers(1 << draw(st.integers(0, spec.key_bits)), size=n)
    return spec, keys, draw(st.integers(0, n + 1))


def last_row(kept: NDArray[np.void], lanes: int) -> tuple[int | None, int | None]:
    """Return the row of the last kept key, and how many of that row are kept."""
    if not kept.size:
        return None, None
    rows = kept["index"] // lanes
    return int(rows[-1]), int((rows == rows[-1]).sum())


@settings(max_examples=200)
@given(one_job())
def test_closed_form_is_the_simulators_count(job: tuple[TopkSpec, NDArray[np.int64], int]) -> None:
    """From the passes and the last kept row, latency() and select_cycles() are exact."""
    spec, keys, k = job
    result = run(spec, [(keys, k)], trace=True)
    passes = result.events["keys"].tolist()
    course = Course(passes, *last_row(result.y, spec.lanes))
    assert result.cycles == spec.latency(keys.size, k, course)
    assert result.cycles <= spec.latency(keys.size, k, Course(passes))
    (marks,) = result.jobs
    assert marks["decided"] - marks["last_input"] == spec.select_cycles(passes)
    assert spec.select_cycles(passes) <= spec.select_bound(keys.size)


@settings(max_examples=100)
@given(one_job())
def test_interval_is_the_simulators_in_a_long_run(
    job: tuple[TopkSpec, NDArray[np.int64], int],
) -> None:
    """Of equal jobs, 12 more take 12 intervals, whatever the number of banks."""
    spec, keys, k = job
    if spec.architecture == "quick_select":
        keys[:] = keys[0]  # the first pass decides, so that jobs are equal whatever is drawn
    shorter, longer = (run(spec, [(keys, k)] * count, trace=True) for count in (12, 24))
    first = items(shorter)[0]
    passes = shorter.events["keys"][shorter.events["job"] == 0].tolist()
    course = Course(passes, *last_row(first, spec.lanes))
    interval = spec.interval(keys.size, k, course)
    assert longer.cycles - shorter.cycles == 12 * interval
    latency = spec.latency(keys.size, k, course)
    if spec.buffers != 2:
        assert shorter.cycles == latency + 11 * interval


def test_radix_bound_is_reached() -> None:
    """Keys that agree in all digits but the last need every pass over all of them."""
    for digit_bits in (1, 3, 6, 8):
        spec = TopkSpec(digit_bits=digit_bits, key_bits=13)
        keys = np.arange(300) % 2
        (marks,) = run(spec, [(keys, 100)]).jobs
        assert marks["decided"] - marks["last_input"] == spec.select_bound(300)


def test_quick_select_bound_is_reached() -> None:
    """Of two keys a pass may remove one only: then each takes a pass of one row and 3 cycles."""
    spec = TopkSpec("quick_select", lanes=2, max_n=8, buffers=1)
    assert spec.select_bound(2) == 2 + 2 * (1 + 3)
    table = run(spec, [(np.array([1, 2]), 1)] * 64).jobs
    assert (table["decided"] - table["last_input"]).max() == spec.select_bound(2)


@given(st.integers(1, 48), st.integers(1, 8))
def test_digits_cut_a_key_evenly(key_bits: int, digit_bits: int) -> None:
    """Widths sum to the key, differ by at most one, wider first, in as few digits as possible."""
    spec = TopkSpec(key_bits=key_bits, digit_bits=digit_bits)
    widths, shifts = spec.digit_widths, spec.digit_shifts
    assert sum(widths) == key_bits
    assert max(widths) <= digit_bits
    assert max(widths) - min(widths) <= 1
    assert list(widths) == sorted(widths, reverse=True)
    assert (len(widths) - 1) * digit_bits < key_bits
    assert [shifts[i] + widths[i] for i in range(len(widths))] == [key_bits, *shifts[:-1]]
    assert shifts[-1] == 0


def test_digits_of_the_page() -> None:
    """12 bits are 6, 6; 13 bits in digits of at most 6 are 5, 4, 4."""
    assert TopkSpec().digit_widths == (6, 6)
    assert TopkSpec(key_bits=13).digit_widths == (5, 4, 4)


@given(st.integers(0, 2**13 - 1), st.integers(0, 2**13 - 1), st.booleans(), st.booleans())
def test_order_codes_rank_as_the_keys(a: int, b: int, signed: bool, largest: bool) -> None:
    """The better key has the larger code."""
    spec = TopkSpec(key_bits=13, signed=signed, largest=largest)
    values = [word - 2**13 if signed and word >= 2**12 else word for word in (a, b)]
    better = values[0] > values[1] if largest else values[0] < values[1]
    assert better == ((a ^ spec.code_mask) > (b ^ spec.code_mask))


def test_derived_widths() -> None:
    """Memories hold the largest job and counters its number of keys."""
    spec = TopkSpec(lanes=16, max_n=1000)
    assert (spec.rows, spec.memory_depth, spec.index_bits, spec.count_bits) == (63, 64, 10, 10)
    one = TopkSpec(lanes=1, max_n=1)
    assert (one.rows, one.memory_depth, one.index_bits, one.count_bits) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "heap"},
            "architecture must be one of 'radix', 'quick_select', not 'heap'",
        ),
        (
            {"lanes": 12},
            "lanes must be a power of two in 1..64, not 12; the nearest legal value is 8",
        ),
        (
            {"lanes": 0},
            "lanes must be a power of two in 1..64, not 0; the nearest legal value is 1",
        ),
        ({"key_bits": 49}, "key_bits must be in 1..48, not 49; the nearest legal value is 48"),
        ({"max_n": 15}, "max_n must be in 16..65536, not 15; the nearest legal value is 16"),
        ({"digit_bits": 9}, "digit_bits must be in 1..8, not 9; the nearest legal value is 8"),
        ({"buffers": 0}, "buffers must be in 1..3, not 0; the nearest legal value is 1"),
        ({"seed": 0}, "seed must be in 1..4294967295, not 0; the nearest legal value is 1"),
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, object], message: str) -> None:
    """An impossible value is refused with what is possible and the nearest legal value."""
    with pytest.raises(ValueError, match=f"^{re.escape('topk: ' + message)}$"):
        TopkSpec.from_dict(changes)


def test_impossible_shapes_are_refused() -> None:
    """The closed forms are for jobs that the engine takes."""
    spec = TopkSpec(max_n=64)
    with pytest.raises(ValueError, match=r"^topk: n must be in 1..64, not 65$"):
        spec.latency(65, 1)
    with pytest.raises(ValueError, match=r"^topk: k must be at least 0, not -1$"):
        spec.interval(1, -1)
    message = (
        "topk: the last kept of 64 keys must lie in a row that holds it, not 17 items in row 1"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spec.latency(64, 20, Course([], 1, 17))
