# SPDX-License-Identifier: Apache-2.0
"""Files: what is saved is loaded, what is damaged is refused by name, saves are atomic."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_mutators import Parts
from benchmarks.fuzz_networks import cnn, pim, transformer, xnor
from benchmarks.fuzz_packed import campaign, compare
from cosil.packed import file as packed_file
from cosil.packed import raw
from cosil.packed.errors import PackedFormatError
from cosil.packed.file import load, save
from cosil.packed.header import ALLOWANCE
from cosil.packed.network import Node, PackedNetwork, Value


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a small saved network."""
    path = tmp_path_factory.mktemp("packed") / "net.safetensors"
    save(transformer(), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "network", [cnn(), transformer(), pim(), xnor()], ids=lambda network: network.name
)
def test_round_trip(network: PackedNetwork, tmp_path: Path) -> None:
    """A loaded network equals the saved one in every field and bit, and saves to the same bytes."""
    save(network, tmp_path / "a")
    again = load(tmp_path / "a")
    save(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (network.name, network.outputs) == (again.name, again.outputs)
    assert network.provenance == again.provenance
    for old, new in zip(network.nodes, again.nodes, strict=True):
        assert (old.name, old.op, old.inputs, old.engine) == (
            new.name,
            new.op,
            new.inputs,
            new.engine,
        )
        assert dict(old.attrs) == dict(new.attrs)
        for name, tensor in old.tensors.items():
            found = new.tensors[name]
            assert (tensor.codec, tensor.version, tensor.shape) == (
                found.codec,
                found.version,
                found.shape,
            )
            assert dict(tensor.params) == dict(found.params)
            assert tensor.words.dtype == found.words.dtype
            assert tensor.words.tobytes() == found.words.tobytes()
            assert {key: value.tobytes() for key, value in tensor.scales.items()} == {
                key: value.tobytes() for key, value in found.scales.items()
            }
    assert "" == compare(again, (tmp_path / "a").read_bytes())


def test_container_is_safetensors(saved: bytes) -> None:
    """The safetensors library reads the file; every array begins at a multiple of its element."""
    arrays = safetensors.numpy.load(saved)
    assert (40, 16) == arrays["token:table"].shape
    assert (2, 16) == arrays["q:weight:group"].shape
    start = 8 + int.from_bytes(saved[:8], "little")
    assert 0 == start % 8
    for entry in Parts.of(saved).entries.values():
        width = {"U16": 2, "F16": 2, "I16": 2, "U32": 4, "F32": 4}[entry["dtype"]]
        assert 0 == (start + entry["data_offsets"][0]) % width


def test_numpy_scalars_and_tuples_become_json(tmp_path: Path) -> None:
    """Attributes may hold NumPy scalars and tuples; the file holds plain JSON of equal value."""
    network = transformer()
    factor = np.float32(0.1)
    nodes = tuple(
        replace(node, attrs={"factor": factor}) if node.op == "scale" else node
        for node in network.nodes
    )
    save(replace(network, nodes=nodes, provenance={"seeds": (1, np.int64(2))}), tmp_path / "n")
    again = load(tmp_path / "n")
    assert float(factor) == next(node for node in again.nodes if node.op == "scale").attrs["factor"]
    assert {"seeds": [1, 2]} == again.provenance


def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails, refused or interrupted, leaves the old file and nothing beside it."""
    path = tmp_path / "net"
    save(transformer(), path)
    before = path.read_bytes()
    with pytest.raises(PackedFormatError, match=r"^network: outputs must be distinct"):
        save(replace(transformer(), outputs=()), path)

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed_file.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(transformer(1), path)
    monkeypatch.undo()
    assert before == path.read_bytes()
    assert ["net"] == [entry.name for entry in tmp_path.iterdir()]


def test_save_syncs_before_it_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes reach the disk before the name points to them."""
    events: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(packed_file.os, "fsync", lambda fd: (events.append("sync"), sync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("rename"), rename(self, to))[1]
    )
    save(transformer(), tmp_path / "net")
    assert ["sync", "rename", "sync"] == events


Change = Callable[[Parts], None]


def _node(parts: Parts, name: str) -> dict[str, Any]:
    return next(node for node in parts.manifest["nodes"] if node["name"] == name)


def _set(name: str, *path: str, value: Any) -> Change:
    def change(parts: Parts) -> None:
        place = _node(parts, name)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _root(key: str, value: Any) -> Change:
    return lambda parts: parts.manifest.update({key: value})


def _entry(key: str, field: str, value: Any) -> Change:
    return lambda parts: parts.entries[key].update({field: value})


def _rename(parts: Parts) -> None:
    parts.entries["../../etc/passwd"] = parts.entries.pop("token:table")


def _nan(parts: Parts) -> None:
    begin = parts.entries["token:table"]["data_offsets"][0]
    parts.data[begin : begin + 2] = b"\x00\x7e"


def _infinity(parts: Parts) -> None:
    begin = parts.entries["o:weight:group"]["data_offsets"][0]
    parts.data[begin : begin + 2] = b"\x00\x7c"


def _surplus(parts: Parts) -> None:
    size = len(parts.data)
    parts.data += b"\x00\x00"
    parts.entries["more"] = {"dtype": "U16", "shape": [1], "data_offsets": [size, size + 2]}


REFUSALS: list[tuple[Change, str]] = [
    (_root("format_version", 2), "manifest: format_version must be 1, not 2; a later version"),
    (_root("format_version", True), "manifest: format_version must be 1, not True;"),
    (_root("format", "pickle"), "manifest: format must be 'cosil', not 'pickle'"),
    (_root("outputs", ["nothing"]), "network: output 'nothing' must be an input or a node"),
    (_root("more", 1), "manifest: must have exactly format, format_version, name,"),
    (
        _set("q", "op", value="lstm"),
        "node 'q': unknown operation 'lstm'; known are linear, conv2d, quantize",
    ),
    (_set("q", "engine", value="cpu"), "node 'q': linear must run on 'w4a8', not 'cpu'"),
    (
        _set("q", "inputs", value=["o"]),
        "node 'q': input 'o' must be a network input or an earlier node",
    ),
    (
        _set("q", "inputs", value=["ids"]),
        "node 'q': linear must read (i8) or (f16), not (ids)",
    ),
    (
        _set("q", "attrs", "mode", value="fixed"),
        "node 'q': attribute mode must be one of 'fp16', not 'fixed'",
    ),
    (
        _set("q", "attrs", "exec", value="rm"),
        "node 'q': unknown attribute 'exec'; known are mode",
    ),
    (
        _set("scaled", "attrs", "factor", value=10**19 * 10**19 * 2),
        "manifest: integers must have at most 20 digits, not 39",
    ),
    (
        _set("scaled", "attrs", "factor", value="0.5"),
        "node 'scaled': attribute factor must be a finite number in -3.40282e+38..3.40282e+38",
    ),
    (
        _set("norm1", "attrs", "eps", value=True),
        "node 'norm1': attribute eps must be a finite number in 0..1, not True",
    ),
    (
        _set("attention", "attrs", "kv_heads", value=3),
        "node 'attention': kv_heads must divide heads = 4, not 3",
    ),
    (
        _set("attention", "attrs", "heads", value=2**17),
        "node 'attention': attribute heads must be an int in 1..65536, not 131072",
    ),
    (_set("q", "name", value="../q"), "node: name must be up to 200 letters, digits"),
    (_set("q", "name", value="q\x1b[2J"), "node: name must be up to 200 letters, digits"),
    (_set("q", "name", value="norm1"), "tensor norm1:weight: must be in the file, once"),
    (_rename, "tensor token:table: must be in the file, once"),
    (_surplus, "tensor 'more': must belong to a node of the manifest"),
    (
        _entry("token:table", "shape", [41, 16]),
        "tensor token:table: data_offsets must span 1312 bytes, as dtype and shape say, not 1280",
    ),
    (
        _entry("token:table", "shape", [2**40, 2**40]),
        "tensor token:table: data_offsets must span 2417851639229258349412352 bytes",
    ),
    (
        _entry("token:table", "shape", [16, 40]),
        "tensor token:table: raw: shape must have 1 to 8 axes of at least 1 and be that",
    ),
    (_entry("token:table", "shape", [-40, -16]), "tensor token:table: shape must be 1 to 8 ints"),
    (_entry("token:table", "shape", [40.0, 16]), "tensor token:table: shape must be 1 to 8 ints"),
    (
        _entry("token:table", "dtype", "I16"),
        "tensor token:table: dtype must be that of the data, int16, not 'float16'",
    ),
    (_entry("token:table", "dtype", "F64"), "tensor token:table: dtype must be one of I8, U8,"),
    (
        _set("q", "tensors", "weight", "shape", value=[16, 17]),
        "tensor q:weight: int4: words of shape (16, 17) must be uint32[16, 3], not uint32[16, 2]",
    ),
    (
        _set("q", "tensors", "weight", "params", "encoding", value="gray"),
        "tensor q:weight: int4: encoding must be 'twos' or 'offset', not 'gray'",
    ),
    (
        _set("q", "tensors", "weight", "params", "group_size", value=17),
        "tensor q:weight: int4: group_size must be an int in 0..K = 16, not 17",
    ),
    (
        _set("q", "tensors", "weight", "version", value=9),
        "tensor q:weight: int4: version must be 1, not 9",
    ),
    (_nan, "tensor token:table: raw: floats must be finite"),
    (_infinity, "tensor o:weight: int4: group scales must be finite"),
]


@pytest.mark.parametrize(
    ("change", "message"), REFUSALS, ids=[str(index) for index in range(len(REFUSALS))]
)
def test_refusals_name_the_part_and_the_rule(
    change: Change, message: str, saved: bytes, tmp_path: Path
) -> None:
    """A file whose digests are right but which breaks a rule is refused with the rule's words."""
    parts = Parts.of(saved)
    change(parts)
    parts.sign()
    path = tmp_path / "bad"
    path.write_bytes(parts.join())
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}"):
        load(path)


@pytest.mark.parametrize(
    ("insertion", "message"),
    [
        ('"name":"twice",', "manifest: the key 'name' must not occur twice"),
        ('"x":NaN,', "manifest: numbers must be finite, not NaN"),
        ('"x":1e999,', "manifest: numbers must be finite, not '1e999'"),
        (f'"x":{"[" * 40}{"]" * 40},', "manifest: must nest at most 32 levels"),
        (f'"x":{"[" * 9000}', "manifest: must nest at most 32 levels"),
        (f'"x":{"9" * 21},', "manifest: integers must have at most 20 digits, not 21"),
        ('"x":"\\udc00",', "manifest: strings must not hold lone surrogates"),
        ('"x":1,,', "manifest: must be JSON: "),
    ],
)
def test_manifest_is_strict_json(
    insertion: str, message: str, saved: bytes, tmp_path: Path
) -> None:
    """What JSON libraries read in different ways is refused."""
    parts = Parts.of(saved)
    text = json.dumps(parts.manifest)
    (tmp_path / "bad").write_bytes(parts.join("{" + insertion + text[1:]))
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}"):
        load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file: must have at least 8 bytes, not 0"),
        (b"\xff" * 8, "header: length must be in 2..0, not 18446744073709551615"),
        ((100).to_bytes(8, "little") + b"{}", "header: length must be in 2..2, not 100"),
        ((2).to_bytes(8, "little") + b"[]", "header: must begin with '{', not b'['"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", "header: must be UTF-8, but byte 1 is not"),
        ((2).to_bytes(8, "little") + b"{}", "header: must hold an object '__metadata__'"),
    ],
)
def test_containers_that_are_none(data: bytes, message: str, tmp_path: Path) -> None:
    """Truncated and foreign files are refused before anything is parsed."""
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        load(tmp_path / "bad")


def test_damage_is_found_by_digest(saved: bytes, tmp_path: Path) -> None:
    """One flipped bit anywhere in the data, or in the manifest, is noticed."""
    path = tmp_path / "bad"
    data = bytearray(saved)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackedFormatError, match=r"^tensor .*: sha256 must be that of the manifest"):
        load(path)
    path.write_bytes(saved.replace(b"random", b"Random").replace(b"note", b"nota"))
    with pytest.raises(PackedFormatError, match=r"^manifest: sha256 must be that in __metadata__"):
        load(path)


def test_not_a_file(tmp_path: Path) -> None:
    """A named pipe is refused instead of waited for; a missing file is the system's error."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackedFormatError, match=r"^file: must be a regular file, not "):
        load(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "piece", ["[]", "{}", '{"a":[]}', '{"a":{},"b":{}}', '"ab"', "1e5", "[[]]"]
)
def test_dense_json_stays_in_the_allowance(piece: str, tmp_path: Path) -> None:
    """JSON that is far larger parsed than written is refused before it takes memory."""
    path = tmp_path / "dense"
    for size in (20_000, 200_000, 2_000_000):
        values = ",".join([piece] * (size // (len(piece) + 1)))
        text = f'{{"format":"cosil","format_version":1,"x":[{values}]}}'
        digest = hashlib.sha256(text.encode()).hexdigest()
        header = json.dumps(
            {"__metadata__": {"manifest": text, "manifest_sha256": digest}}
        ).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        tracemalloc.start()
        try:
            with pytest.raises(PackedFormatError):
                load(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= max(ALLOWANCE, 4 * path.stat().st_size)


def test_loading_takes_less_than_twice_a_large_file(tmp_path: Path) -> None:
    """The data of a large file is held once, with a small margin for checks."""
    table = raw.encode(np.zeros((4096, 512), np.float16))
    node = Node("token", "embedding", ("ids",), {}, {"table": table})
    path = tmp_path / "large"
    save(PackedNetwork("large", (Value("ids", "ids", (0,)),), (node,), ("token",)), path)
    tracemalloc.start()
    load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_never_pass_as_another_network(
    data: st.DataObject, saved: bytes, tmp_path: Path
) -> None:
    """Any change of any bytes gives PackedFormatError or a network that equals the file."""
    changed = bytearray(saved)
    places = st.lists(
        st.tuples(st.integers(0, len(saved) - 1), st.integers(1, 255)), min_size=1, max_size=4
    )
    for place, mask in data.draw(places):
        changed[place] ^= mask
    path = tmp_path / "flipped"
    path.write_bytes(changed)
    try:
        network = load(path)
    except PackedFormatError:
        return
    assert "" == compare(network, bytes(changed))


@pytest.mark.parametrize("signed", [False, True])
def test_fuzz_slice(signed: bool, tmp_path: Path) -> None:
    """A slice of `make fuzz`: no mutant crashes, hangs, takes too much memory or loads wrongly."""
    tally = campaign(250, 7, signed=signed, folder=tmp_path)
    assert [] == tally.failures
    assert 250 == sum(tally.outcomes.values())
    assert len(tally.outcomes) > 10
