# SPDX-License-Identifier: Apache-2.0
"""Results of long runs, kept in a folder, and tables written into a page."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Runs:
    """Results by key; a key holds everything that a result depends on, the sources' version too.

    Attributes
    ----------
    folder : Path
        Where they are kept, a file each.
    kept : bool
        Nothing is computed: only what is there is given.
    """

    folder: Path
    kept: bool = False

    def once(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return what `compute` gave when it ran for this key; None if it may not run now."""
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
        if path.exists():
            return json.loads(path.read_text())["value"]
        if self.kept:
            return None
        started = time.process_time()
        value = compute()
        seconds = time.process_time() - started
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps({"value": value, "seconds": seconds, "key": dict(key)}))
        temporary.replace(path)
        return value


def version_of(sources: Iterable[Path]) -> str:
    """Return a digest of the files that results depend on."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two marker lines of a page, in the place of what is there.

    Raises
    ------
    ValueError
        If the page lacks a marker.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} must hold the lines {begin!r} and {end!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
