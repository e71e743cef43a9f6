# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

import numpy as np
import torch

from algos.reference.topk import reference
from cosil.engines.topk import TopkSpec
from rtl.topk import Topk
from sim.topk import items, run
from verif.lib.check import EngineCheck
from verif.lib.harness import Harness
from verif.topk.cases import MILESTONES, Case, Expected, item_beats


def _harness(spec: TopkSpec) -> Harness:
    """Return the engine in a harness whose flipped bits matter: k, the first key's top bit, a key.

    Another n would only make the engine wait for rows.
    """
    flipped = {"i_job": 32, "i_keys": spec.key_bits - 1, "o_items": 0}
    return Harness(Topk(spec), observed="o_events", flipped_bits=flipped)


def expect(spec: TopkSpec, case: Case) -> Expected:
    """Return the reference's items as beats, and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If the simulator's items are not the reference's: then there is nothing to compare with.
    """
    result = run(spec, case.jobs, stalls=case.stalls, step=True)
    beats: list[int] = []
    for (keys, k), got in zip(case.jobs, items(result), strict=True):
        values, indices = (part.numpy() for part in reference(spec, torch.from_numpy(keys), k))
        if not (np.array_equal(values, got["key"]) and np.array_equal(indices, got["index"])):
            raise AssertionError(
                f"{case.name}: simulator and reference differ before any hardware ran"
            )
        beats += item_beats(spec, values.tolist(), indices.tolist())
    milestones = {name: result.jobs[name].tolist() for name in MILESTONES}
    return Expected(beats, milestones, result.counts, result.cycles_by_cause)


_CHECK = EngineCheck("topk", _harness, expect)
streams, verify = _CHECK.streams, _CHECK.verify
