# SPDX-License-Identifier: Apache-2.0
"""Packed networks in one file: safetensors with a JSON manifest (docs/packed-format.md, "File")."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.packed import graph, manifest, strict_json
from cosil.packed.errors import PackedFormatError
from cosil.packed.header import Entry, check_cost, read_header, render_header
from cosil.packed.network import Node, PackedNetwork
from cosil.packed.tensor import PackedTensor


def save(network: PackedNetwork, path: Path | str) -> None:
    """Write a network to one file, whole or not at all.

    The same network gives the same bytes. The file is written under a temporary name in the same
    folder, flushed to the disk and renamed; an existing file is replaced.

    Raises
    ------
    PackedFormatError
        If the network breaks a rule of the format; nothing is written.
    TypeError
        If attributes or provenance hold what JSON cannot.
    OSError
        If the folder cannot be written.
    """
    path = Path(path)
    network = _plain(network)
    graph.check(network)
    arrays = {
        key: np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        for key, values in manifest.arrays(network).items()
    }
    if not arrays:
        raise PackedFormatError("network", "tensors", "must have at least one tensor")
    text = manifest.render(network, {key: _digest(values) for key, values in arrays.items()})
    strict_json.loads("manifest", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    header, order = render_header({"manifest": text, "manifest_sha256": digest}, arrays)
    parts = [header, *(arrays[key].data.cast("B") for key in order)]
    check_cost(header[8:], sum(len(part) for part in parts))
    _write(path, parts)


def load(path: Path | str) -> PackedNetwork:
    """Read a network.

    All that the file says of itself is checked before memory is taken for the tensors: header,
    names, dtypes, shapes, offsets, manifest digest, version, graph, attributes. Then the tensors
    are read and checked: sha256, padding, finite floats. Peak memory is below four times the file's
    size or 1 MiB, whichever is more.

    Returns
    -------
    PackedNetwork
        Its arrays are writable and belong to nobody else.

    Raises
    ------
    PackedFormatError
        If the file breaks a rule; the message names the part, node or tensor and the rule.
    OSError
        If the file cannot be opened or read.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise PackedFormatError("file", "size", f"must be a regular file, not {path}")
    with path.open("rb") as file:
        header = read_header(file, os.fstat(file.fileno()).st_size)
        skeleton = manifest.parse(_manifest_text(header.metadata), header.entries)
        graph.check(skeleton.network, content=False)
        arrays = {
            key: _read(file, key, header.entries[key], skeleton.sha256[key])
            for key in sorted(header.entries, key=lambda key: header.entries[key].offset)
        }
    network = _filled(skeleton.network, arrays)
    graph.check(network)
    return network


def _manifest_text(metadata: dict[str, str]) -> str:
    if metadata.keys() != {"manifest", "manifest_sha256"}:
        raise PackedFormatError(
            "header", "metadata", "__metadata__ must have exactly manifest and manifest_sha256"
        )
    text = metadata["manifest"]
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise PackedFormatError("manifest", "utf-8", "must not hold lone surrogates") from None
    if digest != metadata["manifest_sha256"]:
        raise PackedFormatError(
            "manifest",
            "manifest sha256",
            "sha256 must be that in __metadata__; the file is damaged",
        )
    return text


def _read(file: BufferedReader, key: str, entry: Entry, sha256: str) -> NDArray[Any]:
    values = np.empty(entry.shape, np.dtype(entry.dtype).newbyteorder("<"))
    file.seek(entry.offset)
    if file.readinto(values.data.cast("B")) != entry.nbytes:
        raise PackedFormatError(f"tensor {key}", "size", "the file ended while it was read")
    if _digest(values) != sha256:
        raise PackedFormatError(
            f"tensor {key}", "sha256", "sha256 must be that of the manifest; the file is damaged"
        )
    return values.astype(np.dtype(entry.dtype), copy=False)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(values.data).hexdigest()


def _filled(network: PackedNetwork, arrays: Mapping[str, NDArray[Any]]) -> PackedNetwork:
    def tensor(node: Node, name: str, old: PackedTensor) -> PackedTensor:
        scales = {scale: arrays[manifest.scale_key(node.name, name, scale)] for scale in old.scales}
        words = arrays[manifest.words_key(node.name, name)]
        return replace(old, words=words, scales=scales)

    nodes = tuple(
        replace(
            node,
            tensors={name: tensor(node, name, old) for name, old in node.tensors.items()},
        )
        for node in network.nodes
    )
    return replace(network, nodes=nodes)


def _plain(network: PackedNetwork) -> PackedNetwork:
    """Return the network as `load` will give it: attributes as JSON has them."""
    nodes = tuple(
        replace(node, attrs=strict_json.plain(f"node {node.name!r}", node.attrs))
        for node in network.nodes
    )
    provenance = strict_json.plain("provenance", network.provenance)
    try:
        strict_json.dumps(provenance)
    except ValueError:
        raise PackedFormatError("provenance", "json", "numbers must be finite") from None
    return replace(network, nodes=nodes, provenance=provenance)


def _write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
