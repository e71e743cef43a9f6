# SPDX-License-Identifier: Apache-2.0
"""Networks with attention on its own engine: bits as the reference, whole and token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from algos.lib.float_ops import KVCache
from algos.reference.network import Reference
from benchmarks.fuzz_networks import transformer
from cosil.errors import CosilError
from cosil.machine.check import check
from cosil.machine.execute import execute
from cosil.machine.inputs import random_inputs
from cosil.machine.spec import Machine, load_machine, machine_from_dict
from cosil.machine.summary import rows, to_dict
from cosil.machine.trace import to_trace
from sim import vector

NETWORK = transformer(2, dim=32, engine="attention")


@pytest.fixture(scope="module")
def machine() -> Machine:
    """Return a small machine with an attention engine."""
    machine = load_machine("w4a8-16x16-attention")
    assert machine.attention is not None
    array = replace(machine.array, array_rows=4, array_cols=4, epilogue_lanes=0)
    return replace(machine, array=array, attention=replace(machine.attention, max_tokens=64))


def test_every_node_equals_the_reference(machine: Machine) -> None:
    """A prefill of two sequences gives the reference's bits; the report adds up."""
    inputs = random_inputs(NETWORK, batch=2, length=11, seed=1)
    values: dict[str, NDArray[Any]] = {}
    run = execute(machine, NETWORK, inputs, observe=values.__setitem__)
    assert check(NETWORK, inputs, values).equal
    layer = next(layer for layer in run.layers if layer.engine == "attention")
    assert layer.cycles == sum(layer.cycles_by_cause.values())
    assert layer.macs == layer.counts["mac_qk"] + layer.counts["mac_pv"]
    assert layer.energy is not None
    assert layer.energy.total_pj > 0
    total = to_dict(run)["total"]
    assert total["energy_pj"] == pytest.approx(sum(total["energy_by_component_pj"].values()))
    # The first node of a sequence prunes nothing: 2 sequences, 4 heads, 11 causal rows.
    assert layer.counts["weigh"] == 2 * 4 * 11 * 12 // 2
    record = to_dict(run)
    shown = next(each for each in record["layers"] if each["engine"] == "attention")
    assert (shown["variant"], shown["cycles_are"]) == ("8x16/radix", "simulated")
    assert any("8x16/radix" in row for row in rows(run))
    assert any(event.get("tid") == 5 for event in to_trace(run)["traceEvents"])


def test_token_by_token(machine: Machine) -> None:
    """With a cache, importance goes on from token to token and decides as in the reference."""
    ids = random_inputs(NETWORK, batch=2, length=14, seed=2)["ids"]
    reference, expected, cache = Reference(NETWORK), KVCache(), vector.KVCache()
    weighed = 0
    for piece in np.split(ids, [9, 10, 11, 12, 13], axis=1):
        wanted = reference.run(torch.from_numpy(piece), cache=expected)["logits"]
        run = execute(machine, NETWORK, {"ids": piece}, cache=cache)
        np.testing.assert_array_equal(wanted.numpy(), run.outputs["logits"])
        layer = next(layer for layer in run.layers if layer.engine == "attention")
        weighed = layer.counts["weigh"]
    # Three of four heads, 60 % of 14 tokens, for each of two sequences.
    assert weighed == 2 * 3 * 8


def test_a_machine_without_the_engine_refuses() -> None:
    """The message names what to add."""
    message = r"^machine w4a8-16x16-os: layer 'attention' needs an attention engine$"
    with pytest.raises(CosilError, match=message):
        execute(load_machine("w4a8-16x16-os"), NETWORK, random_inputs(NETWORK, length=4))


def test_engine_follows_the_layer(machine: Machine) -> None:
    """head_dim is the layer's, lanes are at most 16, and too many heads are refused."""
    node = next(node for node in NETWORK.nodes if node.engine == "attention")
    spec = machine.attention_for(node)
    assert (spec.head_dim, spec.lanes, spec.multipliers) == (8, 16, 128)
    assert machine.attention is not None
    few = replace(machine, attention=replace(machine.attention, max_heads=2))
    with pytest.raises(
        CosilError, match=r"has 4 heads, and the attention engine's max_heads is 2$"
    ):
        few.attention_for(node)
    with pytest.raises(ValueError, match=r"^\[attention\]: head_dim follows each layer; leave it"):
        machine_from_dict({"clock_hz": 1e9, "engine": {}, "attention": {"head_dim": 8}})
