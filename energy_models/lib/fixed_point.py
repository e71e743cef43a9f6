# SPDX-License-Identifier: Apache-2.0
"""The fixed-point lane of an epilogue, sat(RNE((sum + bias) * mult / 2^shift)), at one output."""

from __future__ import annotations

from cosil.engines.common import FIXED_EPILOGUE_LATENCY
from energy_models.lib.technology import Estimate, Technology

MULT_BITS = 16
"""Width of the multiplier."""


def rescale_pj(tech: Technology, sum_bits: int) -> Estimate:
    """Return the energy of one output; every stage is priced as wide as the product."""
    product = sum_bits + MULT_BITS
    return (
        tech.add_pj(sum_bits)
        + tech.multiply_pj(sum_bits, MULT_BITS)
        + tech.shift_pj(product)
        + tech.add_pj(16)
        + tech.register_pj(product * FIXED_EPILOGUE_LATENCY)
    )


def rescale_um2(tech: Technology, sum_bits: int) -> Estimate:
    """Return the area of a lane: its multiplier and the bias's adder."""
    return tech.multiply_um2(sum_bits, MULT_BITS) + tech.add_um2(sum_bits)
