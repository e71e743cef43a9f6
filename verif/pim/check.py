# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

import numpy as np

from algos.reference.pim import reference
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_NOISE
from rtl.pim import Pim
from sim.pim import run
from verif.lib.cases import Expected
from verif.lib.check import EngineCheck
from verif.lib.harness import Harness
from verif.pim.cases import MILESTONES, Case, result_beats
from verif.pim.generate import flipped_bits


def _harness(spec: PimSpec) -> Harness:
    """Return the macro in a harness whose flipped bits matter (`verif.pim.generate`)."""
    return Harness(Pim(spec), observed="o_events", flipped_bits=flipped_bits(spec))


def expect(spec: PimSpec, case: Case) -> list[Expected]:
    """Return the reference's results as beats, and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If the simulator's results or generators are not the reference's, or a job does not begin
        with the generators as the job before left them: then there is nothing to compare with.
    """
    expected: list[Expected] = []
    states = np.zeros(0, dtype=np.uint32)
    for job, operands in case.jobs:
        if not job.has(FLAG_NOISE) and not np.array_equal(states, operands.states):
            raise AssertionError(f"{case.name}: the states are not those of the job before")
        got = run(spec, job, operands, stalls=case.stalls, step=True, trace=True)
        want = reference(spec, job, operands)
        y, states = want.y.numpy(), want.states.numpy().astype(np.uint32)
        if not (
            got.y.dtype == y.dtype
            and np.array_equal(got.y, y)
            and np.array_equal(got.states, states)
        ):
            raise AssertionError(
                f"{case.name}: simulator and reference differ before any hardware ran"
            )
        milestones = {name: got.events[name].tolist() for name in MILESTONES}
        beats = result_beats(spec, y.tolist())
        expected.append(Expected(beats, got.cycles, milestones, got.counts, got.cycles_by_cause))
    return expected


_CHECK = EngineCheck("pim", _harness, expect)
streams, verify = _CHECK.streams, _CHECK.verify
