# SPDX-License-Identifier: Apache-2.0
"""What the specs of all engines share: checks of their fields, and TOML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Spec = TypeVar("Spec", bound=DataclassInstance)


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def pow2_at_least(n: int) -> int:
    """Return the smallest power of two that is at least n and 1."""
    return 1 << max(0, n - 1).bit_length()


def check_choice(engine: str, spec: DataclassInstance, name: str, legal: Iterable[str]) -> None:
    """Raise ValueError unless a field is one of the legal words."""
    value = getattr(spec, name)
    if value not in legal:
        raise ValueError(
            f"{engine}: {name} must be one of {', '.join(map(repr, legal))}, not {value!r}"
        )


def check_integers(engine: str, spec: DataclassInstance, names: Iterable[str]) -> None:
    """Raise TypeError unless the fields named are ints and not bools."""
    for name in names:
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{engine}: {name} must be an int, not {value!r}")


def check_bools(engine: str, spec: DataclassInstance, names: Iterable[str]) -> None:
    """Raise TypeError unless the fields named are bools."""
    for name in names:
        value = getattr(spec, name)
        if not isinstance(value, bool):
            raise TypeError(f"{engine}: {name} must be a bool, not {value!r}")


def check_range(engine: str, name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        nearest = min(max(value, low), high)
        raise ValueError(
            f"{engine}: {name} must be in {low}..{high}, not {value!r}; "
            f"the nearest legal value is {nearest}"
        )


def check_power_of_two(engine: str, name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless a value is a power of two in low..high, both powers of two."""
    if value & (value - 1) or not low <= value <= high:
        legal = [1 << i for i in range(low.bit_length() - 1, high.bit_length())]
        nearest = min(legal, key=lambda v: (abs(v - value), v))
        raise ValueError(
            f"{engine}: {name} must be a power of two in {low}..{high}, not {value!r}; "
            f"the nearest legal value is {nearest}"
        )


def to_toml(engine: str, spec: DataclassInstance) -> str:
    """Return a spec as TOML, with its engine's name first."""
    lines = [f'engine = "{engine}"']
    for name, value in asdict(spec).items():
        text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


def from_dict(engine: str, cls: type[Spec], table: dict[str, Any]) -> Spec:
    """Build a spec from a TOML table; an unknown key names the known ones."""
    table = {key: value for key, value in table.items() if key != "engine"}
    known = [field.name for field in fields(cls)]
    for key in table:
        if key not in known:
            raise ValueError(f"{engine}: unknown parameter {key!r}; known are {', '.join(known)}")
    return cls(**table)
