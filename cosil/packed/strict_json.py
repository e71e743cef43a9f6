# SPDX-License-Identifier: Apache-2.0
"""JSON without what JSON leaves open: no duplicate keys, no NaN, no endless integers or nesting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from cosil.packed.errors import PackedFormatError

DEPTH_MAX = 32
_INT_DIGITS = 20


def loads(subject: str, text: str) -> Any:
    """Parse `text`; raise `PackedFormatError` naming `subject` for anything but strict JSON."""

    def fail(detail: str) -> PackedFormatError:
        return PackedFormatError(subject, "json", detail)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))
            raise PackedFormatError(
                subject, "duplicate key", f"the key {_short(twice)} must not occur twice"
            )
        return table

    def integer(digits: str) -> int:
        if len(digits) > _INT_DIGITS:
            raise fail(f"integers must have at most {_INT_DIGITS} digits, not {len(digits)}")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise fail(f"numbers must be finite, not {_short(digits)}")
        return value

    def constant(name: str) -> float:
        raise fail(f"numbers must be finite, not {name}")

    try:
        tree = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=real,
            parse_constant=constant,
        )
    except RecursionError:
        raise fail(f"must nest at most {DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise fail(f"must be JSON: {error.msg} at character {error.pos}") from None
    _check_tree(subject, tree)
    return tree


def dumps(tree: Any) -> str:
    """Return `tree` as JSON: keys sorted, no spaces, ASCII only."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(subject: str, value: Any) -> Any:
    """Return `value` with NumPy scalars and tuples turned into what JSON has; refuse the rest.

    Raises
    ------
    TypeError
        If a value has no JSON form or a key is not a string.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return plain(subject, value.item())
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return {_key(subject, key): plain(subject, item) for key, item in table.items()}
    if isinstance(value, (list, tuple)):
        return [plain(subject, item) for item in cast("list[Any]", value)]
    raise TypeError(
        f"{subject}: values must be None, bool, int, float, str, list or dict, not {value!r}"
    )


def _key(subject: str, key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{subject}: keys must be strings, not {key!r}")
    return key


def _check_tree(subject: str, tree: Any) -> None:
    """Check depth and that every string has a UTF-8 form (no lone surrogate escapes)."""
    level: list[Any] = [tree]
    for _ in range(DEPTH_MAX):
        items: list[Any] = [item for node in level for item in _children(node)]
        for text in items:
            if isinstance(text, str) and not _encodable(text):
                raise PackedFormatError(subject, "utf-8", "strings must not hold lone surrogates")
        level = [item for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    raise PackedFormatError(subject, "json", f"must nest at most {DEPTH_MAX} levels")


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        table = cast("dict[str, Any]", node)
        return [*table.keys(), *table.values()]
    return cast("list[Any]", node) if isinstance(node, list) else []


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
