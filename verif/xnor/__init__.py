# SPDX-License-Identifier: Apache-2.0
"""Bench of the XNOR array (docs/engines/xnor.md): `run` compares reference, simulator, RTL.

This module is imported inside the simulator too, so it loads no torch, Numba or Amaranth.
"""

from verif.lib.face import BenchFace
from verif.xnor.specs import SMALL

__all__ = ["SMALL", "run"]

run = BenchFace("xnor", SMALL)
