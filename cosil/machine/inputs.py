# SPDX-License-Identifier: Apache-2.0
"""Inputs of a network: checked arrays, or random ones where none are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.errors import CosilError
from cosil.packed.network import PackedNetwork, Value

Array = NDArray[Any]

DTYPES = {"f32": np.dtype(np.float32), "i8": np.dtype(np.int8), "ids": np.dtype(np.int32)}
LENGTH = 32
"""Length of a random sequence, or what the network's position tables hold if that is less."""


def bind(network: PackedNetwork, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the network's inputs by name, of the dtypes that the vector unit takes.

    Raises
    ------
    TypeError
        If an array has the wrong dtype.
    ValueError
        If an input is missing or unknown, or has the wrong shape.
    """
    names = [value.name for value in network.inputs]
    if set(inputs) != set(names):
        raise ValueError(
            f"network {network.name}: inputs must be {', '.join(names)}, "
            f"not {', '.join(inputs) or 'none'}"
        )
    return {value.name: _bind(network.name, value, inputs[value.name]) for value in network.inputs}


def _bind(network: str, value: Value, array: Array) -> Array:
    wanted = DTYPES[value.dtype]
    if value.dtype == "ids" and array.dtype.kind in "iu":
        array = array.astype(wanted)
    if array.dtype != wanted:
        raise TypeError(
            f"network {network}: input {value.name!r} must have dtype {wanted}, not {array.dtype}"
        )
    fits = array.ndim == len(value.shape) + 1 and all(
        size in (0, found) for size, found in zip(value.shape, array.shape[1:], strict=True)
    )
    if not fits or 0 in array.shape:
        shape = ", ".join(str(size or "any") for size in value.shape)
        raise ValueError(
            f"network {network}: input {value.name!r} must have shape (batch, {shape}), "
            f"not {array.shape}"
        )
    return array


def read_input(network: PackedNetwork, path: Path) -> dict[str, Array]:
    """Read the one input of a network from an .npy file, or several from an .npz file by name.

    float64 becomes float32; a missing batch axis is added.

    Raises
    ------
    CosilError
        If the file is not NumPy's, or needs pickle.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CosilError(
            f"{path} must be a NumPy .npy or .npz file: {error}", "write it with numpy.save"
        ) from error
    if isinstance(loaded, np.ndarray):
        if len(network.inputs) != 1:
            names = ", ".join(value.name for value in network.inputs)
            raise CosilError(
                f"network {network.name} has the inputs {names}: {path} must be an .npz file",
                "write it with numpy.savez(FILE, NAME=ARRAY, ...)",
            )
        arrays: dict[str, Array] = {network.inputs[0].name: loaded}
    else:
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    for value in network.inputs:
        array = arrays.get(value.name)
        if array is None:
            continue
        if value.dtype == "f32" and array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.ndim == len(value.shape):
            array = array[None]
        arrays[value.name] = array
    return arrays


def random_inputs(
    network: PackedNetwork, *, batch: int = 1, length: int = LENGTH, seed: int = 0
) -> dict[str, Array]:
    """Return random inputs: standard normal float32, int8 codes, or token numbers.

    Cycles, causes, counts and bytes do not depend on the values.
    """
    rng = np.random.default_rng(seed)
    tables = [node for node in network.nodes if node.op == "embedding"]
    rotary = [node.tensors["cos"].shape[0] for node in network.nodes if "cos" in node.tensors]
    placed = [node.tensors["table"].shape[0] for node in tables if node.attrs.get("positions")]
    longest = min([length, *rotary, *placed])
    arrays: dict[str, Array] = {}
    for value in network.inputs:
        shape = (batch, *(size or longest for size in value.shape))
        if value.dtype == "ids":
            vocabulary = min(
                node.tensors["table"].shape[0]
                for node in tables
                if value.name in node.inputs and not node.attrs.get("positions")
            )
            arrays[value.name] = rng.integers(0, vocabulary, shape, dtype=np.int32)
        elif value.dtype == "i8":
            arrays[value.name] = rng.integers(-128, 128, shape, dtype=np.int8)
        else:
            arrays[value.name] = rng.standard_normal(shape, dtype=np.float32)
    return arrays
