# SPDX-License-Identifier: Apache-2.0
"""Rotation and smoothing of whole graphs: the function stays, the outliers go."""

import numpy as np
import pytest
import torch

from algos.lib.graph import FloatGraph, FloatNode, execute
from algos.lib.quantise import per_token_int8
from algos.lib.rotation import rotate
from algos.lib.smooth import find_sites, smooth, smoothing_factors
from cosil.packed.network import Value

torch.set_num_threads(1)

WIDTH, VOCAB, HEADS = 24, 11, 4


class _Builder:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[FloatNode] = []

    def random(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape)).float() / shape[-1] ** 0.5

    def add(self, name: str, op: str, inputs: list[str], attrs=None, **tensors: torch.Tensor):
        self.nodes.append(FloatNode(name, op, tuple(inputs), attrs or {}, tensors))
        return name


def transformer(norm: str = "rmsnorm", kv_heads: int = 2, gated: bool = True) -> FloatGraph:
    """Return one decoder block with outlier channels in both norms."""
    b = _Builder()
    width, dim = WIDTH, WIDTH // HEADS

    def normalise(name: str, source: str) -> str:
        gamma = 1 + 0.3 * b.random(width)
        gamma[3] = 12.0
        tensors = {"gamma": gamma}
        if norm == "layernorm":
            tensors["beta"] = b.random(width)
        return b.add(name, norm, [source], {"eps": 1e-5}, **tensors)

    token = b.add("token", "embedding", ["ids"], table=4 * b.random(VOCAB, width))
    where = b.add("where", "embedding", ["ids"], {"positions": True}, table=b.random(16, width))
    stream = b.add("sum", "add", [token, where])
    n = normalise("norm1", stream)
    q = b.add("q", "linear", [n], weight=b.random(width, width))
    k = b.add("k", "linear", [n], weight=b.random(dim * kv_heads, width))
    v = b.add(
        "v", "linear", [n], weight=b.random(dim * kv_heads, width), bias=b.random(dim * kv_heads)
    )
    attrs = {
        "heads": HEADS,
        "kv_heads": kv_heads,
        "head_dim": dim,
        "causal": True,
        "scale": 0.4,
        "rope": "none",
    }
    a = b.add("attention", "attention", [q, k, v], attrs)
    o = b.add("o", "linear", [a], weight=b.random(width, width), bias=b.random(width))
    stream = b.add("residual1", "add", [stream, o])
    n = normalise("norm2", stream)
    up = b.add("up", "linear", [n], weight=b.random(2 * width, width))
    if gated:
        gate = b.add("gate", "linear", [n], weight=b.random(2 * width, width))
        hidden = b.add("hidden", "mul", [b.add("silu", "silu", [gate]), up])
    else:
        hidden = b.add("hidden", "relu", [up])
    down = b.add("down", "linear", [hidden], weight=b.random(width, 2 * width))
    stream = b.add("residual2", "add", [stream, down])
    n = normalise("norm3", stream)
    b.add("logits", "linear", [n], weight=b.random(VOCAB, width))
    return FloatGraph("tiny", (Value("ids", "ids", (0,)),), tuple(b.nodes), ("logits",))


IDS = torch.from_numpy(np.random.default_rng(1).integers(0, VOCAB, (5, 13)))


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_rotation_keeps_the_function(norm: str, kv_heads: int, gated: bool, kind: str):
    """Logits move by float32 rounding only; every norm of the stream ends with scale 1."""
    graph = transformer(norm, kv_heads, gated)
    rotated = rotate(graph, kind, np.random.default_rng(7))
    assert rotated.notes == ()
    change = execute(rotated.graph, IDS)[0] - execute(graph, IDS)[0]
    assert float(change.abs().max()) < 2e-5
    for node in rotated.graph.ops("rmsnorm", "layernorm"):
        assert node.op == "rmsnorm"
        assert torch.equal(torch.ones(WIDTH), node.tensors["gamma"])
    moved = rotated.graph.node("token").tensors["table"] - graph.node("token").tensors["table"]
    assert float(moved.abs().max()) > 0.1


def test_rotation_spreads_outliers():
    """An outlier channel of the norm's output is gone from what the linear layers read."""
    graph = transformer()

    def peak(g: FloatGraph) -> float:
        values = {}
        execute(g, IDS, lambda node, _, out: values.__setitem__(node.name, out))
        x = values["norm1"]
        return float((x.abs().amax(dim=-1) / x.square().mean(dim=-1).sqrt()).mean())

    rotated = rotate(graph, "hadamard", np.random.default_rng(7)).graph
    assert peak(rotated) < 0.7 * peak(graph)


def test_what_cannot_be_rotated_is_named():
    """A stream that the network also returns, and values shared with another reader, are left."""
    graph = transformer()
    shared = FloatGraph(graph.name, graph.inputs, graph.nodes, ("logits", "residual1", "v"))
    rotated = rotate(shared, "hadamard", np.random.default_rng(7))
    assert rotated.notes[0].startswith("residual stream not rotated: 'residual1' is an input or")
    for before, after in zip(shared.nodes, rotated.graph.nodes, strict=True):
        if before.name not in ("v", "o"):
            assert all(torch.equal(t, after.tensors[key]) for key, t in before.tensors.items())


def test_sites_are_judged_on_the_real_downstream_function():
    """Inputs of q, k, v by the attention; of gate, up by their product; no o under GQA."""
    found = {site.value: site.outputs for site in find_sites(transformer(kv_heads=4))}
    expected = {
        "norm1": ("attention",),
        "attention": ("o",),
        "norm2": ("hidden",),
        "hidden": ("down",),
        "norm3": ("logits",),
    }
    assert expected == found
    assert "attention" not in {site.value for site in find_sites(transformer(kv_heads=2))}
    assert find_sites(transformer(gated=False))[2].outputs == ("down",)


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("gated", [False, True])
def test_smoothing_keeps_the_function_and_shrinks_the_outlier(norm: str, gated: bool):
    """Logits move by rounding only; the channel with scale 12 comes down."""
    graph = transformer(norm, 4, gated)
    smoothed = smooth(graph, IDS, 0)
    change = execute(smoothed, IDS)[0] - execute(graph, IDS)[0]
    assert float(change.abs().max()) < 2e-5
    assert float(smoothed.node("norm1").tensors["gamma"][3]) < 9.0


def test_smoothing_search_picks_the_bound_of_least_error():
    """The factors give a smaller error of the attention than none and than 20 other bounds."""
    graph = transformer(kv_heads=4)
    site = find_sites(graph)[0]
    values = {}
    execute(graph, IDS, lambda node, _, out: values.__setitem__(node.name, out))
    x = values["norm1"]

    def loss(factors: torch.Tensor) -> float:
        """Error of attention written out: int8 rows, int4 weights, softmax over heads."""
        outputs = []
        for quantised in (False, True):
            parts = []
            for name in ("q", "k", "v"):
                weight, inputs = graph.node(name).tensors["weight"], x
                if quantised:
                    weight = weight * factors
                    step = weight.abs().amax(dim=1, keepdim=True) / 7
                    weight = torch.round(weight / step) * step
                    inputs = x / factors
                    scale = inputs.abs().amax(dim=-1, keepdim=True) / 127
                    inputs = torch.round(inputs / scale) * scale
                y = inputs @ weight.t()
                bias = graph.node(name).tensors.get("bias")
                y = y if bias is None else y + bias
                parts.append(y.unflatten(-1, (HEADS, -1)).transpose(1, 2))
            scores = parts[0] @ parts[1].transpose(-1, -2) * 0.4
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            p = scores.masked_fill(mask, -torch.inf).softmax(-1)
            outputs.append((p @ parts[2]).transpose(1, 2).flatten(-2))
        return float((outputs[1] - outputs[0]).square().sum(-1).mean())

    best = smoothing_factors(site, x, 0)
    assert float(best.min()) >= 1.0
    reach = torch.maximum(x.amax(dim=(0, 1)), -x.amin(dim=(0, 1)))
    largest = float(reach.max())
    count = max(100, int(float(x.max()) / 0.5))
    for i in range(0, count, count // 20):
        bound = largest - i * (largest - 0.1) / count
        assert loss(best) <= loss((reach / bound).clamp_min(1.0)) * (1 + 1e-3)
    assert loss(best) < loss(torch.ones(WIDTH))


def test_masked_tokens_do_not_count():
    """With only one token in the mask the search fits that token."""
    graph = transformer(kv_heads=4)
    site = find_sites(graph)[0]
    values = {}
    execute(graph, IDS, lambda node, _, out: values.__setitem__(node.name, out))
    x = values["norm1"]
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    mask[2, 5] = True
    every, one = smoothing_factors(site, x, 0), smoothing_factors(site, x, 0, mask)
    assert not torch.equal(every, one)
    assert float((per_token_int8(x) - x).abs().max()) > 0
