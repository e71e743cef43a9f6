# SPDX-License-Identifier: Apache-2.0
"""Character GPTs: learned positions, one fused projection for query, key and value.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class GptConfig:
    """Sizes and variants of a character GPT.

    Parameters
    ----------
    dim, layers, heads, vocab, context : int
        Width, blocks, heads, characters, longest sequence.
    activation : {"relu", "gelu"}
        Of the MLP, which is four times as wide.
    norm : {"rmsnorm", "layernorm"}
        Before attention, MLP and classifier.
    eps : float
        Added to the variance or mean square.
    """

    dim: int
    layers: int
    heads: int
    vocab: int
    context: int
    activation: Literal["relu", "gelu"] = "relu"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    eps: float = 1e-5


def _norm(config: GptConfig) -> nn.Module:
    kind = nn.RMSNorm if config.norm == "rmsnorm" else nn.LayerNorm
    return kind(config.dim, eps=config.eps)


class GptBlock(nn.Module):
    """Attention and MLP, each behind a norm and around a residual."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.n1 = _norm(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.o = nn.Linear(config.dim, config.dim, bias=False)
        self.n2 = _norm(config)
        self.up = nn.Linear(config.dim, 4 * config.dim, bias=False)
        self.act = nn.ReLU() if config.activation == "relu" else nn.GELU()
        self.down = nn.Linear(4 * config.dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (B, L, dim)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.n1(x)).chunk(3, dim=-1)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(out.transpose(1, 2).flatten(-2))
        return x + self.down(self.act(self.up(self.n2(x))))


class Gpt(nn.Module):
    """A decoder-only character model."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.tok = nn.Embedding(config.vocab, config.dim)
        self.pos = nn.Embedding(config.context, config.dim)
        self.blocks = nn.ModuleList(GptBlock(config) for _ in range(config.layers))
        self.nf = _norm(config)
        self.head = nn.Linear(config.dim, config.vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, L, vocab) for character numbers (B, L)."""
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.nf(x))
