# SPDX-License-Identifier: Apache-2.0
"""A tree of plain values and arrays in one file: how cases cross into the simulator's process.

That process imports neither torch nor Numba, so what is expected is computed before and travels
along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY = "array"


def save(path: Path, value: Any) -> None:
    """Write an npz file; nothing in it is pickled.

    Parameters
    ----------
    path : Path
        File; replaced if it exists.
    value : dataclass, mapping, sequence, ndarray, Enum, str, int, float, bool or None
        And any nesting of these; keys are strings.
    """
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_plain(value, arrays))
    stored = {str(number): array for number, array in enumerate(arrays)}
    np.savez(path, tree=np.array(text), **stored)  # pyright: ignore[reportArgumentType]


def load(path: Path) -> Any:
    """Return what `save` wrote: dataclasses as dicts, sequences as lists, enums as their values."""
    with np.load(path, allow_pickle=False) as stored:

        def revive(entry: dict[str, Any]) -> Any:
            return stored[str(entry[_ARRAY])] if entry.keys() == {_ARRAY} else entry

        return json.loads(str(stored["tree"]), object_hook=revive)


def _plain(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        if value.keys() == {_ARRAY}:
            raise ValueError(f"archive: {_ARRAY!r} may not be the only key of a mapping")
        return {key: _plain(entry, arrays) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry, arrays) for entry in value]
    return value
