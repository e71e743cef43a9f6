# SPDX-License-Identifier: Apache-2.0
"""A layer on engine `pim` as the network's reference runs it.

Weights, tables, generator seeds and images are read from the packed node (docs/engines/pim.md,
section 7) without the lowering that the machine uses, so that the two check each other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.reference.pim import Tile, cells, rescale
from algos.reference.w4a8 import tensor_of
from cosil.engines.pim import PimSpec
from cosil.lowering.conv import conv_geometry
from cosil.packed.generators import stream_state
from cosil.packed.network import Node

IMAGES = 32
"""Images of a convolution that are unfolded at once."""


class PimLayer:
    """A `linear` or `conv2d` node on engine `pim`, its cells decoded once, for repeated runs.

    Parameters
    ----------
    node : Node
        A node that has passed the checks of loading.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        attrs, weight = node.attrs, node.tensors["weight"]
        k, rows = weight.shape[1], attrs["group_rows"]
        noise = node.tensors.get("noise")
        self._noise = torch.zeros(0, dtype=torch.int32)
        if noise is not None:
            self._noise = tensor_of(noise.words).int()
        names = ("decomposition", "weight_bits", "activation_bits", "slice_bits", "adc_bits",
                 "columns", "mux")  # fmt: skip
        self.spec = PimSpec(
            rows=rows,
            groups=-(-k // rows),
            noise_bits=self._noise.numel().bit_length() - 1 if noise is not None else 0,
            **{name: attrs[name] for name in names},
        )
        self._cells = cells(self.spec, weight.words, k, rows)
        self._transfer = tensor_of(node.tensors["transfer"].words).int()
        self._epilogue = node.tensors["epilogue"].words

    def __call__(self, x: Tensor) -> Tensor:
        """Return the node's output, int8 or int16, of codes int8[..., K] or int8[B, C, H, W]."""
        codes = x.clamp(0, min(127, (1 << self.spec.activation_bits) - 1)).to(torch.uint8)
        tiles = self._tiles()
        if self.node.op == "linear":
            y = self._rows(tiles, codes.reshape(-1, codes.shape[-1]))
            return y.reshape(*x.shape[:-1], -1)
        geometry = conv_geometry(self.node)
        geometry.pop("groups")
        parts: list[Tensor] = []
        for start in range(0, x.shape[0], IMAGES):
            images = codes[start : start + IMAGES].float()
            # Unfold orders rows (c, kh, kw) and positions (oh, ow).
            columns = F.unfold(images, geometry["kernel"], **_rest(geometry)).transpose(1, 2)
            y = self._rows(tiles, columns.reshape(-1, columns.shape[2]).to(torch.uint8))
            parts.append(y.reshape(*columns.shape[:2], -1))
        y = torch.cat(parts).transpose(1, 2)
        size = _output_size(x.shape[2:], **geometry)
        return y.reshape(x.shape[0], -1, *size).contiguous()

    def _tiles(self) -> list[Tile]:
        """Return a tile for each O outputs, its generators as they begin."""
        spec, seed = self.spec, self.node.attrs.get("noise_seed", 0)
        tiles: list[Tile] = []
        for index, start in enumerate(range(0, self._cells.shape[0], spec.outputs)):
            part = self._cells[start : start + spec.outputs]
            first = seed + index * spec.adcs
            drawn = spec.adcs if spec.noise_bits else 0
            states = [stream_state(first + adc) for adc in range(drawn)]
            columns = part.shape[0] * spec.planes
            tile = Tile(
                spec=spec,
                rows=spec.rows,
                value_min=spec.value_min,
                cells=part,
                transfer=self._transfer[: columns if self._transfer.shape[0] > 1 else 1],
                noise=self._noise,
                states=torch.tensor(states, dtype=torch.int64),
            )
            tiles.append(tile)
        return tiles

    def _rows(self, tiles: list[Tile], x: Tensor) -> Tensor:
        """Return the outputs [M, N] of the next vectors uint8[M, K]."""
        acc = torch.cat([tile.accumulate(x) for tile in tiles], dim=1)
        attrs = self.node.attrs
        return rescale(
            acc,
            self._epilogue,
            relu=bool(attrs.get("relu", False)),
            wide=bool(attrs.get("wide", False)),
        )


def _rest(geometry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in geometry.items() if name != "kernel"}


def _output_size(
    size: torch.Size,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> list[int]:
    return [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
