# SPDX-License-Identifier: Apache-2.0
"""Folders that are built once, by whoever comes first, and only read afterwards."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

_DONE = "built"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder` after `build(folder)` has succeeded in it once, in this or another process.

    Simulator builds name their own folder, so a build cannot be moved into place; a lock beside the
    folder keeps other processes out, and a mark inside it says that the build ran to its end.

    Parameters
    ----------
    folder : Path
        Folder whose name stands for everything that the build depends on.
    build : callable
        Fills the folder, which exists and is empty; raises on failure.
    """
    mark = folder / _DONE
    if mark.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            mark.touch()
    return folder
