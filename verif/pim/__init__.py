# SPDX-License-Identifier: Apache-2.0
"""Bench of the PIM macro (docs/engines/pim.md): `run` compares reference, simulator, RTL.

This module is imported inside the simulator too, so it loads no torch, Numba or Amaranth.
"""

from verif.lib.face import BenchFace
from verif.pim.specs import SMALL

__all__ = ["SMALL", "run"]

run = BenchFace("pim", SMALL)
