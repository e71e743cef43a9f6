# SPDX-License-Identifier: Apache-2.0
"""Test cases of the W4A8 bench, and how they cross into the simulator's process.

That process imports neither torch nor Numba, so what is expected is computed before and travels
along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.w4a8 import Job, Operands
from verif.lib.bench import HarnessMap
from verif.lib.mutants import Mutant

STREAMS = ("a_req", "a", "w_req", "w", "s_req", "s", "e_req", "e", "r_req", "r", "y")
"""Streams that a stall pattern can name (section 7)."""


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What reference and simulator say of one job.

    Attributes
    ----------
    y : uint16[M, N]
        Result bits of the reference; an int8 is sign-extended.
    cycles : int
    counts : mapping of str to int
        Action counts.
    causes : mapping of str to int
        Cycles by cause.
    """

    y: NDArray[np.uint16]
    cycles: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Jobs that run one after the other, without a pause, after a reset.

    Attributes
    ----------
    name : str
        Unique in a run; holds the seed.
    jobs : sequence of (Job, Operands)
    stalls : mapping of str to bool[...]
        Patterns by stream; each job begins them anew.
    latency : int
        Memory latency in cycles.
    mutant, mutant_stream : Mutant, str
        Broken hardware, and the device's stream that it is on.
    """

    name: str
    jobs: Sequence[tuple[Job, Operands]]
    stalls: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict[str, Any])
    latency: int = 2
    mutant: Mutant = Mutant.NONE
    mutant_stream: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """All that the simulator's process needs.

    Attributes
    ----------
    spec : W4A8Spec
    wiring : HarnessMap
    cases : sequence of Case
    expected : sequence of sequence of Expected
        By case and job.
    """

    spec: W4A8Spec
    wiring: HarnessMap
    cases: Sequence[Case]
    expected: Sequence[Sequence[Expected]]

    def save(self, path: Path) -> None:
        """Write an npz file; nothing in it is pickled."""
        arrays: dict[str, NDArray[Any]] = {}
        cases: list[dict[str, Any]] = []
        for i, (case, expected) in enumerate(zip(self.cases, self.expected, strict=True)):
            jobs: list[dict[str, Any]] = []
            for j, ((job, operands), want) in enumerate(zip(case.jobs, expected, strict=True)):
                arrays |= {f"{i}.{j}.{n}": getattr(operands, n) for n in "awser"}
                arrays[f"{i}.{j}.y"] = want.y
                jobs.append(
                    {
                        "job": asdict(job), "cycles": want.cycles, "counts": dict(want.counts),
                        "causes": dict(want.causes),
                    }
                )  # fmt: skip
            arrays |= {f"{i}.stall.{name}": row for name, row in case.stalls.items()}
            cases.append(
                {
                    "name": case.name, "latency": case.latency, "jobs": jobs,
                    "stalls": sorted(case.stalls), "mutant": int(case.mutant),
                    "mutant_stream": case.mutant_stream,
                }
            )  # fmt: skip
        text = json.dumps(
            {"spec": asdict(self.spec), "wiring": self.wiring._asdict(), "cases": cases}
        )
        np.savez(path, manifest=np.array(text), **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: Path) -> Batch:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            manifest = json.loads(str(arrays["manifest"]))
            cases: list[Case] = []
            expected: list[list[Expected]] = []
            for i, entry in enumerate(manifest["cases"]):
                jobs: list[tuple[Job, Operands]] = []
                wants: list[Expected] = []
                for j, row in enumerate(entry["jobs"]):
                    images = {n: arrays[f"{i}.{j}.{n}"] for n in "awser"}
                    jobs.append((Job(**row["job"]), Operands(**images)))
                    wants.append(
                        Expected(arrays[f"{i}.{j}.y"], row["cycles"], row["counts"], row["causes"])
                    )
                stalls = {name: arrays[f"{i}.stall.{name}"] for name in entry["stalls"]}
                expected.append(wants)
                cases.append(
                    Case(
                        entry["name"], jobs, stalls, entry["latency"], Mutant(entry["mutant"]),
                        entry["mutant_stream"],
                    )
                )  # fmt: skip
        return cls(
            W4A8Spec.from_dict(manifest["spec"]), HarnessMap(**manifest["wiring"]), cases, expected
        )
