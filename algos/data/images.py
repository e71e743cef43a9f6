# SPDX-License-Identifier: Apache-2.0
"""Labelled images from files: IDX, CIFAR-10 binary, NPZ, folders of PNG; and the bundled digits."""

from __future__ import annotations

import gzip
import importlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algos.data.errors import MAX_BYTES, DataError, check_size

CIFAR_RECORD = 1 + 3 * 32 * 32
MAX_SIDE = 4096
_DAMAGED = (
    OSError, EOFError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Labelled images.

    Attributes
    ----------
    pixels : uint8[N, C, H, W]
        Brightness.
    labels : int64[N]
        Class numbers from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8 or 0 in self.pixels.shape:
            raise DataError(
                f"images must be uint8[N, C, H, W], not {self.pixels.dtype}{self.pixels.shape!r}"
            )
        if self.labels.shape != self.pixels.shape[:1]:
            raise DataError(f"{len(self.pixels)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.integer[Any]]) -> Images:
        """Return the images with these numbers."""
        return Images(self.pixels[index], self.labels[index])


def digits() -> Images:
    """Return scikit-learn's bundled digits: 1,797 images of 1 x 8 x 8, brightness 0..16.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    # scikit-learn takes a second to import.
    datasets: Any = importlib.import_module("sklearn.datasets")
    bunch = datasets.load_digits()
    return Images(bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64))


def read_idx(path: Path | str) -> NDArray[np.uint8]:
    """Read an IDX file of bytes (MNIST, Fashion-MNIST), plain or gzip.

    Raises
    ------
    DataError
        If it is no such file, or its length is not what its header says.

    References
    ----------
    LeCun et al., "The MNIST database", section "file formats".
    """
    path = Path(path)
    check_size(path)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            head = file.read(4)
            if head[:3] != b"\0\0\x08" or len(head) != 4 or not 1 <= head[3] <= 4:
                raise DataError(f"{path.name}: it must start as IDX of bytes, not {head!r}")
            sizes = file.read(4 * head[3])
            shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
            count = int(np.prod(shape, dtype=object))
            if len(shape) != head[3] or not 1 <= count <= MAX_BYTES:
                raise DataError(f"{path.name}: {shape!r} bytes are not in 1..{MAX_BYTES}")
            # In pieces: the header may promise more than there is.
            body = bytearray()
            while len(body) <= count and (piece := file.read(min(1 << 20, count + 1 - len(body)))):
                body += piece
    except _DAMAGED as error:
        raise DataError(f"{path.name}: {error}") from error
    if len(body) != count:
        more = "more than " if len(body) > count else "only "
        raise DataError(f"{path.name}: {shape!r} needs {count} bytes, there are {more}{len(body)}")
    return np.frombuffer(bytes(body), np.uint8).reshape(shape)


def load_idx(images: Path | str, labels: Path | str) -> Images:
    """Read images and labels from two IDX files.

    Raises
    ------
    DataError
        If a file is damaged, or the two do not belong together.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or classes.ndim != 1:
        raise DataError(
            f"IDX images must have 3 axes and labels 1, not {pixels.ndim} and {classes.ndim}"
        )
    return Images(pixels[:, None], classes.astype(np.int64))


def load_cifar10(path: Path | str) -> Images:
    """Read CIFAR-10 batches in the binary version: a label byte, then 3 x 32 x 32 bytes.

    Parameters
    ----------
    path : path
        One ``.bin`` file, or a folder whose ``data_batch_*.bin`` are read in order.

    Raises
    ------
    DataError
        If a file is no whole number of records, or a label is above 9.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the data's web page.
    """
    path = Path(path)
    files = sorted(path.glob("data_batch_*.bin")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{str(path)!r} holds no data_batch_*.bin")
    parts: list[NDArray[np.uint8]] = []
    for file in files:
        size = check_size(file)
        if size == 0 or size % CIFAR_RECORD:
            raise DataError(f"{file.name}: {size} bytes are no multiple of {CIFAR_RECORD}")
        records = np.fromfile(file, np.uint8).reshape(-1, CIFAR_RECORD)
        if records[:, 0].max() > 9:
            raise DataError(f"{file.name}: a label must be in 0..9, not {records[:, 0].max()}")
        parts.append(records)
    records = np.concatenate(parts)
    return Images(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64))


def load_npz(path: Path | str) -> Images:
    """Read arrays ``images`` uint8[N, H, W] or [N, C, H, W] and ``labels`` from an NPZ file.

    Raises
    ------
    DataError
        If an array is missing, of another kind, or larger than is allowed once unpacked.
    """
    path = Path(path)
    size = check_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info.file_size for info in archive.infolist()}
            # Deflate shrinks at most by 1032: what claims more is a bomb.
            if sum(members.values()) > min(MAX_BYTES, 1032 * size):
                raise DataError(f"{path.name}: it unpacks to {sum(members.values())} bytes")
            if not {"images.npy", "labels.npy"} <= members.keys():
                raise DataError(f"{path.name}: it must hold images and labels")
            arrays = [
                _read_npy(archive, name, members[f"{name}.npy"]) for name in ("images", "labels")
            ]
    except _DAMAGED as error:
        raise DataError(f"{path.name}: {error}") from error
    pixels, labels = arrays
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or labels.dtype.kind not in "iu":
        raise DataError(f"{path.name}: images must be uint8 and labels integers")
    if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) > 1 << 20:
        raise DataError(f"{path.name}: labels must be one number from 0 each")
    return Images(pixels if pixels.ndim == 4 else pixels[:, None], labels.astype(np.int64))


def _read_npy(archive: zipfile.ZipFile, name: str, size: int) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
        except (ValueError, TypeError, SyntaxError) as error:
            raise DataError(f"{name}: {error}") from error
        count = int(np.prod(shape, dtype=object))
        if dtype.hasobject or fortran or not 1 <= count * dtype.itemsize <= size:
            raise DataError(f"{name}: {dtype}{shape!r} does not fit {size} bytes")
        body = file.read()
    if len(body) != count * dtype.itemsize:
        raise DataError(f"{name}: {dtype}{shape!r} does not fit {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)


def load_png_folder(path: Path | str) -> Images:
    """Read a folder with one folder of PNG files per class; classes are numbered by name.

    Raises
    ------
    DataError
        If there is none, a file is no PNG, or the images differ in size or channels.
    """
    # Pillow comes with matplotlib and is needed here only.
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    classes = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for number, folder in enumerate(classes):
        for file in sorted(folder.glob("*.png")):
            check_size(file, 1 << 26)
            try:
                with Image.open(file, formats=["PNG"]) as image:
                    if max(image.size) > MAX_SIDE:
                        raise DataError(f"{file.name}: at most {MAX_SIDE} pixels a side")
                    mode = "L" if image.mode in ("1", "L", "I", "I;16") else "RGB"
                    array = np.asarray(image.convert(mode), np.uint8)
            except (OSError, SyntaxError, UnidentifiedImageError) as error:
                raise DataError(f"{file.name}: {error}") from error
            array = array[None] if mode == "L" else array.transpose(2, 0, 1)
            if pixels and array.shape != pixels[0].shape:
                raise DataError(f"{file.name}: {array.shape} differs from {pixels[0].shape}")
            pixels.append(array)
            labels.append(number)
    if not pixels:
        raise DataError(f"{str(path)!r} holds no folders of PNG files")
    return Images(np.stack(pixels), np.array(labels, np.int64))
