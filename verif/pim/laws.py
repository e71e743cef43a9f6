# SPDX-License-Identifier: Apache-2.0
"""The macro's laws of time (docs/engines/pim.md, section 5) held to what a monitor saw.

They need no simulator: a model and a hardware that are wrong in the same way break them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cosil.engines.pim import CONVERT_LATENCY, PimSpec
from cosil.lowering.pim import FLAG_NOISE, FLAG_TRANSFER, FLAG_WEIGHTS, Job


@dataclass(slots=True)
class Seen:
    """Cycles of a job in which something was seen.

    Attributes
    ----------
    launch, sample : list of int
        d of each step, and its sample, u - 1.
    convert : list of int
        All cycles in which something is converted.
    write : list of int
        f of each vector.
    output : list of int
        Each transfer of o_y.
    """

    launch: list[int] = field(default_factory=list[int])
    sample: list[int] = field(default_factory=list[int])
    convert: list[int] = field(default_factory=list[int])
    write: list[int] = field(default_factory=list[int])
    output: list[int] = field(default_factory=list[int])


def milestones(spec: PimSpec, job: Job, seen: Seen) -> dict[str, list[int]]:
    """Return the cycles of each vector, by the names of `verif.pim.cases.MILESTONES`."""
    steps = spec.steps(job.k, job.rows)
    converted = steps * spec.convert_cycles
    outputs = -(-job.n // spec.epilogue_lanes)
    return {
        "first_launch": seen.launch[::steps],
        "last_launch": seen.launch[steps - 1 :: steps],
        "first_conversion": seen.convert[::converted],
        "last_conversion": seen.convert[converted - 1 :: converted],
        "last_output": seen.output[outputs - 1 :: outputs],
    }


def has_closed_form(spec: PimSpec, job: Job) -> bool:
    """Whether outputs leave fast enough for the laws of a job without stalls."""
    return -(-job.n // spec.epilogue_lanes) <= spec.steps(job.k, job.rows) * spec.period


def broken_laws(spec: PimSpec, job: Job, seen: Seen, cycles: int, *, stalled: bool) -> list[str]:
    """Return which laws a job broke, in words.

    Parameters
    ----------
    spec : PimSpec
        The macro.
    job : Job
        What ran, to its end.
    seen : Seen
        What a monitor saw of it.
    cycles : int
        Cycles of the job.
    stalled : bool
        A stream had stalls, so that only the order of things is known.
    """
    steps = job.m * spec.steps(job.k, job.rows)
    counts = {
        "launch": steps, "sample": steps, "convert": steps * spec.convert_cycles, "write": job.m,
        "output": job.m * -(-job.n // spec.epilogue_lanes),
    }  # fmt: skip
    broken = [
        f"{name}: {len(getattr(seen, name))} seen, not {count}"
        for name, count in counts.items()
        if len(getattr(seen, name)) != count
    ]
    if broken:
        return broken
    of = {name: np.array(getattr(seen, name)) for name in counts}
    laws = _order(spec, job, of)
    if not stalled and has_closed_form(spec, job):
        laws |= _closed_form(spec, job, of, cycles)
    return [f"law broken: {law}" for law, holds in laws.items() if not holds]


def _order(spec: PimSpec, job: Job, of: Mapping[str, NDArray[np.int64]]) -> dict[str, bool]:
    """Return the laws that stalls leave alone."""
    launch = of["launch"]
    converts = of["convert"].reshape(-1, spec.convert_cycles)
    begin, end = converts[:, 0], converts[:, 0] + spec.convert_cycles
    banks = 2 if spec.double_buffer else 1
    last = converts[:, -1].reshape(job.m, -1)[:, -1]
    return {
        "d(i) >= d(i-1) + t_row": bool((np.diff(launch) >= spec.row_cycles).all()),
        "d(i) >= e(i-banks) - 1": bool((launch[banks:] >= end[:-banks] - 1).all()),
        "u = d + t_row + 1": bool((of["sample"] == launch + spec.row_cycles).all()),
        "c >= u": bool((begin >= of["sample"] + 1).all()),
        "e = c + M t_conv": bool((converts[:, -1] == end - 1).all()),
        "f = q + 4": bool((of["write"] == last + CONVERT_LATENCY).all()),
    }


def _closed_form(
    spec: PimSpec, job: Job, of: Mapping[str, NDArray[np.int64]], cycles: int
) -> dict[str, bool]:
    """Return II, of conversions and outputs, and the full latency."""
    loads = {
        "load_weights": job.has(FLAG_WEIGHTS), "load_transfer": job.has(FLAG_TRANSFER),
        "load_noise": job.has(FLAG_NOISE),
    }  # fmt: skip
    shape = (job.k, job.n, job.rows)
    interval = spec.interval(*shape)
    laws = {"cycles": cycles == spec.latency(job.m, *shape, **loads)}
    load = max(spec.load_beats(*shape, **loads).values())
    laws["d(0) = L + 1"] = bool(of["launch"][0] == load + 1)
    # Launches are left out: with two banks, the first steps run ahead of the converters.
    for name in ("convert", "write", "output"):
        per_vector = of[name].reshape(job.m, -1)[:, -1]
        laws[f"II of {name}"] = bool((np.diff(per_vector) == interval).all())
    steps = of["convert"].reshape(-1, spec.convert_cycles)[:, 0]
    laws["T from step to step"] = bool((np.diff(steps) == spec.period).all())
    return laws
