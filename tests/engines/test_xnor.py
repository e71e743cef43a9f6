# SPDX-License-Identifier: Apache-2.0
"""The XNOR spec: derived sizes by brute force, cycle laws by a model of their own, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.engines.xnor import XnorSpec


@st.composite
def specs(draw: st.DrawFn) -> XnorSpec:
    """Draw an array whose every parameter varies."""
    pe, simd = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 8, 9, 64, 65, 512]))
    return XnorSpec(
        pe=pe,
        simd=simd,
        weights=draw(st.sampled_from(["binary", "ternary"])),
        epilogue=draw(st.sampled_from(["threshold", "fixed"])),
        max_inputs=draw(st.integers(simd, 1030)),
        max_outputs=draw(st.integers(pe, 30)),
        border_classes=draw(st.integers(1, 32)),
    )


def stepped(spec: XnorSpec, m: int, k: int, n: int, load: int) -> tuple[int, int]:
    """Return a job's cycles and its last interval, by the rules of section 5, cycle by cycle."""
    folds, tiles = -(-n // spec.pe), -(-k // spec.simd)
    steps = [(nf, sf) for _ in range(m) for nf in range(folds) for sf in range(tiles)]
    queue, beats, issued = 0, m * tiles, []
    t = 0
    while len(issued) < len(steps):
        t += 1
        push = queue < 4 and beats > 0
        fold = steps[len(issued)][0]
        step = t >= load + 1 and (fold > 0 or queue > 0)
        queue += push - (step and fold == 0)
        beats -= push
        if step:
            issued.append(t)
    levels = 0
    while 2**levels < spec.simd:
        levels += 1
    stages = max(1, -(-levels // 3))
    visible = issued[-1] + stages + (5 if spec.epilogue == "threshold" else 9)
    each = folds * tiles
    return visible + 1, issued[-1] - issued[-1 - each] if m > 1 else 0


@settings(max_examples=150)
@given(specs(), st.data())
def test_laws_are_what_the_rules_of_each_cycle_give(spec: XnorSpec, data: st.DataObject) -> None:
    """latency() and interval() equal a schedule by the rules of section 5."""
    k = data.draw(st.integers(1, spec.max_inputs))
    n = data.draw(st.integers(1, spec.max_outputs))
    m = data.draw(st.integers(1, 5))
    classes = data.draw(st.integers(1, spec.border_classes))
    flags = {name: data.draw(st.booleans()) for name in ("weights", "base", "columns")}
    folds, tiles = -(-n // spec.pe), -(-k // spec.simd)
    beats = {
        "w": folds * tiles * flags["weights"],
        "c": folds * classes * flags["base"],
        "e": folds * flags["columns"],
    }
    loads: dict[str, Any] = {f"load_{name}": value for name, value in flags.items()}
    assert beats == spec.load_beats(k, n, classes, **loads)
    cycles, last = stepped(spec, m, k, n, max(beats.values()))
    assert cycles == spec.latency(m, k, n, classes, **loads)
    assert folds * tiles == spec.interval(k, n)
    if m > 1:
        assert last == spec.interval(k, n)


def test_law_of_the_page_by_hand() -> None:
    """The default array: 1024 x 300 in 19 x 16 tiles; cycles = (MH/PE) (MW/SIMD) vectors + LAT."""
    spec = XnorSpec()
    assert spec.load_beats(1024, 300, 9) == {"w": 19 * 16, "c": 9 * 19, "e": 19}
    assert spec.interval(1024, 300) == 19 * 16
    assert spec.tree_stages == 2
    assert spec.latency(7, 1024, 300, 9) == (304 + 1) + 7 * 304 + 2 + 5
    kept: dict[str, Any] = {"load_weights": False, "load_base": False, "load_columns": False}
    assert spec.latency(7, 1024, 300, **kept) == 2 + 7 * 304 + 2 + 5
    assert XnorSpec(epilogue="fixed").latency(1, 64, 16, **kept) == 2 + 1 + 2 + 9


@settings(max_examples=60)
@given(specs())
def test_sizes_hold_the_largest_job(spec: XnorSpec) -> None:
    """Memories hold the largest job, widths the largest mismatches and both ends of the sum."""
    tiles = -(-spec.max_inputs // spec.simd)
    folds = -(-spec.max_outputs // spec.pe)
    assert (tiles, folds) == (spec.input_folds_max, spec.output_folds_max)
    assert spec.weight_depth == tiles * folds
    assert spec.base_depth == spec.border_classes * folds
    assert 2 ** (spec.mismatch_bits - 1) <= spec.max_inputs < 2**spec.mismatch_bits
    ends = (-2 * spec.max_inputs, 2 * spec.max_inputs)
    assert -(2 ** (spec.sum_bits - 1)) <= ends[0] < ends[1] < 2 ** (spec.sum_bits - 1)
    assert ends[1] >= 2 ** (spec.sum_bits - 2)
    assert spec.weight_planes == (2 if spec.weights == "ternary" else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pe": 0}, "pe must be in 1..128, not 0; the nearest legal value is 1"),
        ({"pe": 129}, "pe must be in 1..128, not 129; the nearest legal value is 128"),
        ({"simd": 0}, "simd must be in 1..512, not 0; the nearest legal value is 1"),
        ({"simd": 513}, "simd must be in 1..512, not 513; the nearest legal value is 512"),
        ({"weights": "int2"}, "weights must be one of 'binary', 'ternary', not 'int2'"),
        ({"epilogue": "fp16"}, "epilogue must be one of 'threshold', 'fixed', not 'fp16'"),
        ({"max_inputs": 63},
         "max_inputs must be in 64..32767, not 63; the nearest legal value is 64"),
        ({"max_inputs": 32768},
         "max_inputs must be in 64..32767, not 32768; the nearest legal value is 32767"),
        ({"max_outputs": 15},
         "max_outputs must be in 16..16384, not 15; the nearest legal value is 16"),
        ({"max_outputs": 16385},
         "max_outputs must be in 16..16384, not 16385; the nearest legal value is 16384"),
        ({"border_classes": 33},
         "border_classes must be in 1..32, not 33; the nearest legal value is 32"),
    ],
)  # fmt: skip
def test_impossible_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    """An impossible value is refused with what is possible."""
    with pytest.raises(ValueError, match=f"^{re.escape('xnor: ' + message)}$"):
        XnorSpec.from_dict(changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1, 1, 1), "m must be at least 1, not 0"),
        ((1, 4609, 1, 1), "k must be in 1..4608, not 4609"),
        ((1, 1, 513, 1), "n must be in 1..512, not 513"),
        ((1, 1, 1, 10), "classes must be in 1..9, not 10"),
        ((1, 1, 1, 0), "classes must be in 1..9, not 0"),
    ],
)
def test_impossible_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    """The closed forms are for jobs that the array takes."""
    with pytest.raises(ValueError, match=f"^{re.escape('xnor: ' + message)}$"):
        XnorSpec().latency(*shape)
