# SPDX-License-Identifier: Apache-2.0
"""Bench of the W4A8 array (docs/engines/w4a8.md): `run` compares reference, simulator and hardware.

This module is imported inside the simulator too, so it loads neither torch nor Numba by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from verif.w4a8.specs import SMALL

if TYPE_CHECKING:
    from cosil.engines.w4a8 import W4A8Spec
    from verif.lib.report import Outcome, Report
    from verif.lib.toolchain import Simulator
    from verif.w4a8.cases import Case

__all__ = ["SMALL", "run"]


def run(
    simulator: Simulator,
    *,
    spec: W4A8Spec | None = None,
    cases: int | Sequence[Case] = 52,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Report:
    """Run the bench, broken hardware included.

    Parameters
    ----------
    simulator : Simulator
        HDL simulator.
    spec : W4A8Spec, optional
        The array; without one, six small ones that cover every axis of the spec.
    cases : int or sequence of Case
        Random cases for each array, or the cases themselves.
    seed : int
        First seed of the random cases.
    done : callable
        Called after each array.

    Raises
    ------
    BenchError
        If a model does not build or its simulation does not run to its end.
    """
    from verif.lib.check import report
    from verif.w4a8.check import streams, verify
    from verif.w4a8.generate import mutant_cases, random_case

    def check(array: W4A8Spec) -> list[Outcome]:
        if isinstance(cases, int):
            chosen = [random_case(array, number) for number in range(seed, seed + cases)]
        else:
            chosen = list(cases)
        return verify(array, [*chosen, *mutant_cases(array, streams(array))], simulator)

    return report("w4a8", simulator, [spec] if spec else SMALL.values(), check, done)
