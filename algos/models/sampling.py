# SPDX-License-Identifier: Apache-2.0
"""Text that a language model writes by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from algos.lib.graph import FloatGraph, KVCache, execute


def sample(graph: FloatGraph, begin: int, n: int, length: int, seed: int) -> Tensor:
    """Draw sequences from a model's own distribution, token by token with cached keys and values.

    Parameters
    ----------
    graph : FloatGraph
        Language model with one input of token numbers.
    begin : int
        First token of each sequence. Drawn again it begins a new text, as in training.
    n, length : int
        Number of sequences and tokens in each, the first included.
    seed : int
        Of the generator.

    Returns
    -------
    int64 (n, length)
        Token numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((n, 1), begin, dtype=torch.int64)
    cache = KVCache()
    last = ids
    while ids.shape[1] < length:
        logits = execute(graph, last, cache=cache)[0][:, -1]
        last = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids = torch.cat((ids, last), dim=1)
    return ids
