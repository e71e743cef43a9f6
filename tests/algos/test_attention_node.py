# SPDX-License-Identifier: Apache-2.0
"""Pruned attention in whole networks: against the engine's commands, and what the cascade keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from algos.lib.float_ops import KVCache
from algos.reference.attention import reference
from algos.reference.attention_node import Cascade, Step, codes
from algos.reference.network import Reference
from algos.reference.vector import attention_heads
from benchmarks.fuzz_networks import transformer
from cosil.engines.attention import AttentionSpec
from cosil.lowering import attention_layer
from cosil.lowering.attention import HeadsCommand, Operands, State, TokensCommand
from cosil.lowering.attention_program import QUERY_BITS, program
from cosil.packed import graph
from cosil.packed.network import Node, PackedNetwork

SPEC = AttentionSpec(head_dim=8, multipliers=8, max_tokens=32, max_heads=4)


def stack() -> PackedNetwork:
    """Return a network of three attention nodes on one stream, each pruning more than the last."""
    block = transformer(2, dim=32, engine="attention")
    nodes = list(block.nodes[: [node.name for node in block.nodes].index("norm2")])
    q, k, v, attention = (
        next(node for node in nodes if node.name == name) for name in ("q", "k", "v", "attention")
    )
    keeps = ((1_000_000, 65536, 4, 500_000), (700_000, 65536, 3, 300_000), (600_000, 5, 2, 200_000))
    source = "residual1"
    made = [node for node in nodes if node.name != "attention"]
    place = [node.name for node in made].index("o")
    first = _pruned(attention, "attention", attention.inputs, keeps[0])
    made.insert(place, first)
    for index, keep in enumerate(keeps[1:], start=2):
        inputs = tuple(f"{name}{index}" for name in "qkv")
        for old, name in zip((q, k, v), inputs, strict=True):
            made.append(replace(old, name=name, inputs=(source,)))
        made.append(_pruned(attention, f"attention{index}", inputs, keep))
        made.append(Node(f"sum{index}", "add", (source, f"attention{index}")))
        source = f"sum{index}"
    network = PackedNetwork("stack", block.inputs, tuple(made), (source,))
    graph.check(network)
    return network


def _pruned(
    node: Node, name: str, inputs: tuple[str, ...], keep: tuple[int, int, int, int]
) -> Node:
    names = ("token_keep", "token_limit", "head_keep", "value_keep")
    attrs = {**node.attrs, **dict(zip(names, keep, strict=True)), "value_limit": 65536}
    return replace(node, name=name, inputs=inputs, attrs=attrs)


NETWORK = stack()
NODES = [node for node in NETWORK.nodes if node.engine == "attention"]


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    """Return random token numbers."""
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


def passes(cut: tuple[int, ...], batch: int = 2) -> list[tuple[dict[str, Tensor], Cascade]]:
    """Run sequences in pieces; return every value and the cascade of each piece."""
    run, cache = Reference(NETWORK), KVCache()
    done: list[tuple[dict[str, Tensor], Cascade]] = []
    for piece in ids(batch, sum(cut)).split(cut, dim=1):
        values: dict[str, Tensor] = {}
        run.run(piece, cache=cache, observe=values.__setitem__)
        assert isinstance(cache.cascade, Cascade)
        done.append((values, cache.cascade))
    return done


CUTS = [(14,), (9, 1, 1, 4, 1)]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_nodes_equal_the_commands_row_by_row(cut: tuple[int, ...]) -> None:
    """Every output, importance and kept id is that of the engine's commands, one after another."""
    batch, past = 2, 0
    states: list[State | None] = [None] * batch
    held: dict[str, tuple[Tensor, Tensor]] = {}
    for (values, cascade), length in zip(passes(cut, batch), cut, strict=True):
        cache = KVCache()
        cache.length = past
        sequences = [attention_layer.Sequence.begin(past, length) for _ in range(batch)]
        for node, step in zip(NODES, cascade.steps, strict=True):
            at = program(node)
            query, key, value = attention_heads(
                node, tuple(values[name] for name in node.inputs), cache
            )
            k = codes(key, node, "key", at.key_bits) << at.key_shift
            v = codes(value, node, "value", at.value_bits)
            if node.name in held:
                k = torch.cat((held[node.name][0], k), 2)
                v = torch.cat((held[node.name][1], v), 2)
            held[node.name] = k, v
            q = codes(query, node, "query", QUERY_BITS)
            expected = torch.zeros(batch, at.heads, length, 8, dtype=torch.int64)
            for one, sequence in enumerate(sequences):
                before = attention_layer.prologue(node, sequence)
                layer_ids: list[np.ndarray] = []
                if before:
                    nothing = Operands(
                        np.zeros((0, 8), np.int16), np.zeros((0, 8), np.int8),
                        np.zeros((0, 8), np.uint8), np.zeros((0, 8), np.int8),
                    )  # fmt: skip
                    result = reference(SPEC, before, nothing, state=states[one])
                    states[one] = result.state
                    layer_ids = [kept.numpy() for kept in result.kept]
                attention_layer.kept(node, sequence, before, layer_ids)
                lowered = attention_layer.layer(
                    node, sequence, q[one].numpy(), k[one].numpy(), v[one].numpy()
                )
                result = reference(SPEC, lowered.commands, lowered.operands, state=states[one])
                states[one] = result.state
                for command, output in zip(lowered.commands, result.output, strict=True):
                    expected[one].view(-1, 8)[command.tag] = output
                np.testing.assert_array_equal(sequence.tokens, step.ids[one].numpy())
                np.testing.assert_array_equal(sequence.heads, step.heads[one].numpy())
                assert int(result.redo.sum()) == int(step.redo[one].sum())
            half = (expected.float() * torch.tensor(at.out_scale)).to(torch.float16)
            actual = values[node.name].reshape(batch, length, at.heads, 8).transpose(1, 2)
            assert torch.equal(actual, half)
        for one, state in enumerate(states):
            assert state is not None
            total = past + length
            np.testing.assert_array_equal(
                state.importance[:total], cascade.tokens[one, :total].numpy()
            )
            assert cascade.heads is not None
            np.testing.assert_array_equal(state.head_importance, cascade.heads[one].numpy())
        past += length


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_cascade(cut: tuple[int, ...]) -> None:
    """Lists increase strictly and only lose tokens and heads; counts are the program's."""
    past = 0
    for (_, cascade), length in zip(passes(cut), cut, strict=True):
        total = past + length
        previous: Step | None = None
        for number, (node, step) in enumerate(zip(NODES, cascade.steps, strict=True)):
            at = program(node)
            assert bool((step.ids.diff(dim=1) > 0).all())
            assert bool((step.heads.diff(dim=1) > 0).all())
            if number or past:
                wanted = min(total * at.token_keep // 1_000_000 or 1, at.token_limit)
                assert step.ids.shape[1] == wanted
                assert step.heads.shape[1] == at.head_keep
            if previous is not None:
                for small, large in zip(
                    (*step.ids, *step.heads), (*previous.ids, *previous.heads), strict=True
                ):
                    assert set(small.tolist()) <= set(large.tolist())
            assert bool(step.ran[:, -1].all())
            previous = step
        past = total


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_importance_is_conserved(cut: tuple[int, ...]) -> None:
    """A pass adds the sum of its probabilities, which is its rows within 2**-7 each."""
    before = 0
    for _, cascade in passes(cut):
        added = sum((step.added for step in cascade.steps), torch.zeros(2, dtype=torch.int64))
        assert torch.equal(cascade.tokens.sum(1) - before, added)
        before = cascade.tokens.sum(1)
        for step in cascade.steps:
            rows = (step.keys > 0).sum((1, 2))
            assert bool(((step.added / 2**22 - rows).abs() <= rows * 2**-7).all())
            assert bool((step.values <= step.keys).all())


def test_what_does_not_run_gives_zero() -> None:
    """Outputs of pruned queries and heads are +0."""
    values, cascade = passes((14,))[0]
    pruned = 0
    for node, step in zip(NODES, cascade.steps, strict=True):
        out = values[node.name].reshape(2, 14, 4, 8)
        dead = torch.ones(2, 14, 4, dtype=torch.bool)
        for one in range(2):
            for query in torch.nonzero(step.ran[one]).flatten():
                dead[one, query, step.heads[one]] = False
        assert bool((out[dead].view(torch.int16) == 0).all())
        pruned += int(dead.sum())
    assert pruned > 0


def test_a_run_that_fails_leaves_the_cache() -> None:
    """Importance and cache are those of before a token that the table does not hold."""
    run, cache = Reference(NETWORK), KVCache()
    run.run(ids(1, 6), cache=cache)
    assert isinstance(cache.cascade, Cascade)
    kept = cache.cascade.tokens.clone()
    with pytest.raises(ValueError, match="token numbers must be in"):
        run.run(torch.tensor([[99]]), cache=cache)
    assert torch.equal(kept, cache.cascade.tokens)
    assert cache.length == 6


def test_nan_is_refused() -> None:
    """Codes of a NaN do not exist."""
    x = torch.full((1, 4, 2, 8), torch.nan, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"^attention: the query must not hold NaN$"):
        codes(x, NODES[0], "query", 12)


def test_lowering_prunes_no_more_than_is_left() -> None:
    """A node that keeps more than is left prunes nothing; fewer survivors go before the count."""
    sequence = attention_layer.Sequence.begin(4, 16)
    first, second, third = NODES
    attention_layer.kept(first, sequence, [], [])
    sequence.tokens = np.arange(6)
    assert not [c for c in attention_layer.prologue(second, sequence) if hasattr(c, "tokens")]
    assert TokensCommand(20, 5, 3) in attention_layer.prologue(third, sequence)


@pytest.mark.parametrize(
    ("heads", "tokens", "said"),
    [
        ([0, 2], [1, 1, 3], "kept ids increase"),
        ([2, 0], [0, 1, 3], "kept ids increase"),
        ([0, 2], [0, 1, 9], "second: no pruned tokens come back within a pass"),
        ([0, 3], [0, 1, 3], "second: no pruned heads come back within a pass"),
    ],
)
def test_ids_that_an_engine_may_not_keep(heads: list[int], tokens: list[int], said: str) -> None:
    """What an engine says it kept is held against what was left: seeded violations."""
    node = replace(NODES[1], name="second")
    sequence = attention_layer.Sequence.begin(0, 9)
    sequence.heads = np.array([0, 1, 2])
    commands = [HeadsCommand(4, 2), TokensCommand(9, 3)]
    attention_layer.kept(node, sequence, list(commands), [np.array([0, 2]), np.array([0, 1, 3])])
    sequence.tokens, sequence.heads = np.arange(9), np.array([0, 1, 2])
    with pytest.raises(AssertionError, match=said):
        attention_layer.kept(node, sequence, list(commands), [np.array(heads), np.array(tokens)])
