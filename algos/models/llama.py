# SPDX-License-Identifier: Apache-2.0
"""Llama-2 style language models: rotary positions, grouped-query heads, SwiGLU.

Source: Touvron et al., "Llama 2", arXiv 2307.09288; pairs of the rotary embedding are (2i, 2i + 1)
as in the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes of a Llama model.

    Parameters
    ----------
    dim, hidden, layers, heads, kv_heads, vocab, context : int
        Width, width of the MLP, blocks, query heads, key and value heads, tokens, longest sequence.
    eps : float
        Added to the mean square in each norm.
    theta : float
        Base of the rotary frequencies.
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    eps: float = 1e-5
    theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads


def rotary_tables(config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Return cos and sin of position times frequency, float32 (context, head_dim / 2)."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angle = torch.outer(torch.arange(config.context).double(), config.theta**-half)
    return angle.cos().float(), angle.sin().float()


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped-query heads."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_dim = config.kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wk = nn.Linear(config.dim, kv_dim, bias=False)
        self.wv = nn.Linear(config.dim, kv_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        cos, sin = rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output for x (B, L, dim)."""
        q = self._rotate(self.wq(x).unflatten(-1, (self.heads, -1)))
        k = self._rotate(self.wk(x).unflatten(-1, (self.kv_heads, -1)))
        v = self.wv(x).unflatten(-1, (self.kv_heads, -1))
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )  # fmt: skip
        return self.wo(out.transpose(1, 2).flatten(-2))

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotate the pairs (2i, 2i + 1) of x (B, L, heads, d) by their position's angle."""
        cos = self.cos[: x.shape[1], None]
        sin = self.sin[: x.shape[1], None]
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP's output for x (B, L, dim)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around a residual."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (B, L, dim)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """A decoder-only language model; the classifier shares the token embedding's weight."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.eps)
        self.output = nn.Linear(config.dim, config.vocab, bias=False)
        self.output.weight = self.tok_embeddings.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, L, vocab) for token numbers (B, L)."""
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))
