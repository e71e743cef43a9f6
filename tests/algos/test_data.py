# SPDX-License-Identifier: Apache-2.0
"""Loaders read what the formats say and refuse damaged and hostile files."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from algos.data.errors import DataError
from algos.data.folder import data_file, data_folder
from algos.data.images import (
    Images,
    digits,
    load_cifar10,
    load_idx,
    load_npz,
    load_png_folder,
    read_idx,
)
from algos.data.text import ASCII, Alphabet, load_text, topics

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 9, 1])


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def test_idx_round_trip(tmp_path: Path) -> None:
    """IDX files, plain and gzip, give their pixels and labels."""
    (tmp_path / "images").write_bytes(gzip.compress(idx(PIXELS[:, 0])))
    (tmp_path / "labels").write_bytes(idx(LABELS.astype(np.uint8)))
    images = load_idx(tmp_path / "images", tmp_path / "labels")
    assert np.array_equal(PIXELS[:, :1], images.pixels)
    assert LABELS.tolist() == images.labels.tolist()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x0d\x01" + bytes(8),  # floats
        b"\0\0\x08\x05" + bytes(40),  # five axes
        idx(PIXELS[0, 0])[:-1],
        idx(PIXELS[0, 0]) + b"\0",
        b"\0\0\x08\x04" + b"\xff" * 16,  # 2**128 bytes
        b"\0\0\x08\x02" + struct.pack(">2I", 1 << 15, 1 << 15),  # 2**30 promised, none there
        b"\0\0\x08\x01" + bytes(4),
        b"\x1f\x8b\x08" + bytes(20),
        gzip.compress(idx(PIXELS[0, 0]))[:-9],
        gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 10) + bytes(1 << 24)),  # unpacks to more
    ],
)
def test_hostile_idx_is_refused(tmp_path: Path, blob: bytes) -> None:
    """A header that does not fit the file's bytes is an error, before memory is asked for."""
    path = tmp_path / "file"
    path.write_bytes(blob)
    with pytest.raises(DataError, match=r"^file: "):
        read_idx(path)


def test_cifar10_binary(tmp_path: Path) -> None:
    """Records of a label and 3072 bytes are read in the order of the files."""
    records = np.concatenate([LABELS[:, None].astype(np.uint8), PIXELS.reshape(5, -1)], axis=1)
    (tmp_path / "data_batch_1.bin").write_bytes(records[:2].tobytes())
    (tmp_path / "data_batch_2.bin").write_bytes(records[2:].tobytes())
    images = load_cifar10(tmp_path)
    assert np.array_equal(PIXELS, images.pixels)
    assert LABELS.tolist() == images.labels.tolist()
    (tmp_path / "bad.bin").write_bytes(records.tobytes()[:-1])
    with pytest.raises(DataError, match="15364 bytes are no multiple of 3073"):
        load_cifar10(tmp_path / "bad.bin")
    (tmp_path / "bad.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match=r"a label must be in 0\.\.9, not 10"):
        load_cifar10(tmp_path / "bad.bin")


def test_png_folders(tmp_path: Path) -> None:
    """Each folder is a class; the pixels are those of the files."""
    for i, name in enumerate(("cat", "dog", "dog")):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(PIXELS[i].transpose(1, 2, 0)).save(tmp_path / name / f"{i}.png")
    images = load_png_folder(tmp_path)
    assert np.array_equal(PIXELS[:3], images.pixels)
    assert images.labels.tolist() == [0, 1, 1]
    (tmp_path / "cat" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DataError, match=r"^x\.png: "):
        load_png_folder(tmp_path)


def npz(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(f"{name}.npy", body)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def test_npz(tmp_path: Path) -> None:
    """Arrays come back; objects, bombs, missing and malformed members are refused."""
    path = tmp_path / "file.npz"
    np.savez_compressed(path, images=PIXELS[:, 0], labels=LABELS)
    assert np.array_equal(PIXELS[:, :1], load_npz(path).pixels)
    good = npy(LABELS)
    for blob in (
        b"no zip",
        npz(images=npy(PIXELS)),
        npz(images=npy(np.array([{}], dtype=object)), labels=good),
        npz(images=npy(PIXELS)[:-1], labels=good),
        npz(images=npy(PIXELS).replace(b"(5, 3,", b"(9, 9,"), labels=good),
        npz(images=npy(PIXELS.astype(np.float32)), labels=good),
        npz(images=npy(PIXELS), labels=npy(-LABELS)),
        npz(images=npy(PIXELS), labels=npy(LABELS[:4])),
    ):
        path.write_bytes(blob)
        with pytest.raises(DataError):
            load_npz(path)


def test_images_are_checked() -> None:
    """Images and labels belong together."""
    with pytest.raises(DataError, match=r"^5 images have 4 labels$"):
        Images(PIXELS, LABELS[:4])


def test_bundled_digits() -> None:
    """The digits are those of scikit-learn's page: 1,797 of 8 x 8 with 16 levels, ten classes."""
    images = digits()
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.max() == 16
    assert np.bincount(images.labels).min() > 170


def test_text(tmp_path: Path) -> None:
    """Text round-trips through an alphabet; other characters and encodings are refused."""
    path = tmp_path / "a.txt"
    path.write_bytes("naïve\r\n".encode())
    assert load_text(path) == "naïve\n"
    alphabet = Alphabet("\naeïnv")
    assert alphabet.decode(alphabet.encode("naïve\n")) == "naïve\n"
    with pytest.raises(DataError, match=r"^the alphabet has no character 'x'$"):
        alphabet.encode("x")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="it is no UTF-8"):
        load_text(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^a\.txt: it is empty$"):
        load_text(path)


def test_topics_are_ascii_and_long() -> None:
    """The bundled manual is long enough to train on and uses 96 characters at most."""
    text = topics()
    assert len(text) > 300_000
    assert set(text) <= set(ASCII)
    assert len(ASCII) == 96


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COSIL_DATA names the folder, an argument overrides it, and what is missing is said."""
    monkeypatch.delenv("COSIL_DATA", raising=False)
    with pytest.raises(DataError, match="set COSIL_DATA or give --data"):
        data_folder()
    monkeypatch.setenv("COSIL_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    with pytest.raises(DataError, match="the data folder has no 'a/b'"):
        data_file("a/b")
    with pytest.raises(DataError, match="the data folder must be a folder"):
        data_folder(tmp_path / "none")
