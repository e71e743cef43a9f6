# SPDX-License-Identifier: Apache-2.0
"""Random convolutions, lowered to jobs of the array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import Job, Operands, layer_jobs, unsuited
from cosil.packed import binary, raw, ternary
from cosil.packed.network import Node
from verif.lib.generate import fixed_point_columns

STEPS = 700
"""About the most steps of a layer that has more than one fold of outputs."""


def conv_jobs(spec: XnorSpec, rng: np.random.Generator) -> list[tuple[Job, Operands]]:
    """Return the jobs of a random convolution that suits the array: all paddings, pools.

    It has up to twice as many outputs as a job, and is two jobs then.
    """
    while True:
        node, codes = _convolution(spec, rng)
        if not unsuited(spec, node, codes.shape):
            return layer_jobs(spec, node, codes)


def _convolution(spec: XnorSpec, rng: np.random.Generator) -> tuple[Node, NDArray[np.int8]]:
    """Return a convolution whose kernel fits its image, and the image."""
    kernel = rng.choice([1, 2, 3, 3, 3], 2)
    stride, dilation = rng.integers(1, 3, 2), rng.integers(1, 3, 2)
    pool = rng.integers(1, 3, 2) if spec.epilogue == "threshold" else np.ones(2, dtype=np.int64)
    # At least one pool window inside, without padding.
    size = (kernel - 1) * dilation + 1 + stride * (pool - 1) + rng.integers(4, size=2)
    area = int(kernel.prod())
    channels = int(rng.integers(1, max(1, min(spec.max_inputs // area, 12)) + 1))
    attrs: dict[str, Any] = {
        "mode": spec.epilogue,
        "kernel": kernel.tolist(),
        "stride": stride.tolist(),
        "padding": np.minimum(rng.choice([0, 1, 1, 2], 2), kernel - 1).tolist(),
        "dilation": dilation.tolist(),
        "pad_value": int(rng.choice([0, 0, 0, 0, -1, 1])),
    }
    folds = max(1, STEPS // (int(size.prod()) * spec.input_folds(channels * area)))
    n = int(rng.integers(1, min(2 * spec.max_outputs, folds * spec.pe) + 1))
    if spec.epilogue == "threshold":
        attrs["pool"] = pool.tolist()
        thr = rng.integers(-area, area, n, endpoint=True)
        columns = (thr & 0xFFFFFFFF).astype(np.uint64)
        columns |= rng.integers(2, size=n).astype(np.uint64) << np.uint64(54)
    else:
        attrs |= {"relu": bool(rng.integers(2)), "wide": bool(rng.integers(2))}
        largest = 16 * channels * area
        columns = fixed_point_columns(rng, n, largest, wide=attrs["wide"], corners=False)
    if spec.weights == "ternary" and rng.integers(4):
        weight = ternary.encode(rng.integers(-1, 2, (n, channels * area)))
    else:
        weight = binary.encode(rng.choice(np.array([-1, 1]), (n, channels * area)))
    tensors = {"weight": weight, "columns": raw.encode(columns)}
    codes = rng.integers(-128, 128, (1, channels, *size.tolist()), dtype=np.int8)
    return Node("conv", "conv2d", ("x",), attrs, tensors, "xnor"), codes
