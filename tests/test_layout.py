# SPDX-License-Identifier: Apache-2.0
"""Guards of the flat packages: their names are generic, so nothing else may claim them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def sources() -> list[Path]:
    folders = [*PACKAGES, "benchmarks", "tests", "docs"]
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_package_resolves_inside_this_checkout(package: str) -> None:
    """`import sim` is this checkout's `sim`, whatever else is installed."""
    module = importlib.util.find_spec(package)
    assert module is not None
    assert module.origin is not None
    assert ROOT / package == Path(module.origin).parent


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_the_name(package: str) -> None:
    """PyPI has distributions that install `rtl`, `verif` and `algos`; two would mix their files."""
    owners = set(importlib.metadata.packages_distributions().get(package, []))
    assert owners <= {"cosil"}


def test_nothing_can_be_uploaded() -> None:
    """A wheel that claims `sim` and `rtl` must never reach PyPI."""
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


def test_tests_are_no_package() -> None:
    """With an `__init__.py`, `tests/sim` would become the package `sim`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_source_file_names_its_licence() -> None:
    """The SPDX line comes first."""
    missing = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.stat().st_size > 0
        and path.read_text(encoding="utf-8").split("\n", 1)[0]
        != "# SPDX-License-Identifier: Apache-2.0"
    ]
    assert missing == []


def test_no_file_is_longer_than_500_lines() -> None:
    """A file that outgrows 500 lines becomes a folder."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert long == {}


def test_modules_are_not_named_like_the_standard_library() -> None:
    """`python sim/queue.py` would put a `queue` before the standard one."""
    clashes = {"types", "queue", "random", "signal", "statistics", "code", "select", "token"}
    assert [str(path) for path in sources() if path.stem in clashes] == []


def test_constraints_pin_every_dependency_exactly() -> None:
    """What `make` installs today it installs next year: each dependency has one version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {name.lower().replace("_", "-") for name in pins}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted += project["optional-dependencies"]["fpga"]
    names = {re.split(r"[\[<>=!~ ]", entry)[0].lower().replace("_", "-") for entry in wanted}
    assert names <= pinned
