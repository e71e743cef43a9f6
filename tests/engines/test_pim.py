# SPDX-License-Identifier: Apache-2.0
"""The PIM spec: derived sizes by brute force, cycle laws by a model of their own, refusals."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosil.engines.pim import PimSpec
from cosil.packed.decomposition import DECOMPOSITIONS


@st.composite
def specs(draw: st.DrawFn) -> PimSpec:
    """Draw a macro whose every parameter varies."""
    decomposition = draw(st.sampled_from(DECOMPOSITIONS))
    weight_bits, activation_bits = draw(st.integers(2, 8)), draw(st.integers(1, 8))
    slice_bits = draw(st.sampled_from([m for m in (1, 2, 3, 4) if activation_bits % m == 0]))
    planes = {"bit_serial": weight_bits, "differential": 2, "native": 1}[decomposition]
    mux = draw(st.sampled_from([planes, 2 * planes, *(d for d in (1, 2) if planes % d == 0)]))
    columns = mux * draw(st.integers(-(-planes // mux), 9))
    return PimSpec(
        decomposition,
        rows=draw(st.integers(1, 12)),
        columns=columns,
        groups=draw(st.integers(1, 5)),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        slice_bits=slice_bits,
        adc_bits=draw(st.integers(2, 10)),
        mux=mux,
        row_cycles=draw(st.integers(1, 9)),
        conversion_cycles=draw(st.integers(1, 4)),
        double_buffer=draw(st.booleans()),
        noise_bits=draw(st.sampled_from([0, 2, 10])),
        epilogue_lanes=draw(st.integers(0, columns // planes)),
    )


def cells_of(spec: PimSpec, weight: int) -> list[int]:
    """Return the cells of a weight as section 1's table words them."""
    if spec.decomposition == "bit_serial":
        return [int(bit) for bit in f"{weight % 2**spec.weight_bits:0{spec.weight_bits}b}"[::-1]]
    return [max(weight, 0), max(-weight, 0)] if spec.decomposition == "differential" else [weight]


@settings(max_examples=60)
@given(specs())
def test_ranges_hold_what_the_table_says(spec: PimSpec) -> None:
    """Planes give every weight back; values, codes and accumulator reach their ends, no further."""
    top = 2 ** (spec.weight_bits - 1)
    weights = range(-top + (spec.decomposition == "differential"), top)
    cells = [cells_of(spec, weight) for weight in weights]
    for weight, held in zip(weights, cells, strict=True):
        assert weight == sum(c * f for c, f in zip(held, spec.plane_weights, strict=True))
        assert len(held) == spec.planes
    largest = spec.rows * (2**spec.slice_bits - 1)
    flat = [cell for held in cells for cell in held]
    assert (spec.value_min, spec.value_max) == (min(flat) * largest, max(flat) * largest)
    assert spec.entries == spec.value_max - spec.value_min + 1
    assert spec.bit_planes == spec.planes * spec.cell_bits
    assert max(flat) < 2**spec.cell_bits
    codes = 2**spec.adc_bits - 1
    if spec.decomposition == "native":
        codes = 2 ** (spec.adc_bits - 1) - 1
        assert spec.code_min == -codes
    else:
        assert spec.code_min == 0
    assert spec.code_max == codes
    weight_of_slices = sum(spec.slice_levels**s for s in range(spec.slices))
    factors = spec.plane_weights
    ends = [
        spec.groups * weight_of_slices * sum(f * c for f, c in zip(factors, chosen, strict=True))
        for chosen in itertools.product((spec.code_min, spec.code_max), repeat=len(factors))
    ]
    assert -(2 ** (spec.acc_bits - 1)) <= min(ends) <= max(ends) < 2 ** (spec.acc_bits - 1)
    assert max(-min(ends), max(ends)) >= 2 ** (spec.acc_bits - 2)


def stepped(spec: PimSpec, m: int, k: int, n: int, rows: int, load: int) -> tuple[int, int]:
    """Return the cycles of a job and of its last interval, by section 5's rules, step by step."""
    steps = -(-k // rows) * spec.slices
    groups, outputs = -(-k // rows), -(-n // spec.epilogue_lanes)
    convert = spec.mux * spec.conversion_cycles
    banks = 2 if spec.double_buffer else 1
    launches: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    beats: list[int] = []
    issued: list[int] = []  # last output step of each vector
    for step in range(m * steps):
        vector, in_vector = divmod(step, steps)
        while len(beats) < (vector + 1) * groups:
            free = launches[(vector - 1) * steps - 1] + 1 if vector >= 2 else 1
            beats.append(max(free, beats[-1] + 1 if beats else 1))
        launch = max(load + 1, beats[vector * groups + in_vector % groups] + 1)
        if step:
            launch = max(launch, launches[-1] + spec.row_cycles)
        if step >= banks:
            launch = max(launch, ends[step - banks] - 1)
        launches.append(launch)
        start = launch + spec.row_cycles + 1
        if step:
            start = max(start, ends[-1])
        if in_vector == 0 and vector >= spec.result_depth:
            start = max(start, issued[vector - spec.result_depth] + 1)
        starts.append(start)
        ends.append(start + convert)
        if in_vector == steps - 1:
            readable = start + convert - 1 + 4 + 1
            issued.append(max(readable, issued[-1] + 1 if issued else 0) + outputs - 1)
    return issued[-1] + 7 + 1, starts[-1] - starts[-steps - 1] if m > 1 else 0


@settings(max_examples=300)
@given(specs(), st.data())
def test_laws_are_what_the_rules_of_each_step_give(spec: PimSpec, data: st.DataObject) -> None:
    """latency() and interval() equal a schedule by the rules of section 5; the store never stalls.

    In the domain of the laws the schedule keeps its period from the third vector on.
    """
    rows = data.draw(st.integers(1, spec.rows))
    k = data.draw(st.integers(1, rows * spec.groups))
    n = data.draw(st.integers(1, spec.outputs))
    m = data.draw(st.integers(1, 9))
    loads = {name: data.draw(st.booleans()) for name in ("weights", "transfer", "noise")}
    flags = {f"load_{name}": value for name, value in loads.items()}
    steps = -(-k // rows) * spec.slices
    each = spec.row_cycles, spec.mux * spec.conversion_cycles
    interval = steps * (max(each) if spec.double_buffer else sum(each))
    outputs = -(-n // spec.epilogue_lanes)
    if outputs > interval:
        with pytest.raises(ValueError, match=r"^pim: the closed form holds where the \d+ output"):
            spec.latency(m, k, n, rows, **flags)
        return
    load = outputs
    if loads["weights"]:
        planes = spec.weight_bits
        if spec.decomposition == "differential":
            planes = 2 * (spec.weight_bits - 1)
        load = max(load, n * planes * -(-k // rows) * -(-rows // 64))
    if loads["transfer"]:
        load = max(load, spec.mux * spec.entries)
    if loads["noise"] and spec.noise_bits:
        load = max(load, 2**spec.noise_bits + spec.columns // spec.mux)
    cycles, last = stepped(spec, m, k, n, rows, load)
    assert cycles == spec.latency(m, k, n, rows, **flags)
    assert interval == spec.interval(k, n, rows)
    if m > 1:
        assert last == interval


def test_law_of_the_page_by_hand() -> None:
    """The default macro: T = 8, 1024 weight beats, 1032 transfer beats; 4 vectors of 3 groups."""
    spec = PimSpec()
    assert (spec.outputs, spec.adcs, spec.entries, spec.period, spec.result_depth) == (
        64, 32, 129, 8, 2,
    )  # fmt: skip
    assert spec.load_beats(300, 40) == {"w": 40 * 4 * 3 * 2, "t": 8 * 129, "n": 288, "e": 5}
    assert spec.interval(300, 40) == 3 * 4 * 8
    assert spec.latency(4, 300, 40) == 1032 + 1 + (4 * 12 - 1) * 8 + 8 + 5 + 13


def test_defaults_of_lanes() -> None:
    """Lanes are by default as many as outputs that finish together, and are kept as a number."""
    assert PimSpec().epilogue_lanes == 8
    assert PimSpec(mux=64).epilogue_lanes == 1
    assert PimSpec("native", mux=3, columns=9).epilogue_lanes == 3
    assert "epilogue_lanes = 8" in PimSpec().to_toml()


def test_spec_files_round_trip(tmp_path: Path) -> None:
    """A spec written as TOML reads back equal, and an unknown key lists the known ones."""
    spec = PimSpec("differential", 36, 12, 3, 5, 6, 3, 9, 6, 2, 9, False, 0, 4)
    path = tmp_path / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    assert spec == PimSpec.from_toml(path)
    assert spec.to_toml().startswith('engine = "pim"\ndecomposition = "differential"\n')
    with pytest.raises(
        ValueError, match=r"^pim: unknown parameter 'bits'; known are decomposition"
    ):
        PimSpec.from_dict({"bits": 4})


NAMES = "'bit_serial', 'differential', 'native'"
VALUES = "a column must have at most 65536 values"
LOWER = "lower rows, slice_bits or weight_bits"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decomposition": "offset"}, f"decomposition must be one of {NAMES}, not 'offset'"),
        ({"rows": 0}, "rows must be in 1..1024, not 0; the nearest legal value is 1"),
        ({"rows": 1025}, "rows must be in 1..1024, not 1025; the nearest legal value is 1024"),
        ({"columns": 3}, "columns must be in 4..4096, not 3; the nearest legal value is 4"),
        ({"columns": 9000},
         "columns must be in 1..4096, not 9000; the nearest legal value is 4096"),
        ({"groups": 257}, "groups must be in 1..256, not 257; the nearest legal value is 256"),
        ({"weight_bits": 1}, "weight_bits must be in 2..8, not 1; the nearest legal value is 2"),
        ({"activation_bits": 9},
         "activation_bits must be in 1..8, not 9; the nearest legal value is 8"),
        ({"slice_bits": 3}, "slice_bits must divide activation_bits = 4, not 3"),
        ({"adc_bits": 11}, "adc_bits must be in 2..10, not 11; the nearest legal value is 10"),
        ({"mux": 12}, "mux must divide columns = 256, not 12"),
        ({"weight_bits": 3},
         "mux must be a multiple or a divisor of the 3 columns of an output, not 8"),
        ({"row_cycles": 0}, "row_cycles must be in 1..255, not 0; the nearest legal value is 1"),
        ({"conversion_cycles": 256},
         "conversion_cycles must be in 1..255, not 256; the nearest legal value is 255"),
        ({"noise_bits": 1}, "noise_bits must be in 2..10, not 1; the nearest legal value is 2"),
        ({"noise_bits": 11}, "noise_bits must be in 0..10, not 11; the nearest legal value is 10"),
        ({"epilogue_lanes": 65},
         "epilogue_lanes must be in 1..64, not 65; the nearest legal value is 64"),
        ({"decomposition": "native", "rows": 300, "slice_bits": 4},
         f"{VALUES}, not 67501; {LOWER}"),
    ],
)  # fmt: skip
def test_impossible_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    """An impossible value is refused with what is possible."""
    with pytest.raises(ValueError, match=f"^{re.escape('pim: ' + message)}$"):
        PimSpec.from_dict(changes)


def test_wrong_kinds_are_refused() -> None:
    """A bool is no number and a number no bool."""
    with pytest.raises(TypeError, match=r"^pim: rows must be an int, not True$"):
        PimSpec.from_dict({"rows": True})
    with pytest.raises(TypeError, match=r"^pim: double_buffer must be a bool, not 1$"):
        PimSpec.from_dict({"double_buffer": 1})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1, 1, 1), "m must be at least 1, not 0"),
        ((1, 17, 1, 2), "k must be in 1..16, not 17"),
        ((1, 1, 65, 1), "n must be in 1..64, not 65"),
        ((1, 1, 1, 129), "rows must be in 1..128, not 129"),
    ],
)
def test_impossible_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    """The closed forms are for jobs that the macro takes."""
    with pytest.raises(ValueError, match=f"^{re.escape('pim: ' + message)}$"):
        PimSpec().latency(*shape)
