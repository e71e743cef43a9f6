# SPDX-License-Identifier: Apache-2.0
"""The manifest of a packed file: the network without its data, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cosil.packed import strict_json
from cosil.packed.errors import PackedFormatError
from cosil.packed.graph import check_name
from cosil.packed.header import Entry
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.packed.tensor import PackedTensor

FORMAT = "cosil"
FORMAT_VERSION = 1

Arrays = Callable[[str], NDArray[Any]]
"""Key of an array in the file -> the array."""


class Manifest(NamedTuple):
    """A parsed manifest: a network whose arrays are placeholders, and the arrays' digests."""

    network: PackedNetwork
    sha256: dict[str, str]


def words_key(node: str, tensor: str) -> str:
    """Return the key under which a tensor's words lie in the file."""
    return f"{node}:{tensor}"


def scale_key(node: str, tensor: str, scale: str) -> str:
    """Return the key under which one of a tensor's scale arrays lies in the file."""
    return f"{node}:{tensor}:{scale}"


def arrays(network: PackedNetwork) -> dict[str, NDArray[Any]]:
    """Return every array of a network by its key."""
    found: dict[str, NDArray[Any]] = {}
    for node in network.nodes:
        for name, tensor in node.tensors.items():
            found[words_key(node.name, name)] = tensor.words
            for scale, values in tensor.scales.items():
                found[scale_key(node.name, name, scale)] = values
    return found


def render(network: PackedNetwork, sha256: dict[str, str]) -> str:
    """Return the manifest of a network as canonical JSON."""
    tree = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": network.name,
        "inputs": [
            {"name": value.name, "dtype": value.dtype, "shape": list(value.shape)}
            for value in network.inputs
        ],
        "nodes": [_render_node(node) for node in network.nodes],
        "outputs": list(network.outputs),
        "provenance": strict_json.plain("provenance", network.provenance),
        "sha256": sha256,
    }
    return strict_json.dumps(tree)


def _render_node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "engine": node.engine,
        "inputs": list(node.inputs),
        "attrs": strict_json.plain(f"node {node.name!r}", node.attrs),
        "tensors": {
            name: {
                "codec": tensor.codec,
                "version": tensor.version,
                "shape": list(tensor.shape),
                "dtype": tensor.words.dtype.name,
                "params": strict_json.plain(f"tensor {node.name}:{name}", tensor.params),
                "scales": sorted(tensor.scales),
            }
            for name, tensor in node.tensors.items()
        },
    }


def parse(text: str, entries: dict[str, Entry]) -> Manifest:
    """Parse a manifest whose arrays are those of `entries`.

    The network returned has arrays of the right dtype and shape that take no memory.
    """
    tree = strict_json.loads("manifest", text)
    if not isinstance(tree, dict):
        raise PackedFormatError("manifest", "json", "must be a JSON object")
    root = cast("dict[str, Any]", tree)
    _version(root)
    keys = (
        "format",
        "format_version",
        "name",
        "inputs",
        "nodes",
        "outputs",
        "provenance",
        "sha256",
    )
    _exactly("manifest", root, keys)
    unused = dict(entries)
    network = PackedNetwork(
        name=_typed("manifest", root, "name", str),
        inputs=tuple(_input(item) for item in _typed("manifest", root, "inputs", list)),
        nodes=tuple(_node(item, unused) for item in _typed("manifest", root, "nodes", list)),
        outputs=_strings("manifest", root, "outputs"),
        provenance=_typed("manifest", root, "provenance", dict),
    )
    if unused:
        raise PackedFormatError(
            f"tensor {next(iter(unused))[:200]!r}",
            "unused",
            "must belong to a node of the manifest",
        )
    return Manifest(network, _digests(_typed("manifest", root, "sha256", dict), entries))


def _version(root: dict[str, Any]) -> None:
    if root.get("format") != FORMAT:
        raise PackedFormatError(
            "manifest", "format", f"format must be {FORMAT!r}, not {root.get('format')!r:.80}"
        )
    version = root.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise PackedFormatError(
            "manifest",
            "format version",
            f"format_version must be {FORMAT_VERSION}, not {version!r:.80}; "
            "a later version needs a later cosil",
        )


def _input(item: Any) -> Value:
    record = _record("input", item, ("name", "dtype", "shape"))
    subject = f"input {record['name']!r:.80}"
    return Value(
        _typed(subject, record, "name", str),
        _typed(subject, record, "dtype", str),
        _shape(subject, record["shape"], 0),
    )


def _node(item: Any, unused: dict[str, Entry]) -> Node:
    record = _record("node", item, ("name", "op", "engine", "inputs", "attrs", "tensors"))
    subject = f"node {record['name']!r:.80}"
    name = _typed(subject, record, "name", str)
    check_name("node", name)
    tensors: dict[str, PackedTensor] = {}
    for key, value in cast("dict[str, Any]", _typed(subject, record, "tensors", dict)).items():
        check_name(f"{subject}, tensor", key)
        tensors[key] = _tensor(name, key, value, unused)
    return Node(
        name=name,
        op=_typed(subject, record, "op", str),
        inputs=_strings(subject, record, "inputs"),
        attrs=_typed(subject, record, "attrs", dict),
        tensors=tensors,
        engine=_typed(subject, record, "engine", str),
    )


def _tensor(node: str, name: str, item: Any, unused: dict[str, Entry]) -> PackedTensor:
    subject = f"tensor {node}:{name}"
    record = _record(subject, item, ("codec", "version", "shape", "dtype", "params", "scales"))
    words = _placeholder(subject, unused.pop(words_key(node, name), None))
    dtype = _typed(subject, record, "dtype", str)
    if words.dtype.name != dtype:
        raise PackedFormatError(
            subject, "dtype", f"dtype must be that of the data, {words.dtype}, not {dtype!r:.80}"
        )
    scales: dict[str, NDArray[Any]] = {}
    for scale in _strings(subject, record, "scales"):
        check_name(f"{subject}, scale", scale)
        key = scale_key(node, name, scale)
        scales[scale] = _placeholder(f"tensor {key}", unused.pop(key, None))
    return PackedTensor(
        codec=_typed(subject, record, "codec", str),
        version=_typed(subject, record, "version", int),
        shape=_shape(subject, record["shape"], 1),
        words=words,
        params=_typed(subject, record, "params", dict),
        scales=scales,
    )


def _placeholder(subject: str, entry: Entry | None) -> NDArray[Any]:
    """Return an array of the entry's dtype and shape whose elements share one zero."""
    if entry is None:
        raise PackedFormatError(subject, "missing", "must be in the file, once")
    return np.broadcast_to(np.zeros((), np.dtype(entry.dtype)), entry.shape)


def _digests(table: dict[str, Any], entries: dict[str, Entry]) -> dict[str, str]:
    if table.keys() != entries.keys():
        raise PackedFormatError("manifest", "sha256", "must hold one sha256 for each tensor")
    for key, value in table.items():
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise PackedFormatError(
                f"tensor {key}",
                "sha256",
                f"sha256 must be 64 hexadecimal digits, not {value!r:.80}",
            )
    return table


def _record(subject: str, item: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise PackedFormatError(subject, "schema", f"must be an object, not {item!r:.80}")
    record = cast("dict[str, Any]", item)
    _exactly(subject, record, keys)
    return record


def _exactly(subject: str, record: dict[str, Any], keys: tuple[str, ...]) -> None:
    if record.keys() != set(keys):
        missing = [key for key in keys if key not in record]
        surplus = [key[:80] for key in record if key not in keys]
        raise PackedFormatError(
            subject,
            "schema",
            f"must have exactly {', '.join(keys)}; missing {missing}, unknown {surplus[:8]}",
        )


def _typed(subject: str, record: dict[str, Any], key: str, kind: type[Any]) -> Any:
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a string", int: "an int", list: "a list", dict: "an object"}
        raise PackedFormatError(
            subject, "schema", f"{key} must be {names[kind]}, not {value!r:.80}"
        )
    return value


def _strings(subject: str, record: dict[str, Any], key: str) -> tuple[str, ...]:
    items = _typed(subject, record, key, list)
    if not all(isinstance(item, str) for item in items):
        raise PackedFormatError(subject, "schema", f"{key} must be a list of strings")
    return tuple(items)


def _shape(subject: str, value: Any, low: int) -> tuple[int, ...]:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if len(items) > 8 or not all(type(item) is int and low <= item < 2**40 for item in items):
        raise PackedFormatError(
            subject, "shape", f"shape must be up to 8 ints of at least {low}, not {value!r:.80}"
        )
    return tuple(items)
