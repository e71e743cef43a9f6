# SPDX-License-Identifier: Apache-2.0
"""What a conversion of an analog-to-digital converter costs, under each of five published models.

They disagree by 13 to 60 times at 32 nm, so none of them stands alone: a report gives the cost
under each and the range. Coefficients, units, nodes and sources are data
(energy_models/tables/adc.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from energy_models.lib.scaling import area_factor, energy_factor
from energy_models.lib.tables import read_table
from energy_models.lib.technology import Estimate, interpolate


@dataclass(frozen=True, slots=True)
class Converter:
    """A converter to be priced.

    Attributes
    ----------
    bits : int
        Resolution, taken as its effective number of bits.
    rate_hz : float
        Conversions per second of this one converter.
    node_nm, voltage_v : float
        Technology.
    """

    bits: int
    rate_hz: float
    node_nm: float
    voltage_v: float


# -- energy in pJ of one conversion, at the model's own node where it has one ----------------------


def _survey_regression_pj(table: Mapping[str, Any], adc: Converter) -> float:
    bits = max(adc.bits, table["bits_min"])
    # Schreier's figure of merit: at low rates a level for each resolution, above a corner a slope.
    fom_db = min(
        table["fom_db_offset"] + table["fom_db_per_ln_hz"] * math.log(adc.rate_hz),
        table["fom_db_limit_offset"] + table["fom_db_limit_per_bit"] * bits,
    )
    sndr_db = table["sndr_db_per_bit"] * bits + table["sndr_db_offset"]
    correction = (
        table["energy_offset"]
        + table["node_exponent"] * math.log(adc.node_nm)
        + table["bits_exponent"] * math.log(bits)
    )
    return 0.5 * 10 ** ((sndr_db - fom_db) / 10) * math.exp(correction)


def _closed_form_pj(table: Mapping[str, Any], adc: Converter) -> float:
    femtojoules = table["linear_fj_per_v2"] * adc.bits
    femtojoules += table["exponential_fj_per_v2"] * 4**adc.bits
    return femtojoules * table["voltage_v"] ** 2 / 1e3


def _isaac_pj(table: Mapping[str, Any], adc: Converter) -> float:
    return interpolate(table["energy_pj"], adc.bits)


def _neurosim_sar_pj(table: Mapping[str, Any], adc: Converter) -> float:
    nodes: Mapping[int, Mapping[str, float]] = table["nodes"]
    fit = nodes[min(nodes, key=lambda node: abs(math.log(node / adc.node_nm)))]
    column = fit["column_w"] * math.exp(-fit["column_exponent"] * math.log10(table["column_ohm"]))
    watts = fit["power_w_per_bit"] * adc.bits + fit["power_w"] + column
    return watts * (adc.bits + 1) * table["cycle_s"] * 1e12


def _survey_envelope_pj(table: Mapping[str, Any], adc: Converter) -> float:
    return table["constant_pj"] + table["noise_pj"] * 4**adc.bits


# -- area in um2 of one converter ------------------------------------------------------------------


def _survey_regression_um2(table: Mapping[str, Any], adc: Converter) -> float:
    return math.exp(
        table["area_offset"]
        + table["area_node_exponent"] * math.log(adc.node_nm)
        + table["area_rate_exponent"] * math.log(adc.rate_hz)
        + table["area_energy_exponent"] * math.log(_survey_regression_pj(table, adc))
    )


def _closed_form_um2(table: Mapping[str, Any], adc: Converter) -> float:
    exponent = table["area_log10_per_bit"] * adc.bits + table["area_log10_offset"]
    return 10**exponent * 2**adc.bits


def _isaac_um2(table: Mapping[str, Any], adc: Converter) -> float:
    return interpolate(table["area_um2"], adc.bits)


_Formula = Callable[[Mapping[str, Any], Converter], float]

_ENERGY: Mapping[str, _Formula] = MappingProxyType(
    {
        "survey_regression": _survey_regression_pj,
        "closed_form": _closed_form_pj,
        "isaac": _isaac_pj,
        "neurosim_sar": _neurosim_sar_pj,
        "survey_envelope": _survey_envelope_pj,
    }
)
_AREA: Mapping[str, _Formula] = MappingProxyType(
    {
        "survey_regression": _survey_regression_um2,
        "closed_form": _closed_form_um2,
        "isaac": _isaac_um2,
    }
)

MODELS = tuple(_ENERGY)
"""Names of the models, in the order of reports."""

AREA_MODELS = tuple(_AREA)
"""Those that give an area too."""


def energy_pj(model: str, adc: Converter) -> Estimate:
    """Return the energy of one conversion under a model.

    Raises
    ------
    ValueError
        If the model is unknown; the message lists those known.
    """
    table = _table(model, MODELS)
    factor = 1.0
    if table["scaling"] == "stillmaker2017":
        factor = energy_factor(
            table["scaling"], table["node_nm"], table["voltage_v"], adc.node_nm, adc.voltage_v
        )
    return _estimate(_ENERGY[model](table, adc) * factor, table)


def area_um2(model: str, adc: Converter) -> Estimate:
    """Return the area of one converter under a model.

    Raises
    ------
    ValueError
        If the model is unknown or gives no area; the message lists those that do.
    """
    table = _table(model, AREA_MODELS)
    factor = 1.0
    if table["scaling"] == "stillmaker2017":
        factor = area_factor(table["scaling"], table["node_nm"], adc.node_nm)
    return _estimate(_AREA[model](table, adc) * factor, table)


def energy_of_all_pj(adc: Converter) -> Estimate:
    """Return the geometric mean of the models, from the lowest low to the highest high."""
    return _joined([energy_pj(model, adc) for model in MODELS])


def area_of_all_um2(adc: Converter) -> Estimate:
    """Return the geometric mean of the models' areas, from the lowest low to the highest high."""
    return _joined([area_um2(model, adc) for model in AREA_MODELS])


def _joined(estimates: list[Estimate]) -> Estimate:
    return Estimate(
        math.exp(sum(math.log(each.value) for each in estimates) / len(estimates)),
        min(each.low for each in estimates),
        max(each.high for each in estimates),
    )


def _estimate(value: float, table: Mapping[str, Any]) -> Estimate:
    return Estimate(value, value / table["uncertainty"], value * table["uncertainty"])


def _table(model: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if model not in known:
        raise ValueError(f"ADC model must be one of {', '.join(known)}, not {model!r}")
    return read_table("adc")[model]
