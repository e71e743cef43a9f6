# SPDX-License-Identifier: Apache-2.0
"""A float graph is checked when it is made, rewritten without side effects, and executed."""

from __future__ import annotations

import pytest
import torch

from algos.lib.graph import FloatGraph, FloatNode, KVCache, execute
from cosil.packed.network import Value


def mlp() -> FloatGraph:
    torch.manual_seed(0)
    return FloatGraph(
        "mlp",
        (Value("x", "f32", (4,)),),
        (
            FloatNode("up", "linear", ("x",), {}, {"weight": torch.randn(6, 4)}, "up"),
            FloatNode("act", "relu", ("up",)),
            FloatNode("down", "linear", ("act",), {}, {"weight": torch.randn(4, 6)}, "down"),
            FloatNode("sum", "add", ("x", "down")),
        ),
        ("sum",),
    )


def test_execute_equals_arithmetic() -> None:
    """A graph computes what its operations say, and an observer sees every node."""
    graph, x = mlp(), torch.randn(3, 4)
    up, down = graph.node("up").tensors["weight"], graph.node("down").tensors["weight"]
    seen: list[tuple[str, int]] = []
    (y,) = execute(graph, {"x": x}, lambda node, inputs, _: seen.append((node.name, len(inputs))))
    torch.testing.assert_close(y, x + (x @ up.T).clamp(min=0) @ down.T)
    assert seen == [("up", 1), ("act", 1), ("down", 1), ("sum", 2)]
    assert torch.equal(execute(graph, x)[0], execute(graph, (x,))[0])


def test_lookup() -> None:
    """Producers and consumers are found by value name."""
    graph = mlp()
    assert [n.name for n in graph.consumers("x")] == ["up", "sum"]
    assert graph.consumers("sum") == ()
    assert graph.producer("x") is None
    assert graph.producer("act") is graph.node("act")
    assert [n.name for n in graph.ops("linear", "add")] == ["up", "down", "sum"]


def test_rewriting_makes_new_graphs() -> None:
    """Replacing, inserting, removing and pruning leave the graph that they start from as it was."""
    graph, x = mlp(), torch.randn(2, 4)
    before = execute(graph, x)[0]
    node = graph.node("down")
    doubled = graph.replaced(node.with_tensors(weight=2 * node.tensors["weight"]))
    torch.testing.assert_close(execute(doubled, x)[0] - x, 2 * (before - x))
    halved = graph.inserted("down", FloatNode("half", "scale", ("down",), {"factor": 0.5}))
    halved = halved.replaced(halved.node("sum").with_inputs("x", "half"))
    torch.testing.assert_close(execute(halved, x)[0] - x, (before - x) / 2)
    torch.testing.assert_close(execute(halved.without("half", "down"), x)[0], before)
    only = graph.renamed({"sum": "act"}).pruned()
    assert [n.name for n in only.nodes] == ["up", "act"]
    copy = graph.copy()
    copy.node("up").tensors["weight"].zero_()
    assert torch.equal(execute(graph, x)[0], before)


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([FloatNode("x", "relu", ("x",))], ("x",), "the name 'x' occurs twice"),
        ([FloatNode("a", "relu", ("b",))], ("a",), "'a' reads 'b', which is not defined before it"),
        ([FloatNode("a", "cumsum", ("x",))], ("a",), "'a' has op 'cumsum'; known are linear"),
        ([], ("y",), "output 'y' is not defined"),
    ],
)
def test_malformed_graph_is_refused(
    nodes: list[FloatNode], outputs: tuple[str, ...], message: str
) -> None:
    """Names are unique, defined before use, and ops are known."""
    with pytest.raises(ValueError, match=f"^graph g: {message}"):
        FloatGraph("g", (Value("x", "f32", (4,)),), tuple(nodes), outputs)


def test_inputs_are_checked() -> None:
    """Number, shape and type of inputs are compared with the graph's."""
    graph = mlp()
    with pytest.raises(ValueError, match=r"input 'x' must have shape \(B, 4\), not \(2, 5\)$"):
        execute(graph, torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"must hold floating point, not 'torch.int64'$"):
        execute(graph, torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^graph mlp: 1 inputs are required, not 2$"):
        execute(graph, (torch.ones(2, 4), torch.ones(2, 4)))
    with pytest.raises(ValueError, match=r"^graph mlp: inputs must be x, not y$"):
        execute(graph, {"y": torch.ones(2, 4)})


def test_failed_call_leaves_the_cache_alone() -> None:
    """A call that fails after attention adds nothing to the keys and values."""
    attrs = {"heads": 1, "kv_heads": 1, "head_dim": 4, "causal": True, "scale": 0.5, "rope": "none"}
    graph = FloatGraph(
        "g",
        (Value("x", "f32", (0, 4)),),
        (
            FloatNode("att", "attention", ("x", "x", "x"), attrs),
            FloatNode("out", "linear", ("att",), {}, {"weight": torch.ones(2, 3)}),
        ),
        ("out",),
    )
    cache = KVCache()
    with pytest.raises(ValueError, match=r"'out' \(linear\) cannot run on \(1, 2, 4\)"):
        execute(graph, torch.ones(1, 2, 4), cache=cache)
    assert cache.length == 0
    assert cache.keys == {}
