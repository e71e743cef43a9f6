# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

import numpy as np

from algos.reference.xnor import reference
from cosil.engines.xnor import XnorSpec
from rtl.xnor import Xnor
from sim.xnor import run
from verif.lib.cases import Expected
from verif.lib.check import EngineCheck
from verif.lib.harness import Harness
from verif.xnor.cases import MILESTONES, Case, result_beats
from verif.xnor.mutants import flipped_bits


def _harness(spec: XnorSpec) -> Harness:
    """Return the array in a harness whose flipped bits matter (`verif.xnor.mutants`)."""
    return Harness(Xnor(spec), observed="o_events", flipped_bits=flipped_bits(spec))


def expect(spec: XnorSpec, case: Case) -> list[Expected]:
    """Return the reference's results as beats, and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If the simulator's results are not the reference's: then there is nothing to compare with.
    """
    expected: list[Expected] = []
    for job, operands in case.jobs:
        got = run(spec, job, operands, stalls=case.stalls, step=True, trace=True)
        y = reference(spec, job, operands).numpy()
        if got.y.dtype != y.dtype or not np.array_equal(got.y, y):
            raise AssertionError(
                f"{case.name}: simulator and reference differ before any hardware ran"
            )
        milestones = {name: got.events[name].tolist() for name in MILESTONES}
        beats = result_beats(spec, y.tolist())
        expected.append(Expected(beats, got.cycles, milestones, got.counts, got.cycles_by_cause))
    return expected


_CHECK = EngineCheck("xnor", _harness, expect)
streams, verify = _CHECK.streams, _CHECK.verify
