# SPDX-License-Identifier: Apache-2.0
"""Bench of the W4A8 array (docs/engines/w4a8.md): `run` compares reference, simulator, RTL.

This module is imported inside the simulator too, so it loads no torch, Numba or Amaranth.
"""

from verif.lib.face import BenchFace
from verif.w4a8.specs import SMALL

__all__ = ["SMALL", "run"]

run = BenchFace("w4a8", SMALL)
