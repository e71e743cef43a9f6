# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

import numpy as np

from algos.reference.w4a8 import reference
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from rtl.w4a8 import W4A8
from sim.w4a8 import run
from verif.lib.check import EngineCheck
from verif.lib.harness import Harness
from verif.w4a8.cases import Case, Expected


def _harness(spec: W4A8Spec) -> Harness:
    """Return the array in a harness whose flipped bits matter: signs, an address, a result."""
    flipped = {
        # Bit 0 of y_base: any other word could make a job that never ends, or the same job.
        "i_job": 12 * 32,
        "i_a": 7, "i_w": 3, "i_s": 15, "i_e": 31, "i_r": 31,
        "o_y": 32,
    }  # fmt: skip
    return Harness(W4A8(spec), observed="o_events", flipped_bits=flipped)


def expect(spec: W4A8Spec, case: Case, job: Job, operands: Operands) -> Expected:
    """Return the reference's bits and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If the simulator's bits are not the reference's: then there is nothing to compare with.
    """
    result = run(spec, job, operands, stalls=case.stalls, memory_latency=case.latency, step=True)
    y = reference(spec, job, operands).numpy()
    bits = _bits(y)
    if not np.array_equal(bits, _bits(result.y)):
        raise AssertionError(f"{case.name}: simulator and reference differ before any hardware ran")
    return Expected(bits, result.cycles, result.counts, result.cycles_by_cause)


def _bits(y: np.ndarray) -> np.ndarray:
    if y.dtype == np.float16:
        bits = y.view(np.uint16)
        return np.where(np.isnan(y), np.uint16(0x7E00), bits)
    return y.astype(np.int16).view(np.uint16)


def _expect_all(spec: W4A8Spec, case: Case) -> list[Expected]:
    return [expect(spec, case, *job) for job in case.jobs]


_CHECK = EngineCheck("w4a8", _harness, _expect_all)
streams, verify = _CHECK.streams, _CHECK.verify
