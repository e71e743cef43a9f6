# SPDX-License-Identifier: Apache-2.0
"""A progress bar on standard error, silent where that is not a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def progress_bar(items: Sequence[T], description: str) -> Iterable[T]:
    """Return an iterator over `items` that shows how far it is."""
    console = Console(stderr=True)
    return track(items, description, console=console, disable=not console.is_terminal)
