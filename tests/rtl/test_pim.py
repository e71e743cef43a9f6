# SPDX-License-Identifier: Apache-2.0
"""Parts of the PIM engine against plain integers and the page; verif/pim runs the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator
from numpy.typing import NDArray

from cosil.engines.pim import PimSpec
from rtl.pim.inputs import Inputs
from rtl.pim.layout import passes
from rtl.pim.macro import Macro
from rtl.pim.sequence import Sequencer
from rtl.pim.shift_add import ShiftAdd


def simulate(dut: Any, testbench: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a testbench to its end."""
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


# -- macro -----------------------------------------------------------------------------------------

MACROS = {
    "bit-serial": PimSpec(rows=66, columns=6, groups=2, weight_bits=3, mux=3, adc_bits=5,
                          noise_bits=3),
    "differential": PimSpec("differential", rows=5, columns=4, groups=3, weight_bits=3, mux=2,
                            activation_bits=2, slice_bits=2, adc_bits=3, noise_bits=2),
    "native, one bank": PimSpec("native", rows=4, columns=3, groups=2, weight_bits=4, mux=3,
                                activation_bits=2, slice_bits=2, adc_bits=4, double_buffer=False,
                                noise_bits=0),
}  # fmt: skip


def cell_image(cells: NDArray[np.int64], bit: int) -> int:
    """Return a bit of the cells of a group as one number, row 0 low."""
    return sum(1 << row for row, cell in enumerate(cells.tolist()) if cell >> bit & 1)


def codes_of(
    spec: PimSpec, values: NDArray[np.int64], transfer: NDArray[np.int64], noise: list[int]
) -> list[int]:
    """Return the codes of columns (section 1), given the noise of each."""
    return [
        min(max((int(table[value - spec.value_min]) + n + 8) // 16, spec.code_min), spec.code_max)
        for value, table, n in zip(values.tolist(), transfer, noise, strict=True)
    ]


def xorshift(state: int) -> int:
    """Return the next state (section 1)."""
    state ^= state << 13 & 0xFFFFFFFF
    state ^= state >> 17
    return state ^ state << 5 & 0xFFFFFFFF


@pytest.mark.parametrize("name", MACROS)
def test_macro_converts_as_the_page_says(name: str) -> None:
    """Codes show at q + 2: exact column value, own table, own noise, rounded half up, clamped."""
    spec = MACROS[name]
    dut = Macro(spec)
    rng = np.random.default_rng(len(name))
    top = 1 << spec.cell_bits
    low = -(top // 2) if spec.decomposition == "native" else 0
    cells = rng.integers(low, low + top, (spec.columns, spec.groups, spec.rows))
    span = np.arange(spec.value_min, spec.value_max + 1)
    transfer = span * 16 // 3 + rng.integers(-30, 30, (spec.columns, spec.entries))
    table = rng.integers(-40, 41, spec.noise_entries).tolist() if spec.noise_bits else []
    states = rng.integers(1, 1 << 32, spec.adcs).tolist()
    seen: set[int] = set()

    async def load(ctx: Any) -> None:
        ctx.set(dut.cells.write, 1)
        for column, group, bit in np.ndindex(spec.columns, spec.groups, spec.cell_bits):
            image = cell_image(cells[column, group], bit)
            for word in range(spec.row_words):
                ctx.set(dut.cells.column, column)
                ctx.set(dut.cells.group, group)
                ctx.set(dut.cells.bit, bit)
                ctx.set(dut.cells.word, word)
                ctx.set(dut.cells.data, image >> 64 * word & (1 << 64) - 1)
                await ctx.tick()
        ctx.set(dut.cells.write, 0)
        ctx.set(dut.tables.transfer_write, 1)
        for position, entry in np.ndindex(spec.mux, spec.entries):
            ctx.set(dut.tables.transfer_entry, position * spec.entries + entry)
            ctx.set(dut.tables.transfer, transfer[position :: spec.mux, entry].tolist())
            await ctx.tick()
        ctx.set(dut.tables.transfer_write, 0)
        for index, entry in enumerate(table):
            ctx.set(dut.tables.noise_write, 1)
            ctx.set(dut.tables.noise_entry, index)
            ctx.set(dut.tables.noise, entry)
            await ctx.tick()
        for index, state in enumerate(states if spec.noise_bits else []):
            ctx.set(dut.tables.noise_write, 0)
            ctx.set(dut.tables.state_write, 1)
            ctx.set(dut.tables.state_adc, index)
            ctx.set(dut.tables.state, state)
            await ctx.tick()
        if spec.noise_bits:
            ctx.set(dut.tables.state_write, 0)

    async def testbench(ctx: Any) -> None:
        await load(ctx)
        for step in range(6):
            group, bank = step % spec.groups, step % (1 + spec.double_buffer)
            driven = rng.integers(0, spec.slice_levels, spec.rows)
            ctx.set(dut.select, 1)
            ctx.set(dut.group, group)
            await ctx.tick()
            ctx.set(dut.select, 0)
            ctx.set(dut.rows, driven.tolist())
            ctx.set(dut.sample, 1)
            ctx.set(dut.sample_bank, bank)
            await ctx.tick()
            ctx.set(dut.sample, 0)
            values = cells[:, group] @ driven
            await convert(ctx, bank, values)

    async def convert(ctx: Any, bank: int, values: NDArray[np.int64]) -> None:
        shown: list[list[int]] = []
        expected: list[list[int]] = []
        ctx.set(dut.convert_bank, bank)
        for position in range(spec.mux + 2):
            ctx.set(dut.strobe, position < spec.mux)
            ctx.set(dut.position, position % spec.mux)
            shown.append([ctx.get(dut.codes[adc]) for adc in range(spec.adcs)])
            await ctx.tick()
            if position < spec.mux:
                if spec.noise_bits:
                    states[:] = map(xorshift, states)
                draws = [s >> 32 - spec.noise_bits for s in states] if spec.noise_bits else []
                noise = [table[draw] for draw in draws] or [0] * spec.adcs
                own = slice(position, None, spec.mux)
                expected.append(codes_of(spec, values[own], transfer[own], noise))
        assert expected == shown[2:]
        seen.update(code for codes in expected for code in codes)

    simulate(dut, testbench)
    assert len(seen) > 3


# -- shift-add -------------------------------------------------------------------------------------

UNITS = {
    "bit-serial, M = 2 P": PimSpec(rows=4, columns=12, weight_bits=3, mux=6, groups=2),
    "bit-serial, P = 2 M": PimSpec(rows=4, columns=9, weight_bits=4, mux=1, groups=2,
                                   activation_bits=4, slice_bits=2),
    "bit-serial, P = M": PimSpec(rows=4, columns=4, weight_bits=2, mux=2, groups=3),
    "differential, M = P": PimSpec("differential", rows=4, columns=4, mux=2, slice_bits=2),
    "differential, M = 1": PimSpec("differential", rows=4, columns=6, mux=1, slice_bits=4),
    "native": PimSpec("native", rows=4, columns=6, mux=3, activation_bits=6, slice_bits=3),
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_sums_are_those_of_weights_and_slices(name: str) -> None:
    """After the last conversion every accumulator holds sum D^s w code, at q + 4, `write` with it.

    Codes of any vector, idle cycles between conversions, extreme codes among them.
    """
    spec = UNITS[name]
    dut = ShiftAdd(spec)
    rng = np.random.default_rng(len(name))
    groups, P, M = 2, spec.planes, spec.mux
    weights = np.array(spec.plane_weights, dtype=np.int64)
    found: list[list[int]] = []
    expected: list[list[int]] = []

    async def testbench(ctx: Any) -> None:
        late: list[tuple[int, dict[str, int]]] = []  # cycle, and what shows in it
        cycle = 0

        async def advance(codes: list[int], number: int, add: dict[str, int] | None) -> None:
            nonlocal cycle
            ctx.set(dut.codes, codes)
            ctx.set(dut.number, number)
            due = late[0][1] if late and late[0][0] == cycle else {}
            ctx.set(dut.add, {"valid": 0} | due)
            if due:
                late.pop(0)
            if add is not None:
                late.append((cycle + 1, add))
            if ctx.get(dut.write):
                found.append([ctx.get(dut.sums[output]) for output in range(spec.outputs)])
            await ctx.tick()
            cycle += 1

        for vector in range(5):
            sums = np.zeros(spec.outputs, dtype=np.int64)
            for s, g, t in np.ndindex(spec.slices, groups, M):
                codes = rng.integers(spec.code_min, spec.code_max + 1, spec.adcs)
                if vector < 2:
                    codes[:] = (spec.code_min, spec.code_max)[vector]
                for adc, code in enumerate(codes.tolist()):
                    output, plane = divmod(adc * M + t, P)
                    if output < spec.outputs:
                        factor = spec.slice_levels ** (spec.slices - 1 - s)
                        sums[output] += factor * weights[plane] * code
                number = t % passes(spec)
                first, last = number == 0, number == passes(spec) - 1
                end = (s, g, t) == (spec.slices - 1, groups - 1, M - 1)
                add = {
                    "valid": 1, "clear": first and s == g == 0, "shift": first and g == 0,
                    "rotate": last, "write": end,
                }  # fmt: skip
                for _ in range(int(rng.integers(0, 3)) if vector else 0):
                    junk = rng.integers(spec.code_min, spec.code_max + 1, spec.adcs).tolist()
                    await advance(junk, int(rng.integers(passes(spec))), None)
                await advance(codes.tolist(), number, add)
            expected.append(sums.tolist())
        for _ in range(3):
            await advance([0] * spec.adcs, 0, None)

    simulate(dut, testbench)
    assert expected == found


# -- sequencer -------------------------------------------------------------------------------------


@dataclass
class Times:
    """Cycles in which steps are launched, sampled, converted from, and their last strobe."""

    launch: list[int]
    sample: list[int]
    begin: list[int]
    end: list[int]


def sequence(
    spec: PimSpec, vectors: int, groups: int, loaded: int, beats: list[int], issued: list[int]
) -> Times:
    """Return the cycles of section 5 as recurrences.

    `beats`: the cycle from which each group of each vector is usable; `issued`: the cycle of each
    vector's last output step.
    """
    times = Times([], [], [], [])
    banks = 1 + spec.double_buffer
    for i in range(vectors * spec.slices * groups):
        vector, within = divmod(i, spec.slices * groups)
        d = max(loaded, beats[vector * groups + within % groups])
        if i:
            d = max(d, times.launch[-1] + spec.row_cycles)
        if i >= banks:
            d = max(d, times.end[i - banks])
        c = d + spec.row_cycles + 1
        if i:
            c = max(c, times.end[-1] + 1)
        if within == 0 and vector >= spec.result_depth:
            c = max(c, issued[vector - spec.result_depth] + 1)
        times.launch.append(d)
        times.sample.append(d + spec.row_cycles)
        times.begin.append(c)
        times.end.append(c + spec.mux * spec.conversion_cycles - 1)
    return times


def sequencers() -> Iterator[PimSpec]:
    """Yield both numbers of banks, rows slower and faster than converters, and single cycles."""
    for double_buffer in (False, True):
        for row_cycles, conversion_cycles, mux in ((1, 1, 1), (1, 3, 2), (7, 1, 2), (4, 2, 2)):
            yield PimSpec(
                "native", rows=4, columns=4, groups=3, mux=mux, activation_bits=2,
                row_cycles=row_cycles, conversion_cycles=conversion_cycles,
                double_buffer=double_buffer, epilogue_lanes=1,
            )  # fmt: skip


def _name(spec: PimSpec) -> str:
    banks = 1 + spec.double_buffer
    return f"{banks} banks, {spec.row_cycles} against {spec.mux} x {spec.conversion_cycles}"


@pytest.mark.parametrize("late", [0, 40], ids=["free", "waits"])
@pytest.mark.parametrize("spec", list(sequencers()), ids=_name)
def test_steps_are_where_the_recurrences_put_them(spec: PimSpec, late: int) -> None:
    """Launches, samples and conversions obey section 5, with late beats and late outputs too.

    Without either, steps follow each other in `spec.period` cycles.
    """
    dut = Sequencer(spec)
    rng = np.random.default_rng(late + 1)
    vectors, groups, loaded = 4, 2, 3
    beats = np.sort(rng.integers(0, 1 + late, vectors * groups)).tolist()
    issued: list[int] = []
    for vector in range(vectors):
        done = sequence(spec, vector + 1, groups, loaded, beats, issued).end[-1] + 5
        issued.append(max(done, *issued, 0) + 1 + int(rng.integers(0, 1 + late)))
    times = sequence(spec, vectors, groups, loaded, beats, issued)
    got = Times([], [], [], [])
    strobes = 0

    async def testbench(ctx: Any) -> None:
        nonlocal strobes
        ctx.set(dut.start, 1)
        ctx.set(dut.job, {"m": vectors, "k": 5, "n": 4, "rows": 4})
        await ctx.tick()
        ctx.set(dut.start, 0)
        converting = False
        launched = 0  # beats whose first slice was launched
        for cycle in range(1, max(*times.end, *issued) + 6):
            ctx.set(dut.loaded, cycle >= loaded)
            ctx.set(dut.available, launched < len(beats) and cycle >= beats[launched])
            ctx.set(dut.vector_issued, cycle in issued)
            if ctx.get(dut.launch):
                got.launch.append(cycle)
                launched += ctx.get(dut.launch_first)
            if ctx.get(dut.sample):
                got.sample.append(cycle)
            strobe = ctx.get(dut.strobe)
            strobes += strobe
            if ctx.get(dut.convert) and not converting:
                got.begin.append(cycle)
            converting = ctx.get(dut.convert)
            if strobe and ctx.get(dut.position) == spec.mux - 1:
                got.end.append(cycle)
                converting = False
            await ctx.tick()

    simulate(dut, testbench)
    assert times == got
    assert strobes == spec.mux * len(times.end)
    if not late:
        assert {b - a for a, b in zip(got.end[2:], got.end[3:], strict=False)} == {spec.period}


# -- inputs ----------------------------------------------------------------------------------------


def test_rows_are_driven_slice_by_slice_and_unused_ones_with_zero() -> None:
    """Two vectors are held, the third waits for the first one's last launch; junk shows as 0."""
    spec = PimSpec(
        rows=5, columns=4, groups=3, mux=4, activation_bits=6, slice_bits=2, epilogue_lanes=1
    )
    dut = Inputs(spec)
    rng = np.random.default_rng(2)
    vectors, rows, k = 3, 4, 10
    codes = rng.integers(0, 64, (vectors, k))
    groups = -(-k // rows)
    beats = rng.integers(0, 64, (vectors * groups, spec.rows))
    for at in range(vectors * groups):
        vector, group = divmod(at, groups)
        own = codes[vector, group * rows : (group + 1) * rows]
        beats[at, : own.size] = own
    taken = 0

    async def testbench(ctx: Any) -> None:
        nonlocal taken
        ctx.set(dut.start, 1)
        ctx.set(dut.job, {"m": vectors, "k": k, "n": 1, "rows": rows})
        await ctx.tick()
        ctx.set(dut.start, 0)

        async def offer(launches: bool) -> None:
            """Advance a cycle in which the next beat is offered, if there is one."""
            nonlocal taken
            ctx.set(dut.i_x.valid, taken < len(beats))
            if taken < len(beats):
                word = sum(code << 6 * row for row, code in enumerate(beats[taken].tolist()))
                ctx.set(Value.cast(dut.i_x.payload), word)
            ctx.set(dut.launch, launches)
            moved = ctx.get(dut.i_x.valid & dut.i_x.ready)
            await ctx.tick()
            taken += moved

        for _ in range(2 * groups + 3):
            await offer(False)
        assert taken == 2 * groups
        for vector, number, group in np.ndindex(vectors, spec.slices, groups):
            last = (number, group) == (spec.slices - 1, groups - 1)
            ctx.set(dut.bank, vector % 2)
            ctx.set(dut.slice, number)
            ctx.set(dut.group, group)
            ctx.set(dut.launch_first, number == 0)
            ctx.set(dut.launch_last, last)
            assert number or ctx.get(dut.available)
            await offer(True)
            assert taken == (2 * groups if vector == 0 else taken)
            own = codes[vector, group * rows : (group + 1) * rows] >> 4 - 2 * number & 3
            shown = [ctx.get(dut.rows[row]) for row in range(spec.rows)]
            assert own.tolist() + [0] * (spec.rows - own.size) == shown
            if last and vector == 0:
                for _ in range(groups):
                    await offer(False)
        assert not ctx.get(dut.available)

    simulate(dut, testbench)
    assert taken == len(beats)
