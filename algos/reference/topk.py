# SPDX-License-Identifier: Apache-2.0
"""The top-k engine's result, in torch.

Written from docs/engines/topk.md, section 1, and from nothing else: one stable sort of the keys
themselves, whatever the architecture does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosil.engines.topk import TopkSpec


def reference(spec: TopkSpec, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best keys in input order.

    The better key ranks first, equal keys rank in input order; kept are the first min(k, n) ranks.

    Parameters
    ----------
    spec : TopkSpec
        The engine; only `key_bits`, `signed`, `largest` and `max_n` have an influence.
    keys : int64[n]
        Values of w bits, signed or not as the spec says.
    k : int
        How many to keep, at least 0.

    Returns
    -------
    values, indices : int64[min(k, n)] each
        Indices strictly increase.

    Raises
    ------
    TypeError
        If the keys are not int64.
    ValueError
        If a key has more than w bits, or n or k is not one that the engine takes.
    """
    if keys.dtype != torch.int64 or keys.ndim != 1:
        raise TypeError(
            "topk: keys must be a one-dimensional int64 tensor, "
            f"not {keys.ndim}-dimensional {keys.dtype}"
        )
    n = keys.numel()
    if not 1 <= n <= spec.max_n:
        raise ValueError(f"topk: n must be in 1..{spec.max_n}, not {n!r}")
    if k < 0:
        raise ValueError(f"topk: k must be at least 0, not {k!r}")
    low = -(1 << (spec.key_bits - 1)) if spec.signed else 0
    high = low + (1 << spec.key_bits) - 1
    least, most = (int(bound) for bound in torch.aminmax(keys))
    if least < low or most > high:
        bad = least if least < low else most
        raise ValueError(f"topk: keys must be in {low}..{high}, not {bad}")
    ranking = torch.sort(keys, descending=spec.largest, stable=True).indices
    indices = torch.sort(ranking[:k]).values
    return keys[indices], indices
