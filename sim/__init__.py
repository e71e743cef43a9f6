# SPDX-License-Identifier: Apache-2.0
"""Cycle-level models in Numba: packed tensors in, values, cycles and action counts out."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"


def _cache_folder() -> str:
    """Return a folder for compiled kernels that belongs to exactly these sources.

    Numba notices a change in the file of a kernel, but not in the files of the kernels that it
    calls: it would run the old code of those.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode())
        digest.update(path.read_bytes())
    base = os.environ.get("COSIL_CACHE") or Path("~/.cache/cosil").expanduser()
    return str(Path(base).absolute() / "numba" / digest.hexdigest()[:16])


if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = _cache_folder()
    if "numba" in sys.modules:  # it read the variable when it was imported
        sys.modules["numba"].config.CACHE_DIR = os.environ[_VARIABLE]
