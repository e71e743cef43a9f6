# SPDX-License-Identifier: Apache-2.0
"""Linear and conv2d nodes on engine `xnor`, as torch states them.

Written from docs/engines/xnor.md: convolutions of -1 and +1 whose border is what `pad_value` says,
0 included, and a maximum over the outputs of a pool window.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.reference.pim import rescale
from algos.reference.w4a8 import EXACT_FLOAT32, tensor_of
from algos.reference.xnor import compare, exact_matmul
from cosil.lowering.conv import conv_geometry, pair
from cosil.packed import codecs
from cosil.packed.network import Node

IMAGES = 32
"""Images of a convolution that are computed at once."""


class XnorLayer:
    """A `linear` or `conv2d` node on engine `xnor`, its weights decoded once, for repeated runs.

    Parameters
    ----------
    node : Node
        A node that has passed the checks of loading.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._weight = tensor_of(codecs.decode(node.tensors["weight"])).float()
        self._columns = node.tensors["columns"].words

    def __call__(self, x: Tensor) -> Tensor:
        """Return the node's output, int8 or int16, of codes int8[..., K] or int8[B, C, H, W]."""
        signs = torch.where(x < 0, -1.0, 1.0)
        if self.node.op == "linear":
            s = exact_matmul(signs.reshape(-1, x.shape[-1]), self._weight)
            return self._outputs(s).reshape(*x.shape[:-1], -1)
        starts = range(0, x.shape[0], IMAGES)
        return torch.cat([self._convolve(signs[i : i + IMAGES]) for i in starts])

    def _convolve(self, signs: Tensor) -> Tensor:
        attrs, weight = self.node.attrs, self._weight
        geometry: dict[str, Any] = conv_geometry(self.node)
        kernel, (rows, columns) = geometry.pop("kernel"), geometry.pop("padding")
        padded = F.pad(
            signs, (columns, columns, rows, rows), value=float(attrs.get("pad_value", 0))
        )
        assert weight.shape[1] <= EXACT_FLOAT32
        # NNPACK's algorithms transform the operands first, which rounds.
        with torch.backends.nnpack.flags(enabled=False):
            s = F.conv2d(padded, weight.reshape(len(weight), -1, *kernel), None, **geometry)
        y = self._outputs(s.movedim(1, 3).long()).movedim(3, 1)
        pool = pair(attrs.get("pool", (1, 1)))
        if pool != (1, 1):
            y = F.max_pool2d(y.float(), pool).to(torch.int8)
        return y.contiguous()

    def _outputs(self, s: Tensor) -> Tensor:
        """Return the outputs [..., n] of sums int64[..., n]."""
        attrs = self.node.attrs
        if attrs["mode"] == "threshold":
            return torch.where(compare(s, self._columns), 1, -1).to(torch.int8)
        flags = {name: bool(attrs.get(name, False)) for name in ("relu", "wide")}
        return rescale(s.reshape(-1, s.shape[-1]), self._columns, **flags).reshape(s.shape)
