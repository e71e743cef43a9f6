# SPDX-License-Identifier: Apache-2.0
"""Conversion, shift-add and accumulation, register by register (section 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosil.packed.generators import xorshift32_step
from sim.lib.kernel import inner
from sim.lib.record import Record, mark
from sim.pim.counts import ACCUMULATES, CONVERSIONS, DRAWS, MAC, RESULTS
from sim.pim.plan import (
    FIRST_CONVERSION,
    LAST_CONVERSION,
    Contents,
    Plan,
)

_xorshift = inner(xorshift32_step)

CONVERTER = np.dtype(
    [
        # The step that is converted next or now.
        ("vector", np.int64),
        ("slice", np.int64),
        ("group", np.int64),
        ("step", np.int64),
        ("left", np.int64),  # cycles of its conversion that are left, 0 before it begins
        ("reserved", np.int64),  # vectors with a place in the result store
        ("write", np.int64),  # of the result store, and read: numbers of vectors
        ("read", np.int64),
    ]
)

STAGE = np.dtype(
    [
        ("valid", np.int64),
        ("position", np.int64),
        ("shift", np.int64),  # of the slice
        ("first", np.int64),  # of the vector's first step, of its last conversion?
        ("last", np.int64),
    ]
)


class Convert(NamedTuple):
    """Registers from the converters to the result store.

    Attributes
    ----------
    converter : record array of CONVERTER, one entry
    stages : record array of STAGE, four entries
        What is in the registers behind the transfer memory, behind the ADC, behind shift-add, and
        in the accumulators.
    states : int64[A]
        Generators.
    sixteenths, noise : int64[A]
        Entry of the transfer table, and of the noise table, that was read for each ADC.
    codes : int64[A]
    parts : int64[A]
        Codes of planes that are converted together, signed, shifted and added: one for each of the
        A P / M outputs if P > M, else one for each ADC.
    acc : int64[n]
        Accumulators.
    results : int64[result_depth, n]
    """

    converter: Any
    stages: Any
    states: NDArray[np.int64]
    sixteenths: NDArray[np.int64]
    noise: NDArray[np.int64]
    codes: NDArray[np.int64]
    parts: NDArray[np.int64]
    acc: NDArray[np.int64]
    results: NDArray[np.int64]


def make_convert(plan: Plan, contents: Contents) -> Convert:
    """Return idle converters."""

    def adcs() -> NDArray[np.int64]:
        return np.zeros(plan.adcs, dtype=np.int64)

    states = contents.states.astype(np.int64)
    return Convert(
        np.zeros(1, dtype=CONVERTER).view(np.recarray),
        np.zeros(4, dtype=STAGE).view(np.recarray),
        states,
        adcs(), adcs(), adcs(), adcs(),
        np.zeros(plan.n, dtype=np.int64),
        np.zeros((plan.result_depth, plan.n), dtype=np.int64),
    )  # fmt: skip


@inner
def begin_conversion(plan: Plan, convert: Convert, sampled: bool, record: Record, t: int) -> bool:
    """Begin to convert the next step if it is sampled; return whether it waits for a result.

    Parameters
    ----------
    sampled : bool
        The step's sample is visible.
    """
    s = convert.converter[0]
    if s.left or not sampled:
        return False
    if s.slice == 0 and s.group == 0:
        if s.reserved == plan.result_depth:
            return True
        s.reserved += 1
        mark(record, s.vector, FIRST_CONVERSION, t)
    s.left = plan.mux * plan.conversion_cycles
    return False


@inner
def convert_cycle(
    plan: Plan,
    contents: Contents,
    convert: Convert,
    samples: NDArray[np.int64],
    record: Record,
    t: int,
) -> bool:
    """Clock converters and all behind them, downstream first; return whether a step is done.

    Parameters
    ----------
    samples : int64[columns]
        Sample of the step that is converted.
    """
    s = convert.converter[0]
    stages = convert.stages
    _write_result(plan, convert, record)
    _accumulate(plan, convert, record)
    _shift_add(plan, convert)
    stages[2] = stages[1]
    _quantise(plan, convert)
    stages[1] = stages[0]
    stages[0].valid = 0
    if s.left == 0:
        return False
    s.left -= 1
    if s.left % plan.conversion_cycles == 0:
        _address(plan, contents, convert, samples, record)
    if s.left:
        return False
    s.step += 1
    s.group += 1
    if s.group == plan.groups:
        s.group = 0
        s.slice += 1
        if s.slice == plan.slices:
            s.slice = 0
            mark(record, s.vector, LAST_CONVERSION, t)
            s.vector += 1
    return True


@inner
def _address(
    plan: Plan,
    contents: Contents,
    convert: Convert,
    samples: NDArray[np.int64],
    record: Record,
) -> None:
    """Read transfer and noise tables at the end of a position's conversion."""
    s = convert.converter[0]
    stage = convert.stages[0]
    position = plan.mux - 1 - s.left // plan.conversion_cycles
    stage.valid = 1
    stage.position = position
    stage.shift = (plan.slices - 1 - s.slice) * plan.slice_bits
    stage.first = s.slice == 0 and s.group == 0
    stage.last = s.left == 0 and s.group == plan.groups - 1 and s.slice == plan.slices - 1
    for adc in range(plan.adcs):
        if plan.noise_bits:
            convert.states[adc] = _xorshift(convert.states[adc])
            draw = convert.states[adc] >> (32 - plan.noise_bits)
            convert.noise[adc] = contents.noise[draw]
            record.counts[DRAWS] += 1
        column = adc * plan.mux + position
        if column < samples.size:
            value = samples[column] - plan.value_min
            convert.sixteenths[adc] = contents.transfer[column, value]
            record.counts[CONVERSIONS] += 1


@inner
def _quantise(plan: Plan, convert: Convert) -> None:
    """Round what was read to codes."""
    if not convert.stages[0].valid:
        return
    for adc in range(plan.adcs):
        code = (convert.sixteenths[adc] + convert.noise[adc] + 8) >> 4
        convert.codes[adc] = min(max(code, plan.code_min), plan.code_max)


@inner
def _shift_add(plan: Plan, convert: Convert) -> None:
    """Weigh the codes by plane and slice; add those of one output that are converted together."""
    stage = convert.stages[1]
    if not stage.valid:
        return
    for adc in range(convert.parts.size):
        convert.parts[adc] = 0
    for adc in range(plan.adcs):
        column = adc * plan.mux + stage.position
        output, plane = divmod(column, plan.planes)
        if output < plan.n:
            weighted = plan.plane_weights[plane] * convert.codes[adc] << stage.shift
            convert.parts[output if plan.planes > plan.mux else adc] += weighted


@inner
def _accumulate(plan: Plan, convert: Convert, record: Record) -> None:
    """Add the parts to the accumulators; the first part of an output's vector replaces the sum."""
    stage = convert.stages[2]
    convert.stages[3] = stage
    if not stage.valid:
        return
    for adc in range(plan.adcs):
        output, plane = divmod(adc * plan.mux + stage.position, plan.planes)
        # Of the ADCs that share an output, the first stands for all.
        if output >= plan.n or plane >= plan.mux:
            continue
        part = convert.parts[output if plan.planes > plan.mux else adc]
        first = stage.first and plane == 0
        convert.acc[output] = part + (0 if first else convert.acc[output])
        record.counts[ACCUMULATES] += 1


@inner
def _write_result(plan: Plan, convert: Convert, record: Record) -> None:
    """Write a vector's accumulators to the result store."""
    stage = convert.stages[3]
    if not stage.valid or not stage.last:
        return
    s = convert.converter[0]
    entry = convert.results[s.write % plan.result_depth]
    for output in range(plan.n):
        entry[output] = convert.acc[output]
    s.write += 1
    record.counts[RESULTS] += plan.n
    record.counts[MAC] += plan.n * plan.k
