# SPDX-License-Identifier: Apache-2.0
"""Schedules, LSB rules and programs of SpAtten against the paper's and workload files' numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.lib.export import export
from algos.lib.graph import FloatGraph, execute
from algos.lib.measure import decode, packed_logits
from algos.models.gpt import Gpt, GptConfig
from algos.reference.network import Reference
from algos.rtn import compress as rtn
from algos.spatten import SpattenSettings, attach, compress, schedule
from algos.spatten.calibrate import scales
from algos.spatten.rules import NEVER, Observed, error_window, max_probability, measured
from algos.spatten.schedule import Keep, cascade, explicit, linear
from cosil.lowering.attention_program import Program, factors, program
from cosil.packed import graph as packed_graph
from cosil.packed.network import PackedNetwork


@cache
def tiny(layers: int = 2, seed: int = 0) -> FloatGraph:
    """Return an untrained character GPT with 4 heads of 8."""
    torch.manual_seed(seed)
    config = GptConfig(dim=32, layers=layers, heads=4, vocab=40, context=24)
    module = Gpt(config).eval()
    # Untrained scores are nearly equal; larger ones make rows that differ.
    for block in module.blocks:
        block.qkv.weight.data *= 4
    return export(module, (torch.arange(48).reshape(2, 24) % 40,), "tiny")


def calibration(n: int = 4) -> list[torch.Tensor]:
    """Return a batch of random sequences."""
    return [torch.randint(0, 40, (n, 24), generator=torch.Generator().manual_seed(n))]


# -- schedules -------------------------------------------------------------------------------


def test_published_schedule() -> None:
    """15 % of 24 layers, rounded up, keep all; r_start + r_end = 2 r_avg; the mean is r_avg."""
    ratios = linear(24, 0.4, spread=0.5)
    assert ratios[:4] == [0.0] * 4
    assert ratios[4] == pytest.approx(0.2)
    assert ratios[-1] == pytest.approx(0.6)
    assert sum(ratios[4:]) / 20 == pytest.approx(0.4)
    assert np.ptp(np.diff(ratios[4:])) == pytest.approx(0, abs=1e-12)
    assert linear(12, 0.3, unpruned=0.30)[:4] == [0.0] * 4
    assert linear(2, 0.3) == pytest.approx([0.0, 0.3])


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        # Workload files of the paper's GPT-2: floor(1024 x {0.9, 0.7, 0.2, 0.1}).
        ("0.9, 0.7, 0.2, 0.2, 0.2, 0.2, 0.1", 1024, [921, 716, 204, 204, 204, 204, 102]),
        # Medium: L, L, then stairs of counts whatever L is.
        ("1, 1, 921, 819, 819, 614, 307", 1000, [1000, 1000, 921, 819, 819, 614, 307]),
    ],
)
def test_stairs_of_the_workload_files(text: str, total: int, expected: list[int]) -> None:
    """Fractions and counts give the numbers of keys that the files hold."""
    keeps = cascade(explicit(text, len(expected), "token_schedule"))
    assert expected == [keep.of(total) for keep in keeps]


def test_value_ratios_of_the_workload_files() -> None:
    """0.2 and 0.3 of the kept keys, rounded down, are the files' numbers of values."""
    assert [184, 143, 40, 20] == [Keep.part(0.2).of(n) for n in (921, 716, 204, 102)]
    assert [307, 276, 245, 184, 92] == [Keep.part(0.3).of(n) for n in (1024, 921, 819, 614, 307)]


@given(st.integers(1, 4096), st.integers(1, 1000), st.integers(1, 1000))
def test_a_fraction_is_rounded_down(n: int, a: int, b: int) -> None:
    """floor(n x ratio) is exact for ratios of up to three digits, and at least 1 is kept."""
    ratio = Fraction(min(a, b), max(a, b))
    ratio = Fraction(round(ratio * 1000), 1000) or Fraction(1, 1000)
    assert max(1, math.floor(ratio * n)) == Keep.part(float(ratio)).of(n)


def test_a_cascade_never_grows() -> None:
    """A layer that asks for more than the one before gets what that one had."""
    keeps = cascade(explicit("0.5, 0.9, 100, 1", 5, "token_schedule"))
    assert [256, 256, 100, 100, 100] == [keep.of(512) for keep in keeps]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"token_schedule": "1, 2.5"},
            ("spatten: an entry of token_schedule must be a fraction in 0..1 or a count above 1, "
            "not '2.5'"),
        ),
        ({"head_schedule": "1, 1, 1"}, "spatten: head_schedule must have at most 2 entries, not 3"),
    ],
)  # fmt: skip
def test_schedules_are_refused(change: dict[str, Any], message: str) -> None:
    """A schedule that cannot be read names the entry."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schedule(SpattenSettings(**change), 2, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": 0.8},
            ("spatten: a pruning ratio of 0.8 with spread 0.5 ends at 1.2; it must be in 0..1 and "
            "end below 1"),
        ),
        ({"msb_bits": 5}, "spatten: msb_bits must be one of 4, 6, 8, not 5"),
        ({"values": 0.0}, "spatten: values must be above 0 and at most 1, not 0.0"),
        (
            {"rule": "entropy"},
            ("spatten: rule must be one of 'max_probability', 'error_window', 'measured', 'never', "
            "'always', not 'entropy'"),
        ),
        ({"budget": 1.5}, "spatten: budget must be in 0..1, not 1.5"),
        ({"finetune_steps": -1}, "spatten: finetune_steps must be at least 0, not -1"),
        ({"group_size": 0}, "qqq: group_size must be at least 1, not 0"),
    ],
)  # fmt: skip
def test_settings_are_refused(change: dict[str, Any], message: str) -> None:
    """A setting out of range is named with what it must be."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpattenSettings(**change)


# -- LSB rules -------------------------------------------------------------------------------


def test_published_rule_is_a_threshold_of_the_logarithm() -> None:
    """Max p < 0.1 is 2**-L < 0.1 for every L of 12 bits."""
    low, high = max_probability(0.1)
    inside = [low <= code <= high for code in range(4096)]
    assert inside == [2.0 ** (-code / 256) < 0.1 for code in range(4096)]


@given(st.floats(0.001, 0.5), st.floats(0.01, 2.0))
def test_error_window_follows_equation_2(threshold: float, spread: float) -> None:
    """Inside the window, and only there, 2 p (1 - p) d exceeds the threshold."""
    low, high = error_window(threshold, spread)
    for code in range(0, 4096, 7):
        p = 2.0 ** (-code / 256)
        expected = 2 * p * (1 - p) * spread
        if abs(expected - threshold) > 1e-9:
            assert (low <= code <= high) == (expected > threshold)


def test_measured_window_is_the_best_one() -> None:
    """No window on multiples of 1/16 with so few rows removes more error."""
    rng = np.random.default_rng(0)
    logarithm = rng.integers(0, 600, 300)
    error = rng.uniform(0, 1, 300) * (1 + np.abs(logarithm - 300) / 300)
    low, high = measured(Observed(logarithm, error, 0.1), 0.2)
    inside = (logarithm >= low) & (logarithm <= high)
    best = 0.0
    for first in range(0, 640, 16):
        for last in range(first + 16, 656, 16):
            part = (logarithm >= first) & (logarithm < last)
            if part.mean() <= 0.2:
                best = max(best, error[part].sum())
    assert inside.mean() <= 0.2
    assert error[inside].sum() == pytest.approx(best)
    assert measured(Observed(logarithm, error, 0.1), 0.0) == NEVER


# -- programs --------------------------------------------------------------------------------


def programs(network: PackedNetwork) -> list[Program]:
    """Return the programs of a network."""
    return [program(node) for node in network.nodes if node.engine == "attention"]


@pytest.fixture(scope="module")
def base() -> PackedNetwork:
    """Return a three-layer network with attention on the vector unit."""
    return rtn(tiny(3), ())


def test_program_holds_the_schedule(base: PackedNetwork) -> None:
    """Ratios, counts and heads stand in the nodes, and the network passes the format's checks."""
    asked = SpattenSettings(token_schedule="1, 0.5, 7", head_schedule="1, 3, 0.5", values=0.25)
    made = attach(base, calibration(), asked)
    packed_graph.check(made)
    at = programs(made)
    assert [(1000000, 65536), (500000, 65536), (500000, 7)] == [
        (each.token_keep, each.token_limit) for each in at
    ]
    assert [4, 3, 2] == [each.head_keep for each in at]
    assert [250000] * 3 == [each.value_keep for each in at]
    assert len({each.out_scale for each in at}) == 1


def test_scales_reach_the_largest_value() -> None:
    """Without a search no value is clipped and the largest has the largest code, head by head."""
    x = torch.randn(2, 3, 50, 4) * torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    found = scales([x], 8, clip=False)
    assert found[2] == 1.0
    for head in (0, 1):
        assert float(x[:, head].abs().max()) == pytest.approx(127 * found[head], rel=1e-6)
        assert scales([x], 4, clip=True)[head] * 7 <= float(x[:, head].abs().max()) * (1 + 1e-6)


def test_words_mean_the_real_score(base: PackedNetwork) -> None:
    """Mult / 2**shift turns integer score differences into 1/256 of powers of two of softmax."""
    made = attach(base, calibration(), SpattenSettings(msb_bits=8))
    for node in (n for n in made.nodes if n.engine == "attention"):
        mult, shift = factors(node.tensors["softmax"].words)
        unit = node.tensors["query_scale"].words * node.tensors["key_scale"].words / math.sqrt(8)
        np.testing.assert_allclose(
            mult / 2.0**shift, unit.astype(np.float64) * math.log2(math.e) * 256, rtol=2**-15
        )


def test_dense_program_is_close_to_float_attention(base: PackedNetwork) -> None:
    """With 12-bit keys, 8-bit values and nothing pruned, logits stay near those of the base."""
    asked = SpattenSettings(tokens=0.0, values=1.0, msb_bits=8, rule="always")
    ids = calibration(3)[0]
    expected = packed_logits(base)(ids)
    actual = packed_logits(attach(base, calibration(), asked))(ids)
    assert float((actual - expected).abs().mean()) < 0.05 * float(expected.abs().mean())
    coarse = replace(asked, msb_bits=4, rule="never", lsb_bits=0, value_bits=4)
    worse = packed_logits(attach(base, calibration(), coarse))(ids)
    assert float((worse - expected).abs().mean()) > 3 * float((actual - expected).abs().mean())


def test_equal_arguments_give_equal_bits() -> None:
    """Two compressions of one graph are equal, tensor by tensor."""
    first, second = (
        compress(tiny(), calibration(), SpattenSettings(linears="rtn")) for _ in range(2)
    )
    for a, b in zip(first.nodes, second.nodes, strict=True):
        assert a.attrs == b.attrs
        for name, tensor in a.tensors.items():
            np.testing.assert_array_equal(tensor.words, b.tensors[name].words)
    assert first.provenance["method"] == "spatten"


def test_only_attention_is_pruned() -> None:
    """A network without attention is refused."""
    module = torch.nn.Linear(4, 3)
    graph = export(module, (torch.zeros(2, 4),), "plain")
    message = "spatten: plain has no attention, and nothing else is pruned here"
    with pytest.raises(ValueError, match=f"^{message}$"):
        compress(graph, [torch.zeros(2, 4)])


@settings(max_examples=2)
@given(st.integers(0, 2**16))
def test_decode_of_an_unpruned_network_is_the_whole_run(seed: int) -> None:
    """Value pruning and LSBs are per row: token by token gives the bits of the whole sequence."""
    asked = SpattenSettings(linears="rtn", tokens=0.0, values=0.4, budget=0.3)
    made = compress(tiny(seed=1), calibration(), asked)
    reference = Reference(made)
    ids = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        decode(reference, ids), reference.run(ids)[made.outputs[0]], rtol=0, atol=0
    )


def test_finetuning_brings_the_pruned_network_closer() -> None:
    """Training with pruned attention lowers the divergence from the float network; twice equal."""
    graph = tiny()
    asked = SpattenSettings(
        linears="rtn", token_schedule="1, 0.4", recent=2, values=0.3, msb_bits=8, budget=0.0,
        group_size=32, scales="group", finetune_rate=2e-3,
    )  # fmt: skip
    ids = calibration(8)[0]
    wanted = execute(graph, ids)[0].log_softmax(-1)
    found: list[float] = []
    for steps in (0, 25, 25):
        made = compress(graph, [ids], replace(asked, finetune_steps=steps))
        got = packed_logits(made)(ids).log_softmax(-1)
        found.append(float((wanted.exp() * (wanted - got)).sum(-1).mean()))
    assert found[1] < 0.8 * found[0]
    assert found[1] == found[2]
