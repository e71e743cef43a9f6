# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written by `torch.save` (.pt, .pth, .th), read without running what they hold."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from algos.models.gpt import Gpt, GptConfig
from algos.models.resnet import CifarResNet

MAX_BYTES = 1 << 30
_LEGACY_PICKLES = 4  # magic number, protocol, system, objects; the tensors follow


class CheckpointError(ValueError):
    """A checkpoint that is damaged, hostile or not of the expected kind."""


def read_checkpoint(path: Path | str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read the dictionary that a checkpoint holds.

    Parameters
    ----------
    path : path
        A zip archive or a legacy file of `torch.save`.
    max_bytes : int
        Larger files, and archives that unpack to more, are refused.

    Returns
    -------
    dict
        Tensors, numbers, strings and containers of them; no other class is ever made.

    Raises
    ------
    CheckpointError
        If the file is too large, damaged, holds other classes, or declares more than it holds.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise CheckpointError(f"{path.name}: at most {max_bytes} bytes are read, not {size}")
    try:
        _check_sizes(path, size, max_bytes)
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, AttributeError, TypeError,
            IndexError, AssertionError, UnicodeDecodeError, zipfile.BadZipFile,
            pickle.UnpicklingError, NotImplementedError, OverflowError) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path.name}: it is no checkpoint of tensors: {reason}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path.name}: it must hold a dict, not {type(loaded).__name__!r}")
    checkpoint = cast("dict[str, Any]", loaded)
    _check_tensors(path, checkpoint, size)
    return checkpoint


def _check_sizes(path: Path, size: int, max_bytes: int) -> None:
    """Refuse archives that unpack to more than allowed and pickles with huge numbers."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
            if total > max_bytes:
                raise CheckpointError(f"{path.name}: it unpacks to {total} bytes")
            pickles = [i for i in archive.infolist() if i.filename.endswith("data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(f"{path.name}: it must hold one data.pkl, not {len(pickles)}")
            _check_integers(path, io.BytesIO(archive.read(pickles[0])), max(size, total))
        return
    with path.open("rb") as file:
        for i in range(_LEGACY_PICKLES):
            _check_integers(path, file, size if i else None)


def _check_integers(path: Path, file: IO[bytes], limit: int | None) -> None:
    """Refuse a pickle with an integer above `limit`: no shape or length can be as large."""
    for _, argument, _ in pickletools.genops(file):
        if limit is not None and isinstance(argument, int) and abs(argument) > limit:
            raise CheckpointError(
                f"{path.name}: it declares a size of {argument}, more than the file holds"
            )


def _check_tensors(path: Path, value: object, size: int) -> None:
    """Refuse views that stretch a few bytes to a huge tensor, and what is not finite."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.numel() * value.element_size() > size:
            raise CheckpointError(
                f"{path.name}: a tensor of shape {tuple(value.shape)} is more than the file holds"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path.name}: a tensor holds NaN or infinity")
    elif isinstance(value, Mapping):
        for part in cast("Mapping[object, object]", value).values():
            _check_tensors(path, part, size)
    elif isinstance(value, list | tuple):
        for part in cast("list[object]", value):
            _check_tensors(path, part, size)


def _state(path: Path | str, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    state: object = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping) or not all(
        isinstance(x, Tensor) for x in cast("Mapping[str, object]", state).values()
    ):
        raise CheckpointError(f"{Path(path).name}: it holds no state_dict of tensors")
    tensors = cast("Mapping[str, Tensor]", state)
    # nn.DataParallel puts "module." before each name.
    return {str(k).removeprefix("module."): v for k, v in tensors.items()}


def _fill(path: Path | str, module: nn.Module, state: dict[str, Tensor]) -> None:
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        keys: Any = module.load_state_dict(floats, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{Path(path).name}: {reason}") from error
    # Counters of batch norm are absent from checkpoints older than torch 0.4.1.
    missing: list[str] = keys.missing_keys
    strange: list[str] = keys.unexpected_keys
    strange += [name for name in missing if not name.endswith("num_batches_tracked")]
    if strange:
        names = ", ".join(strange[:3])
        raise CheckpointError(f"{Path(path).name}: tensors missing or not known: {names}")
    module.eval()


def load_resnet(path: Path | str) -> CifarResNet:
    """Read a ResNet for CIFAR-10 with option A shortcuts.

    Raises
    ------
    CheckpointError
        If the checkpoint does not hold such a network.
    """
    state = _state(path, read_checkpoint(path))
    blocks = {int(m[1]) for k in state if (m := re.match(r"layer1\.(\d{1,3})\.", k))}
    classes = state["linear.weight"].shape[0] if "linear.weight" in state else 0
    if not blocks or not 1 <= classes <= 1000:
        raise CheckpointError(f"{Path(path).name}: it holds no ResNet for CIFAR-10")
    model = CifarResNet(max(blocks) + 1, classes)
    _fill(path, model, state)
    return model


def load_gpt(path: Path | str) -> tuple[Gpt, str]:
    """Read a character GPT and its characters, in the order of their numbers.

    Raises
    ------
    CheckpointError
        If the checkpoint does not hold such a network.
    """
    checkpoint = read_checkpoint(path)
    chars = checkpoint.get("chars")
    found: object = checkpoint.get("config")
    config = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    wanted = {"act": "relu", "norm": "rmsnorm eps1e-5", "pos": "learned"}
    known = all(config.get(key) == value for key, value in wanted.items())
    if not known or not isinstance(chars, str):
        raise CheckpointError(f"{Path(path).name}: it holds no character GPT")
    sizes = [config.get(key) for key in "DLHVT"]
    if not all(isinstance(size, int) and 1 <= size <= 65536 for size in sizes):
        raise CheckpointError(f"{Path(path).name}: its sizes must be 1..65536, not {sizes!r}")
    dim, layers, heads, vocab, context = cast("list[int]", sizes)
    state = _state(path, checkpoint)
    elements = sum(x.numel() for x in state.values())
    if dim * (12 * dim * layers + 2 * vocab + context) > elements or dim % heads:
        raise CheckpointError(f"{Path(path).name}: its config asks for more than its tensors hold")
    if len(chars) != vocab or len(set(chars)) != vocab:
        raise CheckpointError(f"{Path(path).name}: it must name {vocab} characters, not {chars!r}")
    model = Gpt(GptConfig(dim, layers, heads, vocab, context))
    _fill(path, model, state)
    return model, chars
