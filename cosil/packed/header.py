# SPDX-License-Identifier: Apache-2.0
"""The safetensors container, read with every size checked before memory is taken for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from cosil.packed import strict_json
from cosil.packed.errors import PackedFormatError

DTYPES = {
    "I8": ("int8", 1), "U8": ("uint8", 1), "I16": ("int16", 2), "U16": ("uint16", 2),
    "I32": ("int32", 4), "U32": ("uint32", 4), "I64": ("int64", 8), "U64": ("uint64", 8),
    "F16": ("float16", 2), "F32": ("float32", 4),
}  # fmt: skip
"""Container dtype -> NumPy name and bytes of an element."""

HEADER_MAX = 100_000_000
"""Largest header that safetensors itself reads."""

ALLOWANCE = 1 << 20
"""Bytes that parsing may take however small the file is; beyond it, three times the file's size."""

_MARKS = b",:[{"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one array lies: NumPy dtype name, shape, offset from the file's start, bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed header: `__metadata__` and the arrays by key."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def read_header(file: BinaryIO, size: int) -> Header:
    """Read and check the header of a safetensors file of `size` bytes.

    Every array lies inside the file, its bytes are those of its shape, and the arrays fill the data
    part without gap or overlap.

    Raises
    ------
    PackedFormatError
        At the first rule that is broken.
    """
    text = _read_text(file, size)
    start = 8 + len(text)
    tree = strict_json.loads("header", _decode(text))
    del text
    if not isinstance(tree, dict):
        raise PackedFormatError("header", "json", "must be a JSON object")
    table = cast("dict[str, Any]", tree)
    metadata = _metadata(table.pop("__metadata__", None))
    entries = {key: _entry(key, record, start) for key, record in table.items()}
    position = start
    for key, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset != position:
            kind = "overlap" if entry.offset < position else "gap"
            raise PackedFormatError(
                f"tensor {key}",
                "offsets",
                f"must begin at data byte {position - start}, not {entry.offset - start} ({kind})",
            )
        position += entry.nbytes
    if position != size:
        raise PackedFormatError(
            "file", "size", f"must have {position} bytes, as its tensors say, not {size}"
        )
    return Header(metadata, entries)


def render_header(
    metadata: dict[str, str], arrays: Mapping[str, NDArray[Any]]
) -> tuple[bytes, list[str]]:
    """Return the bytes before the data, and the keys in the order in which the arrays follow.

    The widest elements come first and the header ends at a multiple of eight, so that every array
    is aligned. The same arrays give the same bytes (safetensors' own writer shuffles the metadata).
    """
    order = sorted(arrays, key=lambda key: (-arrays[key].itemsize, key))
    names = {name: code for code, (name, _) in DTYPES.items()}
    tree: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for key in order:
        values = arrays[key]
        end = position + values.nbytes
        tree[key] = {
            "dtype": names[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def check_cost(header: bytes, size: int) -> None:
    """Refuse a header that would take far more memory to parse than the file has bytes.

    A JSON value takes at most 64 bytes for each comma, colon or opening bracket that comes with it
    (measured on CPython 3.11 to 3.13), and the text itself is held three times.
    """
    cost = 3 * len(header) + 64 * sum(header.count(mark) for mark in _MARKS)
    limit = max(ALLOWANCE, 3 * size)
    if cost > limit:
        raise PackedFormatError(
            "header", "header cost", f"must parse in {limit} bytes of memory, not about {cost}"
        )


def _read_text(file: BinaryIO, size: int) -> bytes:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise PackedFormatError("file", "size", f"must have at least 8 bytes, not {size}")
    length = int.from_bytes(prefix, "little")
    limit = min(HEADER_MAX, size - 8)
    if not 2 <= length <= limit:
        raise PackedFormatError(
            "header", "header length", f"length must be in 2..{limit}, not {length}"
        )
    text = file.read(length)
    if len(text) < length:
        raise PackedFormatError("header", "header length", "the file ended while it was read")
    if text[:1] != b"{":
        raise PackedFormatError("header", "json", f"must begin with '{{', not {text[:1]!r}")
    check_cost(text, size)
    return text


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackedFormatError(
            "header", "utf-8", f"must be UTF-8, but byte {error.start} is not"
        ) from None


def _metadata(record: Any) -> dict[str, str]:
    if not isinstance(record, dict):
        raise PackedFormatError("header", "metadata", "must hold an object '__metadata__'")
    table = cast("dict[str, Any]", record)
    for key, value in table.items():
        if not isinstance(value, str):
            raise PackedFormatError(
                "header",
                "metadata",
                f"__metadata__ must map to strings, not {key[:80]!r} to {value!r:.80}",
            )
    return table


def _entry(key: str, record: Any, start: int) -> Entry:
    subject = f"tensor {key[:200]!r}" if not key.isprintable() else f"tensor {key[:200]}"
    if not isinstance(record, dict) or set(cast("dict[str, Any]", record)) != {
        "dtype", "shape", "data_offsets",
    }:  # fmt: skip
        raise PackedFormatError(subject, "entry", "must have exactly dtype, shape and data_offsets")
    fields = cast("dict[str, Any]", record)
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in DTYPES:
        raise PackedFormatError(
            subject,
            "dtype",
            f"dtype must be one of {', '.join(DTYPES)}, not {fields['dtype']!r:.80}",
        )
    dtype, width = DTYPES[fields["dtype"]]
    shape = _ints(fields["shape"])
    if shape is None or not 1 <= len(shape) <= 8 or min(shape) < 1:
        raise PackedFormatError(
            subject,
            "shape",
            f"shape must be 1 to 8 ints of at least 1, not {fields['shape']!r:.80}",
        )
    offsets = _ints(fields["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise PackedFormatError(
            subject,
            "offsets",
            f"data_offsets must be two ints, begin and end, not {fields['data_offsets']!r:.80}",
        )
    nbytes = math.prod(shape) * width
    if offsets[1] - offsets[0] != nbytes:
        raise PackedFormatError(
            subject,
            "size",
            f"data_offsets must span {nbytes} bytes, as dtype and shape say, "
            f"not {offsets[1] - offsets[0]}",
        )
    return Entry(dtype, shape, start + offsets[0], nbytes)


def _ints(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[Any]", value)
    if not all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items
    ):
        return None
    return tuple(items)
