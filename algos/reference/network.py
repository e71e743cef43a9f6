# SPDX-License-Identifier: Apache-2.0
"""A whole packed network in torch: the reference that every machine must equal bit by bit.

Matrix products and convolutions run as float BLAS under an asserted bound that makes them exact;
tests hold them equal to :func:`algos.reference.w4a8.reference`, which follows the engine's words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from algos.lib.float_ops import KVCache
from algos.reference import vector
from algos.reference.attention_node import Cascade, attention
from algos.reference.pim_node import PimLayer
from algos.reference.w4a8 import (
    EXACT_FLOAT32,
    EXACT_FLOAT64,
    epilogue_fp16,
    integer_matmul,
    magnitude,
    requantise,
    tensor_of,
    unpack_columns,
    unpack_int4,
)
from algos.reference.xnor_node import XnorLayer
from cosil.lowering.conv import conv_geometry
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.packed.tensor import PackedTensor

Observer = Callable[[str, Tensor], None]
Inputs = Mapping[str, Any] | Sequence[Any] | Tensor | NDArray[Any]

IMAGES = 32
"""Images of a convolution that are computed at once, so that float64 accumulators stay in cache."""

_LAYERS: dict[str, Callable[[Node], Callable[[Tensor], Tensor]]] = {
    "pim": PimLayer,
    "xnor": XnorLayer,
}
"""Engine -> its layers with weights decoded once."""

_DTYPES = {"f32": torch.float32, "i8": torch.int8, "i16": torch.int16, "f16": torch.float16}


def execute(
    network: PackedNetwork,
    inputs: Inputs,
    *,
    observe: Observer | None = None,
    cache: KVCache | None = None,
) -> dict[str, Tensor]:
    """Run a packed network.

    Parameters
    ----------
    network : PackedNetwork
        A network that has passed the checks of loading.
    inputs : mapping, sequence, Tensor or ndarray
        One array per network input, batch first: by name, in order, or alone. Token numbers may
        have any integer dtype.
    observe : callable, optional
        Called with the name and value of each network input and, in order, of each node.
    cache : KVCache, optional
        Keys and values of the positions of earlier calls, and the importance of tokens and heads
        where attention is pruned; extended in place by this call's.

    Returns
    -------
    dict of str to Tensor
        The network's outputs. Feeding a sequence in pieces through a cache gives the same bits as
        feeding it whole, where attention is causal and neither tokens nor heads are pruned.

    Raises
    ------
    TypeError
        If an input has the wrong dtype.
    ValueError
        If inputs do not match the network, or a value is infinite or NaN where that is refused.
    """
    return Reference(network).run(inputs, observe=observe, cache=cache)


class Reference:
    """A packed network with its weights decoded once, for repeated runs.

    Parameters
    ----------
    network : PackedNetwork
        A network that has passed the checks of loading.
    """

    def __init__(self, network: PackedNetwork) -> None:
        self.network = network
        self._weights = {
            node.name: _weight(node.tensors["weight"])
            for node in network.nodes
            if node.engine == "w4a8"
        }
        self._layers = {
            node.name: _LAYERS[node.engine](node)
            for node in network.nodes
            if node.engine in _LAYERS
        }
        self._last_use = {
            name: index for index, node in enumerate(network.nodes) for name in node.inputs
        }

    @torch.no_grad()
    def run(
        self,
        inputs: Inputs,
        *,
        observe: Observer | None = None,
        cache: KVCache | None = None,
    ) -> dict[str, Tensor]:
        """Run the network; see :func:`execute`."""
        values = _bind(self.network, inputs)
        batch, *positions = next(iter(values.values())).shape[:2]
        cascade: Cascade | None = None
        if any(node.engine == "attention" for node in self.network.nodes):
            cascade = Cascade.begin(batch, positions[0], cache)
        if observe is not None:
            for name, value in values.items():
                observe(name, value)
        keep = set(self.network.outputs)
        for index, node in enumerate(self.network.nodes):
            arguments = tuple(values[name] for name in node.inputs)
            if node.engine == "attention":
                assert cascade is not None
                result = attention(node, arguments, cache, cascade)
            else:
                result = self._node(node, arguments, cache)
            values[node.name] = result
            if observe is not None:
                observe(node.name, result)
            for name in node.inputs:
                if self._last_use[name] == index and name not in keep:
                    values.pop(name, None)
        if cache is not None:
            cache.commit(positions[0], cascade)
        return {name: values[name] for name in self.network.outputs}

    def _node(self, node: Node, inputs: tuple[Tensor, ...], cache: KVCache | None) -> Tensor:
        if node.engine in _LAYERS:
            return self._layers[node.name](inputs[0])
        if node.op == "conv2d":
            return _conv2d(node, inputs[0], self._weights[node.name])
        if node.op == "linear":
            return _linear(node, inputs[0], self._weights[node.name])
        return vector.apply(node, inputs, cache)


def _weight(tensor: PackedTensor) -> Tensor:
    """Return the int8[N, K] codes that enter the multipliers."""
    codes = unpack_int4(tensor.words, tensor.shape[1], str(tensor.params["encoding"]))
    group = int(tensor.params["group_size"])
    if not group:
        return codes
    scales = tensor_of(np.asarray(tensor.scales["group"], dtype=np.float16))
    return requantise(codes, scales, group)


def _linear(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    shape = (*x.shape[:-1], weight.shape[0])
    if node.attrs.get("mode", "fixed") == "fixed":
        acc = integer_matmul(x.reshape(-1, x.shape[-1]), weight)
        columns = node.tensors["epilogue"].words
        return fixed_exact(acc.double(), columns, node.attrs, axis=1).reshape(shape)
    codes, scales = vector.quantize_rows(x, node.name)
    s_ch = tensor_of(np.asarray(node.tensors["weight"].scales["channel"], dtype=np.float32))
    y = epilogue_fp16(integer_matmul(codes, weight), s_ch, scales)
    if "bias" in node.tensors:
        y = vector.add(y, tensor_of(node.tensors["bias"].words))
    return y.reshape(shape)


def _conv2d(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    geometry = conv_geometry(node)
    kernel = geometry.pop("kernel")
    # Every partial sum is an integer that the type holds exactly, in whatever order they are added.
    bound = weight.shape[1] * magnitude(x) * magnitude(weight)
    assert bound <= EXACT_FLOAT64
    exact = torch.float32 if bound <= EXACT_FLOAT32 else torch.float64
    w = weight.reshape(weight.shape[0], -1, *kernel).to(exact)
    columns = node.tensors["epilogue"].words
    parts: list[Tensor] = []
    # Torch's other backends add products (oneDNN "direct", im2col and BLAS); NNPACK's algorithms
    # transform the operands first, which rounds.
    with torch.backends.nnpack.flags(enabled=False):
        for start in range(0, x.shape[0], IMAGES):
            acc = F.conv2d(x[start : start + IMAGES].to(exact), w, None, **geometry)
            parts.append(fixed_exact(acc.double(), columns, node.attrs, axis=1))
    return torch.cat(parts)


def fixed_exact(
    acc: Tensor, columns: NDArray[np.uint64], attrs: Mapping[str, Any], *, axis: int
) -> Tensor:
    """Return the fixed epilogue of integer accumulators held in float64, channels on `axis`.

    |(acc + bias) * mult| <= 2**53 is asserted: the product is exact, and so is its division by a
    power of two. The one rounding is torch.round, to nearest even.
    """
    bias, mult, shift = unpack_columns(columns)
    low, high = torch.aminmax(acc) if acc.numel() else (acc.new_zeros(()), acc.new_zeros(()))
    largest = max(-float(low), float(high)) + magnitude(bias)
    assert largest * magnitude(mult) <= EXACT_FLOAT64
    scale = tensor_of(np.ldexp(1.0, -shift.numpy()))
    shape = [-1 if i == axis else 1 for i in range(acc.ndim)]
    bias, mult, scale = (part.double().reshape(shape) for part in (bias, mult, scale))
    y = (acc + bias).mul_(mult).mul_(scale).round_()
    wide = bool(attrs.get("wide", False))
    limit = 32768 if wide else 128
    floor = 0 if attrs.get("relu", False) else -limit
    return y.clamp_(floor, limit - 1).to(torch.int16 if wide else torch.int8)


def _bind(network: PackedNetwork, inputs: Inputs) -> dict[str, Tensor]:
    """Return the network's inputs by name, checked."""
    names = [value.name for value in network.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValueError(
                f"network {network.name}: inputs must be {', '.join(names)}, "
                f"not {', '.join(inputs) or 'none'}"
            )
        arrays = [inputs[name] for name in names]
    else:
        arrays = [inputs] if isinstance(inputs, (Tensor, np.ndarray)) else list(inputs)
    if len(arrays) != len(names):
        raise ValueError(
            f"network {network.name}: {len(names)} inputs are required, not {len(arrays)}"
        )
    return {
        value.name: _check(network.name, value, array)
        for value, array in zip(network.inputs, arrays, strict=True)
    }


def _check(network: str, value: Value, array: Tensor | NDArray[Any]) -> Tensor:
    tensor = array if isinstance(array, Tensor) else tensor_of(np.asarray(array))
    integer = not tensor.is_floating_point() and not tensor.is_complex()
    if not (integer if value.dtype == "ids" else tensor.dtype == _DTYPES[value.dtype]):
        expected = "an integer dtype" if value.dtype == "ids" else f"{_DTYPES[value.dtype]}"
        raise TypeError(
            f"network {network}: input {value.name!r} must have {expected}, not {tensor.dtype}"
        )
    fits = tensor.ndim == len(value.shape) + 1 and all(
        wanted in (0, found) for wanted, found in zip(value.shape, tensor.shape[1:], strict=True)
    )
    if not fits or 0 in tensor.shape:
        shape = ", ".join("any" if size == 0 else str(size) for size in value.shape)
        raise ValueError(
            f"network {network}: input {value.name!r} must have the shape (batch, {shape}), "
            f"not {tuple(tensor.shape)}"
        )
    return tensor
