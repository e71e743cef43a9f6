# SPDX-License-Identifier: Apache-2.0
"""Bench of the top-k engine (docs/engines/topk.md): `run` compares reference, simulator, RTL.

This module is imported inside the simulator too, so it loads no torch, Numba or Amaranth.
"""

from verif.lib.face import BenchFace
from verif.topk.specs import SMALL

__all__ = ["SMALL", "run"]

run = BenchFace("topk", SMALL)
