# SPDX-License-Identifier: Apache-2.0
"""Plain text and its characters as numbers; CPython's bundled manual as a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from algos.data.errors import DataError, check_size

MAX_TEXT_BYTES = 1 << 28
ASCII = "\n" + "".join(chr(i) for i in range(32, 127))
"""New line and the printable characters: the alphabet of the bundled text."""


def load_text(path: Path | str) -> str:
    """Read a UTF-8 text file; every line end becomes a single new line.

    Raises
    ------
    DataError
        If it is missing, empty, too long or no UTF-8.
    """
    path = Path(path)
    if check_size(path, MAX_TEXT_BYTES) == 0:
        raise DataError(f"{path.name}: it is empty")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: it is no UTF-8: {error.reason} at {error.start}") from error


def topics() -> str:
    """Return the text of Python's language reference as `help()` prints it, in printable ASCII.

    It is `pydoc_data.topics` of the running interpreter, so its length differs between versions;
    characters outside of `ASCII` are left out.
    """
    # A module of 700 kB.
    from pydoc_data.topics import topics as table

    whole = "\n\n".join(table[name] for name in sorted(table))
    return "".join(char for char in whole if char in ASCII)


@dataclass(frozen=True)
class Alphabet:
    """Characters and their numbers.

    Attributes
    ----------
    chars : str
        Character i has number i.
    """

    chars: str

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {char: i for i, char in enumerate(self.chars)}

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the numbers of a text's characters.

        Raises
        ------
        DataError
            If a character is not in the alphabet.
        """
        strange = sorted(set(text) - self._numbers.keys())
        if strange:
            raise DataError(f"the alphabet has no character {strange[0]!r}")
        return np.array([self._numbers[char] for char in text], dtype=np.int64)

    def decode(self, numbers: NDArray[np.int64] | list[int]) -> str:
        """Return the text of numbers."""
        return "".join(self.chars[i] for i in numbers)
