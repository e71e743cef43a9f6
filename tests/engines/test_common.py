# SPDX-License-Identifier: Apache-2.0
"""What holds for the spec of every engine: its name, its files, and refusals of wrong values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from cosil.registry import ENGINES, engine_of, spec_from_table

SpecsOf = Callable[[str], Sequence[Any]]


@pytest.mark.parametrize("name", ENGINES)
def test_spec_is_a_value(name: str, specs_of: SpecsOf) -> None:
    """A spec bears its engine's name, compares and hashes by its fields, and does not change."""
    default, *others = specs_of(name)
    assert default.ENGINE == name
    assert engine_of(default).name == name
    assert type(default)() == default
    assert hash(type(default)()) == hash(default)
    assert len({*others}) == len(others)
    field = fields(default)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(default, field, getattr(default, field))
    assert not hasattr(default, "__dict__")


@pytest.mark.parametrize("name", ENGINES)
def test_spec_files_round_trip(name: str, tmp_path: Path, specs_of: SpecsOf) -> None:
    """A spec written as TOML reads back equal, and its first line is the engine's name."""
    path = tmp_path / "spec.toml"
    for spec in specs_of(name):
        path.write_text(spec.to_toml(), encoding="utf-8")
        assert spec == type(spec).from_toml(path)
        table = tomllib.loads(spec.to_toml())
        assert spec == spec_from_table(table)
        assert [*table] == ["engine", *(field.name for field in fields(spec))]
        assert table["engine"] == name


@pytest.mark.parametrize("name", ENGINES)
def test_unknown_keys_list_the_known_ones(name: str) -> None:
    """A misspelt parameter never means the default."""
    kind = ENGINES[name].load("spec")
    known = ", ".join(field.name for field in fields(kind))
    with pytest.raises(ValueError, match=rf"^{name}: unknown parameter 'zzz'; known are {known}$"):
        kind.from_dict({"engine": name, "zzz": 3})


@pytest.mark.parametrize("name", ENGINES)
def test_wrong_kinds_are_refused(name: str) -> None:
    """A bool is no number, a number no bool, and a word has to be one of the legal ones."""
    kind = ENGINES[name].load("spec")
    for field in fields(kind):
        key, default = field.name, field.default
        wrong: Any
        if isinstance(default, bool):
            wrong, error, message = 1, TypeError, f"{name}: {key} must be a bool, not 1"
        elif isinstance(default, int):
            wrong, error, message = True, TypeError, f"{name}: {key} must be an int, not True"
        else:
            wrong, error, message = "zzz", ValueError, f"{name}: {key} must be one of '"
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            kind.from_dict({key: wrong})
