# SPDX-License-Identifier: Apache-2.0
"""Bench of the attention engine (docs/engines/attention.md): `run` compares the three models.

This module is imported inside the simulator too, so it loads no torch, Numba or Amaranth.
"""

from verif.attention.specs import SMALL
from verif.lib.face import BenchFace

__all__ = ["SMALL", "run"]

run = BenchFace("attention", SMALL)
