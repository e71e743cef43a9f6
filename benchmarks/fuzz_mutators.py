# SPDX-License-Identifier: Apache-2.0
"""Mutations of packed files: raw bytes, or parts whose digests are recomputed afterwards."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

HUGE = (0, -1, 1, 2, 7, 8, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63, 2**64, 10**30)
NAMES = (
    "../up", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\x00b", "line\nbreak", "\x1b[31m",
    "x" * 300, "ids", "weight", "\ud800", "a:b", "__metadata__", "CON ", "ä",
)  # fmt: skip
VALUES = (None, True, False, "", "1", 0.5, -0.0, 1e308, 1e-320, [], {}, [0], [[[[1]]]], {"a": {}})

Rng = np.random.Generator


@dataclass
class Parts:
    """A file taken apart: header entries, manifest and data, each free to be changed."""

    entries: dict[str, Any]
    manifest: Any
    data: bytearray

    @classmethod
    def of(cls, file: bytes) -> Parts:
        """Take a well-formed file apart."""
        end = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:end])
        said = json.loads(header.pop("__metadata__")["manifest"])
        return cls(header, said, bytearray(file[end:]))

    def sign(self) -> None:
        """Recompute the digest of each tensor where header and manifest still allow it."""
        table = self.manifest.get("sha256") if isinstance(self.manifest, dict) else None
        if not isinstance(table, dict):
            return
        for key, entry in self.entries.items():
            span = entry.get("data_offsets") if isinstance(entry, dict) else None
            if key in table and isinstance(span, list) and all(type(at) is int for at in span):
                begin, end = (*span, 0, 0)[:2]
                if 0 <= begin <= end <= len(self.data):
                    table[key] = hashlib.sha256(self.data[begin:end]).hexdigest()

    def join(self, text: str | None = None) -> bytes:
        """Return the file, the manifest's digest recomputed; `text` replaces the manifest."""
        text = json.dumps(self.manifest) if text is None else text
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        metadata = {"manifest": text, "manifest_sha256": digest}
        header = json.dumps({"__metadata__": metadata, **self.entries}).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + bytes(self.data)


def mutants(files: list[bytes], rng: Rng, count: int, *, signed: bool) -> Iterator[bytes]:
    """Yield `count` mutants of `files`, one to three mutations each."""
    kinds = SIGNED if signed else RAW
    taken_apart = [Parts.of(file) for file in files]
    for _ in range(count):
        which = int(rng.integers(len(files)))
        if not signed:
            data = bytearray(files[which])
            for _ in range(rng.integers(1, 4)):
                data = cast("Callable[[Rng, bytearray], bytearray]", _pick(rng, kinds))(rng, data)
            yield bytes(data)
            continue
        parts = copy.deepcopy(taken_apart[which])
        text: str | None = None
        for _ in range(rng.integers(1, 4)):
            text = cast("Callable[[Rng, Parts], str | None]", _pick(rng, kinds))(rng, parts)
            parts.sign()
        yield parts.join(text)


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _span(rng: Rng, size: int, most: int = 64) -> tuple[int, int]:
    begin = int(rng.integers(size + 1))
    return begin, min(size, begin + int(rng.integers(1, most)))


def _truncate(rng: Rng, data: bytearray) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _extend(rng: Rng, data: bytearray) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 100)))


def _flip(rng: Rng, data: bytearray) -> bytearray:
    for _ in range(rng.integers(1, 17) if data else 0):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data


def _flip_header(rng: Rng, data: bytearray) -> bytearray:
    end = min(len(data), 8 + int.from_bytes(data[:8], "little"))
    for _ in range(rng.integers(1, 4) if end else 0):
        data[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    return data


def _fill(rng: Rng, data: bytearray) -> bytearray:
    begin, end = _span(rng, len(data))
    data[begin:end] = bytes([int(rng.choice([0, 32, 91, 123, 255]))]) * (end - begin)
    return data


def _cut(rng: Rng, data: bytearray) -> bytearray:
    begin, end = _span(rng, len(data))
    return data[:begin] + data[end:]


def _repeat(rng: Rng, data: bytearray) -> bytearray:
    begin, end = _span(rng, len(data))
    return data[:end] + data[begin:end] * int(rng.integers(1, 20)) + data[end:]


def _header_length(rng: Rng, data: bytearray) -> bytearray:
    length = int.from_bytes(data[:8], "little")
    new = _pick(rng, [0, 1, 2, length + 1, length - 1, len(data), 10**8, 2**40, 2**63, 2**64 - 1])
    data[:8] = max(0, new).to_bytes(8, "little")
    return data


def _rewrite(rng: Rng, data: bytearray, pattern: bytes, new: bytes) -> bytearray:
    """Replace one match of `pattern` in the header and correct the header's length."""
    end = min(len(data), 8 + int.from_bytes(data[:8], "little"))
    header = bytes(data[8:end])
    found = list(re.finditer(pattern, header))
    if not found:
        return data
    match = _pick(rng, found)
    header = header[: match.start()] + new + header[match.end() :]
    return bytearray(len(header).to_bytes(8, "little") + header + data[end:])


def _number(rng: Rng, data: bytearray) -> bytearray:
    return _rewrite(rng, data, rb"(?<=[\[:,])\d+", str(_pick(rng, HUGE)).encode())


def _dtype(rng: Rng, data: bytearray) -> bytearray:
    new = _pick(rng, [b"F64", b"BF16", b"BOOL", b"U8", b"I32", b"F32", b"F16", b"", b"../x"])
    return _rewrite(rng, data, rb"[UIF](8|16|32|64)", new)


def _name(rng: Rng, data: bytearray) -> bytearray:
    new = json.dumps(_pick(rng, NAMES)).encode()
    return _rewrite(rng, data, rb'"[a-z0-9_.:]+"', new)


def _key_twice(rng: Rng, data: bytearray) -> bytearray:
    new = b',"token:table":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},'
    return _rewrite(
        rng, data, rb"(?<=\}),", _pick(rng, [new, b',"__metadata__":{},', b',"a":1,"a":1,'])
    )


def _version(rng: Rng, data: bytearray) -> bytearray:
    version = _pick(rng, [b"0", b"2", b"1.0", b"true", b"null", b"18446744073709551617"])
    return _rewrite(rng, data, rb'(?<=version\\":)\d+', version)


RAW = (
    _truncate, _extend, _flip, _flip, _flip_header, _flip_header, _fill, _cut, _repeat,
    _header_length, _number, _number, _dtype, _name, _key_twice, _version,
)  # fmt: skip


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        keys: list[Any] = []
        if isinstance(node, dict):
            keys = list(cast("dict[str, Any]", node))
        elif isinstance(node, list):
            keys = list(range(len(cast("list[Any]", node))))
        for key in keys:
            found.append((node, key))
            stack.append(node[key])
    return found


def _place(rng: Rng, parts: Parts, kind: type | tuple[type, ...] = object) -> tuple[Any, Any]:
    """Return a random value's (container, key), of header entries or manifest."""
    tree = parts.entries if rng.random() < 0.3 else parts.manifest
    found = [(at, key) for at, key in _nodes(tree) if isinstance(at[key], kind) and key != "sha256"]
    return _pick(rng, found) if found else ({"a": 0}, "a")


def _value(rng: Rng, parts: Parts) -> None:
    holder, key = _place(rng, parts)
    holder[key] = copy.deepcopy(_pick(rng, VALUES))


def _integer(rng: Rng, parts: Parts) -> None:
    holder, key = _place(rng, parts, (int, float))
    near = holder[key] + int(rng.integers(-2, 3))
    holder[key] = near if rng.random() < 0.5 else _pick(rng, HUGE)


def _string(rng: Rng, parts: Parts) -> None:
    words = ["int4", "bitplane", "binary", "ternary", "raw", "twos", "offset", "differential",
             "one_is_plus", "one_is_minus", "fp16", "fixed", "threshold", "w4a8", "pim", "xnor",
             "vector", "i8", "f16", "U16"]  # fmt: skip
    holder, key = _place(rng, parts, str)
    holder[key] = _pick(rng, (*NAMES, *words, *words))


def _remove(rng: Rng, parts: Parts) -> None:
    holder, key = _place(rng, parts)
    del holder[key]


def _rename(rng: Rng, parts: Parts) -> None:
    holder, key = _place(rng, parts)
    if isinstance(holder, dict):
        holder[_pick(rng, (*NAMES, "bias", "scale", "version"))] = holder.pop(key)


def _swap(rng: Rng, parts: Parts) -> None:
    (first, i), (second, j) = _place(rng, parts), _place(rng, parts)
    first[i], second[j] = copy.deepcopy(second[j]), copy.deepcopy(first[i])


def _shape(rng: Rng, parts: Parts) -> None:
    """Give one array another shape of as many elements, in the header and the manifest alike."""
    key, entry = _pick(rng, list(parts.entries.items()) or [("", None)])
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        return
    shape = entry["shape"]
    if not all(type(size) is int for size in shape):
        return
    new = _pick(rng, [[int(np.prod(shape))], [*shape, 1], [1, *shape], shape[::-1]])
    for holder, name in _nodes(parts.manifest):
        if name == "shape" and holder[name] == shape and rng.random() < 0.5:
            holder[name] = new
    entry["shape"] = new
    del key


def _data(rng: Rng, parts: Parts) -> None:
    for _ in range(rng.integers(1, 5) if parts.data else 0):
        at = int(rng.integers(len(parts.data)))
        parts.data[at] = int(rng.choice([0, 0x7C, 0x7F, 0x80, 0xFF, at & 255]))


def _tail(rng: Rng, parts: Parts) -> None:
    if rng.random() < 0.5:
        del parts.data[int(rng.integers(len(parts.data) + 1)) :]
    else:
        parts.data += rng.bytes(int(rng.integers(1, 64)))


def _text(rng: Rng, parts: Parts) -> str:
    """Change the manifest's text where JSON libraries differ: duplicates, NaN, nesting, digits."""
    text = json.dumps(parts.manifest)
    comma = _pick(rng, [match.start() for match in re.finditer(",", text)] or [0])
    insertions = (
        ', "name": "again"', ', "op": "relu"', ", NaN", ", -Infinity", ", 1e999", ", " + "9" * 5000,
        ", " + "[" * 50 + "]" * 50, ", " + "[" * 100_000, ', "x": {"y": 1, "y": 1}', ', "\\ud800"',
        ", \x00", ",,", ', "' + "a" * 1000 + '": 1',
    )  # fmt: skip
    if rng.random() < 0.2:
        number = _pick(rng, list(re.finditer(r"\d+", text)) or [re.match("", text)])
        return (
            text[: number.start()] + _pick(rng, ["01", "1e3", "0x1", "1."]) + text[number.end() :]
        )
    return text[:comma] + _pick(rng, insertions) + text[comma:]


SIGNED = (
    _value, _integer, _integer, _integer, _string, _string, _remove, _rename, _swap, _shape, _data,
    _data, _tail, _text,
)  # fmt: skip
