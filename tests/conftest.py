# SPDX-License-Identifier: Apache-2.0
"""Settings of every test run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from cosil.registry import ENGINES, resolve

# Before torch or numba is imported: two workers with a thread per core each would fight for them.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples everywhere, so that a red run elsewhere is red here; `thorough` is for looking.
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder that COSIL_DATA names; a test that needs it is skipped without."""
    named = os.environ.get("COSIL_DATA")
    if not named:
        pytest.skip("COSIL_DATA names no folder with the data sets")
    folder = Path(named)
    assert folder.is_dir(), f"COSIL_DATA must name a folder, not {named!r}"
    return folder


@pytest.fixture(scope="session")
def specs_of() -> Callable[[str], Sequence[Any]]:
    """Return a function: an engine's name -> its default spec, and those that its bench builds.

    Together they have every axis of the spec.
    """

    def found(name: str) -> Sequence[Any]:
        built = resolve(f"verif.{name}.specs")
        return [ENGINES[name].load("spec")(), *built.SMALL.values(), *built.LARGE.values()]

    return found
