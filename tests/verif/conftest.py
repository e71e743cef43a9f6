# SPDX-License-Identifier: Apache-2.0
"""What the tests of all benches share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from verif.lib.toolchain import Simulator, available_simulators, find_simulator


@pytest.fixture
def hdl() -> Callable[[str], Simulator]:
    """Return a function that finds a simulator by name, or skips the test."""

    def find(name: str) -> Simulator:
        if name not in [simulator.name for simulator in available_simulators()]:
            pytest.skip(f"{name} is not installed")
        return find_simulator(name)

    return find
