# SPDX-License-Identifier: Apache-2.0
"""What holds for the energy model of every engine: which actions it prices, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.registry import ENGINES, resolve
from energy_models.lib.pricing import MEMORIES, EnergyModel
from energy_models.lib.technology import TECHNOLOGIES

SpecsOf = Callable[[str], Sequence[Any]]

MODELS: Mapping[str, EnergyModel[Any]] = {
    name: engine.load("energy") for name, engine in ENGINES.items()
}

NONE_IN_SOME = {"survivor memory"}
"""Parts that not every engine of a kind has."""


def test_default_memory_and_technology_are_known(specs_of: SpecsOf) -> None:
    """The first of each table is the default."""
    result = MODELS["w4a8"].energy(specs_of("w4a8")[0], {})
    assert (result.technology, result.memory) == (TECHNOLOGIES[0], MEMORIES[0])


@pytest.mark.parametrize("name", ENGINES)
def test_actions_are_those_that_the_simulator_counts(name: str) -> None:
    """Every counted action has a price and nothing else has one."""
    assert MODELS[name].engine == name
    assert set(resolve(f"sim.{name}.counts:NAMES")) == set(MODELS[name].actions)


@pytest.mark.parametrize("name", ENGINES)
@given(st.data())
def test_components_and_actions_sum_to_the_total(
    name: str, specs_of: SpecsOf, data: st.DataObject
) -> None:
    """No energy is lost between the two views, and the estimate lies in its range."""
    model = MODELS[name]
    counted = st.dictionaries(st.sampled_from(sorted(model.actions)), st.integers(0, 10**12))
    memory = data.draw(st.sampled_from(MEMORIES))
    result = model.energy(
        data.draw(st.sampled_from(specs_of(name))),
        data.draw(counted),
        technology=data.draw(st.sampled_from(TECHNOLOGIES)),
        memory=memory,
    )
    assert result.total_pj == pytest.approx(sum(result.components.values()))
    assert result.total_pj == pytest.approx(sum(result.actions.values()))
    assert result.low_pj <= result.total_pj <= result.high_pj
    assert all(value >= 0 for value in result.components.values())
    named = {component for component in result.components if "memory (" in component}
    assert named == ({f"memory ({memory})"} if result.memory == memory else set())
    assert result.memory in (memory, "none")


@pytest.mark.parametrize("name", ENGINES)
def test_every_action_costs_something(name: str, specs_of: SpecsOf) -> None:
    """No width makes an action free that has a price; parts of the area lie in their ranges."""
    model = MODELS[name]
    for spec in specs_of(name):
        for technology in TECHNOLOGIES:
            for counted, action in model.actions.items():
                total = model.energy(spec, {counted: 1}, technology=technology).total_pj
                assert total == 0 if action.free else total > 0
            area = model.area(spec, technology=technology)
            for estimate in area.values():
                assert 0 <= estimate.low <= estimate.value <= estimate.high
            free = [part for part, estimate in area.items() if estimate.low == 0]
            assert set(free) <= NONE_IN_SOME


@pytest.mark.parametrize("name", ENGINES)
def test_unknown_names_are_refused(name: str, specs_of: SpecsOf) -> None:
    """A misspelt count, table or memory never counts as zero."""
    model, spec = MODELS[name], specs_of(name)[0]
    known = ", ".join(model.actions)
    with pytest.raises(ValueError, match=rf"^{name}: unknown action 'zzz'; known are {known}$"):
        model.energy(spec, {"zzz": 1})
    with pytest.raises(ValueError, match=r"^technology must be one of asap7, .*, not 'tsmc'$"):
        model.energy(spec, {}, technology="tsmc")
    with pytest.raises(ValueError, match=r"^technology must be one of asap7, .*, not 'tsmc'$"):
        model.area(spec, technology="tsmc")
    with pytest.raises(ValueError, match=r"^memory must be one of lpddr4, .*, not 'hbm9'$"):
        model.energy(spec, {}, memory="hbm9")
