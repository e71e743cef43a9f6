# SPDX-License-Identifier: Apache-2.0
"""Attention, however it is written, becomes one node; what it cannot become is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.lib.export import ExportError, export
from algos.lib.graph import FloatGraph, KVCache, execute

B, L, HEADS, DIM = 2, 12, 4, 6
WIDTH = HEADS * DIM


class Base(nn.Module):
    """Embedding, projections of one attention, classifier; subclasses write the attention."""

    def __init__(self, kv_heads: int = HEADS) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.kv_heads = kv_heads
        self.tok = nn.Embedding(17, WIDTH)
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, kv_heads * DIM)
        self.v = nn.Linear(WIDTH, kv_heads * DIM)
        self.o = nn.Linear(WIDTH, 17)

    def forward(self, ids: Tensor) -> Tensor:
        return self.o(self.attend(self.tok(ids)))

    def attend(self, x: Tensor) -> Tensor:
        raise AssertionError


def angles(length: int, style: str) -> Tensor:
    frequency = 1 / 10000 ** (torch.arange(0, DIM, 2).float() / DIM)
    angle = torch.outer(torch.arange(length).float(), frequency)
    return torch.cat((angle, angle), -1) if style == "half" else angle


class Manual(Base):
    """q kᵀ / sqrt(d) with a triangular buffer, softmax, product, as in many GPTs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(L, L)).view(1, 1, L, L))
        self.drop = nn.Dropout(0.2)

    def attend(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        k = self.k(x).view(b, t, HEADS, c // HEADS).transpose(1, 2)
        q = self.q(x).view(b, t, HEADS, c // HEADS).transpose(1, 2)
        v = self.v(x).view(b, t, HEADS, c // HEADS).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = self.drop(F.softmax(att, dim=-1)) @ v
        return y.transpose(1, 2).contiguous().view(b, t, c)


class ManualTriu(Base):
    """Query scaled first, an additive mask made in forward, heads permuted."""

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            lin(x).reshape(b, t, HEADS, DIM).permute(0, 2, 1, 3) for lin in (self.q, self.k, self.v)
        )
        mask = torch.triu(torch.full((t, t), -1e9), diagonal=1)
        scores = torch.matmul(q * DIM**-0.5, k.permute(0, 1, 3, 2)) + mask
        out = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3)
        return out.reshape(b, t, WIDTH)


class RotateHalf(Base):
    """Rotary embedding as x cos + rotate_half(x) sin, grouped heads by repeat_interleave."""

    def __init__(self) -> None:
        super().__init__(kv_heads=2)

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        angle = angles(t, "half")
        cos, sin = angle.cos()[None, None], angle.sin()[None, None]

        def heads(y: Tensor) -> Tensor:
            return y.view(b, t, -1, DIM).transpose(1, 2)

        def turn(y: Tensor) -> Tensor:
            first, second = y[..., : DIM // 2], y[..., DIM // 2 :]
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        q, k, v = turn(heads(self.q(x))), turn(heads(self.k(x))), heads(self.v(x))
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(b, t, WIDTH)


class ComplexPairs(Base):
    """Rotary embedding as a product of complex numbers, grouped heads by expand."""

    def __init__(self) -> None:
        super().__init__(kv_heads=2)
        angle = angles(2 * L, "interleaved")
        self.register_buffer("freqs", torch.polar(torch.ones_like(angle), angle))

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape

        def turn(y: Tensor) -> Tensor:
            pairs = torch.view_as_complex(y.float().reshape(*y.shape[:-1], -1, 2))
            turned = pairs * self.freqs[:t].view(1, t, 1, DIM // 2)
            return torch.view_as_real(turned).flatten(3).type_as(y)

        def repeat(y: Tensor) -> Tensor:
            wide = y[:, :, :, None, :].expand(b, t, 2, HEADS // 2, DIM)
            return wide.reshape(b, t, HEADS, DIM)

        q = turn(self.q(x).view(b, t, HEADS, DIM)).transpose(1, 2)
        k = repeat(turn(self.k(x).view(b, t, 2, DIM))).transpose(1, 2)
        v = repeat(self.v(x).view(b, t, 2, DIM)).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(DIM)
        keep = torch.ones(t, t, dtype=torch.bool).tril()
        scores = scores.masked_fill(~keep, float("-inf"))
        out = torch.matmul(F.softmax(scores.float(), dim=-1).type_as(q), v)
        return out.transpose(1, 2).contiguous().view(b, t, -1)


class FusedVit(Base):
    """One projection viewed as (3, heads, d) and unbound; no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def attend(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)


class FusedPerHead(Base):
    """One projection whose rows are interleaved head by head, with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def attend(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, HEADS, 3 * DIM).transpose(1, 2).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        return y.transpose(1, 2).reshape(b, t, c)


class MaskArgument(Base):
    """A boolean causal mask given to the fused function, grouped heads by its own option."""

    def __init__(self) -> None:
        super().__init__(kv_heads=1)

    def attend(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        q = self.q(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (1, DIM)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (1, DIM)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)


class BatchedProducts(Base):
    """Heads moved into the batch, products by bmm."""

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            lin(x).view(b, t, HEADS, DIM).transpose(1, 2).reshape(b * HEADS, t, DIM)
            for lin in (self.q, self.k, self.v)
        )
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * DIM**-0.5, dim=2)
        y = torch.bmm(weights, v).view(b, HEADS, t, DIM)
        return y.transpose(1, 2).reshape(b, t, WIDTH)


class OneHead(Base):
    """A single head without any split."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return (q @ k.mT / math.sqrt(WIDTH)).softmax(-1) @ v


CASES = [
    (Manual, (HEADS, HEADS, True, DIM**-0.5, "none")),
    (ManualTriu, (HEADS, HEADS, True, DIM**-0.5, "none")),
    (RotateHalf, (HEADS, 2, True, DIM**-0.5, "half")),
    (ComplexPairs, (HEADS, 2, True, DIM**-0.5, "interleaved")),
    (FusedVit, (HEADS, HEADS, False, DIM**-0.5, "none")),
    (FusedPerHead, (HEADS, HEADS, True, 0.3, "none")),
    (MaskArgument, (HEADS, 1, True, DIM**-0.5, "none")),
    (BatchedProducts, (HEADS, HEADS, False, DIM**-0.5, "none")),
    (OneHead, (1, 1, False, WIDTH**-0.5, "none")),
]


def token_numbers(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    return torch.randint(0, 17, (batch, length), generator=generator)


@pytest.mark.parametrize(("kind", "expected"), CASES, ids=[case[0].__name__ for case in CASES])
def test_attention_is_recognised(
    kind: type[Base], expected: tuple[int, int, bool, float, str]
) -> None:
    """Each spelling becomes one attention node that reads linears and equals the module."""
    module = kind().eval()
    graph = export(module, (token_numbers(B, L),))
    (node,) = graph.ops("attention")
    heads, kv_heads, causal, scale, rope = expected
    assert (heads, kv_heads, causal, rope) == tuple(
        node.attrs[key] for key in ("heads", "kv_heads", "causal", "rope")
    )
    assert node.attrs["scale"] == pytest.approx(scale, rel=1e-6)
    assert [graph.node(name).op for name in node.inputs] == ["linear"] * 3
    assert [n.op for n in graph.nodes] == ["embedding", *["linear"] * 3, "attention", "linear"]
    for batch, length in ((1, L), (3, 5), (1, 1)):
        ids = token_numbers(batch, length)
        torch.testing.assert_close(execute(graph, ids)[0], module(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Manual, RotateHalf, ComplexPairs, FusedPerHead])
def test_cache_equals_whole_sequence(kind: type[Base]) -> None:
    """Keys and values of earlier positions, cached, give what the whole sequence gives."""
    graph = export(kind(), (token_numbers(B, L),))
    ids = token_numbers(3, L)
    whole = execute(graph, ids)[0]
    cache = KVCache()
    parts = [execute(graph, ids[:, a:b], cache=cache)[0] for a, b in ((0, 5), (5, 6), (6, L))]
    assert cache.length == L
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_rotary_tables_are_the_angles() -> None:
    """The probed tables are cos and sin of position times frequency."""
    for kind in (RotateHalf, ComplexPairs):
        (node,) = export(kind(), (token_numbers(B, L),)).ops("attention")
        angle = angles(L, "interleaved").double()
        torch.testing.assert_close(node.tensors["cos"].double(), angle.cos(), rtol=0, atol=1e-6)
        torch.testing.assert_close(node.tensors["sin"].double(), angle.sin(), rtol=0, atol=1e-6)


def test_position_past_the_table_is_refused() -> None:
    """A sequence longer than the example's is refused where a table would end."""
    graph = export(RotateHalf(), (token_numbers(B, L),))
    message = (
        f"attention: position {L} is past the table of {L} positions; export with a longer example"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        execute(graph, token_numbers(1, L + 1))


class SlidingWindow(Base):
    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            lin(x).view(b, t, HEADS, DIM).transpose(1, 2) for lin in (self.q, self.k, self.v)
        )
        keep = torch.ones(t, t, dtype=torch.bool).tril().triu(-3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return y.transpose(1, 2).flatten(2)


class QueryNorm(Base):
    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            lin(x).view(b, t, HEADS, DIM).transpose(1, 2) for lin in (self.q, self.k, self.v)
        )
        q = F.rms_norm(q, (DIM,))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class LinearBias(Base):
    """ALiBi: the mask adds a slope per distance."""

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            lin(x).view(b, t, HEADS, DIM).transpose(1, 2) for lin in (self.q, self.k, self.v)
        )
        at = torch.arange(t)
        bias = -0.5 * (at[:, None] - at[None, :]).abs().float()
        return ((q @ k.mT + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


class TiledHeads(Base):
    """Key heads repeated as 0 1 0 1, which is not how grouped heads are numbered."""

    def __init__(self) -> None:
        super().__init__(kv_heads=2)

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, DIM).transpose(1, 2)
        k, v = (lin(x).view(b, t, 2, DIM).transpose(1, 2) for lin in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))
        return y.transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (SlidingWindow, "aten.scaled_dot_product_attention.*its mask is neither causal nor empty"),
        (QueryNorm, "aten.rms_norm.*it stands between a projection and the query"),
        (LinearBias, "aten.softmax.*its mask is neither causal nor empty"),
        (TiledHeads, "its grouped heads are not in runs of equal length"),
    ],
)
def test_other_attention_is_refused(kind: type[Base], why: str) -> None:
    """Attention that a network cannot run is refused by name, place and reason."""
    with pytest.raises(ExportError, match=rf"{why}.*; attention is taken as softmax") as error:
        export(kind(), (token_numbers(B, L),))
    assert "test_export_attention.py:" in str(error.value)


def test_fused_projection_is_split_by_rows() -> None:
    """The rows of a fused projection reach the query, key and value that they belong to."""
    module = FusedPerHead()
    graph: FloatGraph = export(module, (token_numbers(B, L),))
    rows = module.qkv.weight.detach().view(HEADS, 3, DIM, WIDTH)
    for i, part in enumerate("qkv"):
        weight = graph.node(f"qkv.{part}").tensors["weight"]
        assert torch.equal(weight, rows[:, i].reshape(WIDTH, WIDTH))
