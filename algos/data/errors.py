# SPDX-License-Identifier: Apache-2.0
"""The error of data that cannot be read, and bounds on how much is read."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 1 << 30
"""No loader reads or unpacks more than this."""


class DataError(ValueError):
    """A data file that is missing, damaged, hostile or not of the expected kind."""


def check_size(path: Path, max_bytes: int = MAX_BYTES) -> int:
    """Return the size of a file.

    Raises
    ------
    DataError
        If there is no such file, or it is larger than `max_bytes`.
    """
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{path.name}: at most {max_bytes} bytes are read, not {size}")
    return size
