# SPDX-License-Identifier: Apache-2.0
"""Every engine has every face, under one stem."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from cosil.registry import ENGINES, FACES, METHODS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "spec": "cosil/engines",
    "reference": "algos/reference",
    "simulator": "sim",
    "rtl": "rtl",
    "bench": "verif",
    "energy": "energy_models",
}
TESTS = {
    "spec": "engines/test_{}.py",
    "reference": "algos/test_reference_{}.py",
    "simulator": "sim/test_{}.py",
    "rtl": "rtl/test_{}.py",
    "bench": "verif/test_{}.py",
    "energy": "energy_models/test_{}.py",
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", ENGINES)
def test_face_exists_under_the_stem(name: str, face: str) -> None:
    """A reader who knows one engine finds every file of the next."""
    base = ROOT / FOLDERS[face] / name
    assert base.with_suffix(".py").exists() or (base / "__init__.py").exists()
    module = ENGINES[name].faces()[face].partition(":")[0]
    assert module == f"{FOLDERS[face].replace('/', '.')}.{name}"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", ENGINES)
def test_face_loads(name: str, face: str) -> None:
    """The registry's string leads to an object, and those that take a spec take it first."""
    entry = ENGINES[name].load(face)
    if face in ("reference", "simulator", "rtl"):
        assert next(iter(inspect.signature(entry).parameters)) == "spec"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", ENGINES)
def test_face_has_its_tests(name: str, face: str) -> None:
    """What holds for one engine only is tested under its stem, beside what holds for all."""
    assert (ROOT / "tests" / TESTS[face].format(name)).exists()


@pytest.mark.parametrize("name", ENGINES)
def test_engine_has_its_page(name: str) -> None:
    """The contract of an engine is its page."""
    assert (ROOT / "docs" / "engines" / f"{name}.md").exists()


@pytest.mark.parametrize("name", METHODS)
def test_method_loads(name: str) -> None:
    """The registry's string leads to a function whose engines exist."""
    assert callable(METHODS[name].load())
    assert set(METHODS[name].engines) <= set(ENGINES)
