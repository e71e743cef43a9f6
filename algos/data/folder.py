# SPDX-License-Identifier: Apache-2.0
"""Where data sets and checkpoints lie."""

from __future__ import annotations

import os
from pathlib import Path

from algos.data.errors import DataError


def data_folder(named: Path | str | None = None) -> Path:
    """Return the folder of data sets: `named`, else what ``COSIL_DATA`` names.

    Raises
    ------
    DataError
        If none is named, or there is no such folder.
    """
    name = named if named is not None else os.environ.get("COSIL_DATA")
    if not name:
        raise DataError("no data folder is named; set COSIL_DATA or give --data")
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"the data folder must be a folder, not {str(folder)!r}")
    return folder


def data_file(relative: str, named: Path | str | None = None) -> Path:
    """Return a file of the data folder.

    Raises
    ------
    DataError
        If it is not there.
    """
    path = data_folder(named) / relative
    if not path.is_file():
        raise DataError(f"the data folder has no {relative!r}; it was looked for in {path.parent}")
    return path
