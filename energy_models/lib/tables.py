# SPDX-License-Identifier: Apache-2.0
"""Reading the YAML files of `energy_models/tables`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "tables"


@cache
def read_table(name: str) -> dict[str, Any]:
    """Return the table of that file name, without its ending."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
