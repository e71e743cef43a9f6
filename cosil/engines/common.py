# SPDX-License-Identifier: Apache-2.0
"""What the specs of all engines share: checks of their fields, TOML, latency of a shared part."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

FIXED_EPILOGUE_LATENCY = 7
"""Cycles of a fixed-point epilogue from the issue of a step to its result at the output register:
one in which what the step takes is chosen, and the six of `rtl.lib.fixed_point`."""


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def pow2_at_least(n: int) -> int:
    """Return the smallest power of two that is at least n and 1."""
    return 1 << max(0, n - 1).bit_length()


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Base of the engines' specs, which are frozen dataclasses with slots.

    Attributes
    ----------
    ENGINE : str
        The engine's name, which begins its messages and its TOML.
    """

    ENGINE: ClassVar[str]

    # -- files -------------------------------------------------------------------------------

    def to_toml(self) -> str:
        """Return the spec as TOML, with `engine` first."""
        lines = [f'engine = "{self.ENGINE}"']
        for name, value in asdict(self).items():
            text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
            lines.append(f"{name} = {text}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Self:
        """Build a spec from a TOML table.

        Raises
        ------
        ValueError, TypeError
            If a value is refused, or a key is unknown; the message names the known ones.
        """
        table = {key: value for key, value in table.items() if key != "engine"}
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known:
                raise ValueError(
                    f"{cls.ENGINE}: unknown parameter {key!r}; known are {', '.join(known)}"
                )
        return cls(**table)

    @classmethod
    def from_toml(cls, path: Path | str) -> Self:
        """Read a spec from a TOML file; errors are those of `from_dict`."""
        return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))

    # -- checks of a field, for __post_init__ --------------------------------------------------

    def _check_choice(self, name: str, legal: Iterable[str]) -> None:
        """Raise ValueError unless a field is one of the legal words."""
        value = getattr(self, name)
        if value not in legal:
            raise ValueError(
                f"{self.ENGINE}: {name} must be one of {', '.join(map(repr, legal))}, not {value!r}"
            )

    def _check_integers(self, *names: str) -> None:
        """Raise TypeError unless the fields named are ints and not bools."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{self.ENGINE}: {name} must be an int, not {value!r}")

    def _check_bools(self, *names: str) -> None:
        """Raise TypeError unless the fields named are bools."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{self.ENGINE}: {name} must be a bool, not {value!r}")

    def _check_range(self, name: str, low: int, high: int) -> None:
        """Raise ValueError unless a field is in low..high."""
        value: int = getattr(self, name)
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            raise ValueError(
                f"{self.ENGINE}: {name} must be in {low}..{high}, not {value!r}; "
                f"the nearest legal value is {nearest}"
            )

    def _check_power_of_two(self, name: str, low: int, high: int) -> None:
        """Raise ValueError unless a field is a power of two in low..high, both powers of two."""
        value: int = getattr(self, name)
        if value & (value - 1) or not low <= value <= high:
            legal = [1 << i for i in range(low.bit_length() - 1, high.bit_length())]
            nearest = min(legal, key=lambda v: (abs(v - value), v))
            raise ValueError(
                f"{self.ENGINE}: {name} must be a power of two in {low}..{high}, not {value!r}; "
                f"the nearest legal value is {nearest}"
            )
