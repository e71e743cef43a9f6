# SPDX-License-Identifier: Apache-2.0
"""The entry point that every engine's bench has; it loads no torch, Numba or Amaranth by itself."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from verif.lib.report import Outcome, Report

if TYPE_CHECKING:
    from verif.lib.cases import Case
    from verif.lib.toolchain import Simulator

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class BenchFace(Generic[S]):
    """`run` of the package ``verif.<engine>``, from its modules `check` and `generate`.

    Attributes
    ----------
    engine : str
        The stem.
    small : mapping of str to spec
        Small engines that cover every axis of the spec.
    """

    engine: str
    small: Mapping[str, S]

    def __call__(
        self,
        simulator: Simulator,
        *,
        spec: S | None = None,
        cases: int | Sequence[Case[Any]] = 52,
        seed: int = 0,
        done: Callable[[], None] = lambda: None,
    ) -> Report:
        """Run the bench, broken hardware included.

        Parameters
        ----------
        simulator : Simulator
            HDL simulator.
        spec : spec of the engine, optional
            Without one, all of `small`.
        cases : int or sequence of Case
            Random cases for each spec, or the cases themselves.
        seed : int
            First seed of the random cases.
        done : callable
            Called after each spec.

        Raises
        ------
        BenchError
            If a model does not build or its simulation does not run to its end.
        """
        check = importlib.import_module(f"verif.{self.engine}.check")
        generate = importlib.import_module(f"verif.{self.engine}.generate")
        start = time.perf_counter()
        outcomes: list[Outcome] = []
        for built in self.small.values() if spec is None else [spec]:
            if isinstance(cases, int):
                chosen = [generate.random_case(built, n) for n in range(seed, seed + cases)]
            else:
                chosen = list(cases)
            broken = generate.mutant_cases(built, check.streams(built))
            outcomes += check.verify(built, [*chosen, *broken], simulator)
            done()
        return Report(self.engine, simulator.name, outcomes, time.perf_counter() - start)
