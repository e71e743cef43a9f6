# SPDX-License-Identifier: Apache-2.0
"""Named models that carry a cost from one technology node to another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from energy_models.lib.tables import read_table

MODELS = ("stillmaker2017",)


def energy_factor(model: str, from_nm: float, from_v: float, to_nm: float, to_v: float) -> float:
    """Return what an energy at one node and voltage is multiplied by to stand for another.

    Parameters
    ----------
    model : {"stillmaker2017"}
        Ratio of the fitted energy factors, a quadratic in the supply voltage for each node.
    from_nm, to_nm : float
        Nodes; one that was not fitted is read as its nearest neighbour.
    from_v, to_v : float
        Supply voltages.

    Raises
    ------
    ValueError
        If the model is unknown.
    """
    nodes: dict[int, list[float]] = _model(model)["energy"]
    source, target = nodes[_nearest(nodes, from_nm)], nodes[_nearest(nodes, to_nm)]
    return _quadratic(target, to_v) / _quadratic(source, from_v)


def area_factor(model: str, from_nm: float, to_nm: float) -> float:
    """Return what an area at one node is multiplied by to stand for another."""
    nodes: dict[int, float] = _model(model)["area"]
    return nodes[_nearest(nodes, to_nm)] / nodes[_nearest(nodes, from_nm)]


def _model(name: str) -> dict[str, Any]:
    if name not in MODELS:
        raise ValueError(f"scaling must be one of {', '.join(MODELS)}, not {name!r}")
    return read_table("scaling")[name]


def _nearest(nodes: Iterable[int], node_nm: float) -> int:
    return min(nodes, key=lambda known: abs(math.log(known / node_nm)))


def _quadratic(coefficients: list[float], volt: float) -> float:
    a2, a1, a0 = coefficients
    return a2 * volt * volt + a1 * volt + a0
