# SPDX-License-Identifier: Apache-2.0
"""The table of engines and methods."""

from __future__ import annotations

import re

import pytest

from cosil.engines.topk import TopkSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.errors import UnknownNameError
from cosil.registry import ENGINES, METHODS, engine, engine_of, method, resolve, spec_from_table


def test_keys_are_the_names() -> None:
    """A name in the table is the name that its entry bears."""
    for table in (ENGINES, METHODS):
        assert [*table] == [entry.name for entry in table.values()]


def test_unknown_names_list_the_known_and_the_nearest() -> None:
    """A wrong name costs one look at the message, not a search."""
    with pytest.raises(UnknownNameError, match=r"^unknown engine 'w4a16'; known are w4a8") as error:
        engine("w4a16")
    assert error.value.hint == "did you mean w4a8?"
    known = ", ".join(METHODS)
    with pytest.raises(
        UnknownNameError, match=rf"^unknown method 'zzz'; known are {known}$"
    ) as far:
        method("zzz")
    assert far.value.hint == ""
    with pytest.raises(UnknownNameError, match=re.escape("unknown face 'rtlx'")):
        engine("w4a8").load("rtlx")


def test_spec_from_table_picks_the_engine() -> None:
    """The key `engine` of a spec file decides which spec reads the rest."""
    spec = spec_from_table({"engine": "w4a8", "array_rows": 4, "array_cols": 6})
    assert W4A8Spec(array_rows=4, array_cols=6) == spec
    with pytest.raises(UnknownNameError, match=r"^the spec names no engine; known are w4a8"):
        spec_from_table({"array_rows": 4})
    with pytest.raises(UnknownNameError, match=r"^unknown engine 3; known are w4a8"):
        spec_from_table({"engine": 3})


def test_engine_of_a_spec() -> None:
    """A spec leads back to its engine; what is no spec is refused."""
    assert [engine_of(spec).name for spec in (TopkSpec(), W4A8Spec())] == ["topk", "w4a8"]
    with pytest.raises(TypeError, match=r"^spec must be an engine's, not 'topk'$"):
        engine_of("topk")


def test_resolve() -> None:
    """An entry is a module, or an object in one."""
    assert resolve("cosil.engines.w4a8:W4A8Spec") is W4A8Spec
    assert resolve("cosil.engines.w4a8").W4A8Spec is W4A8Spec
