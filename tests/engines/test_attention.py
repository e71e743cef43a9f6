# SPDX-License-Identifier: Apache-2.0
"""The attention spec: checks, derived widths, tables, files."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosil.engines.attention import AttentionSpec, log_table, pow_table


@st.composite
def specs(draw: st.DrawFn) -> AttentionSpec:
    """Any legal spec."""
    pool = draw(st.sampled_from(["shared", "split"]))
    head_dim = draw(st.sampled_from([8, 16, 32, 64, 128]))
    lanes = draw(st.sampled_from([1, 2, 4, 8, 16]))
    tokens = draw(st.sampled_from([1 << b for b in range(4, 13)]))
    return AttentionSpec(
        head_dim,
        head_dim * lanes * (2 if pool == "split" else 1),
        pool,
        tokens,
        draw(st.integers(1, min(64, tokens))),
        draw(st.sampled_from(["radix", "quick_select"])),
        draw(st.sampled_from([2, 4, 8, 16, 32, 64])),
    )


@given(specs())
def test_widths_hold_the_extremes(spec: AttentionSpec) -> None:
    """Every derived width holds the value that the largest operands give (two's complement)."""
    score = spec.head_dim * 2048 * 2048
    assert -(1 << (spec.score_bits - 1)) <= -score
    assert score < 1 << (spec.score_bits - 1)
    assert 2 * score < 1 << spec.difference_bits
    assert 2 * score * 65535 + (1 << 46) < 1 << spec.distance_product_bits
    assert spec.max_tokens * 2**24 < 1 << spec.sum_bits
    assert spec.max_tokens * (2**22 - 1) * 128 < 1 << (spec.acc_bits - 1)
    assert 1 <= spec.lanes <= 16
    assert spec.out_lanes * spec.out_beats == spec.head_dim


@given(specs())
def test_selectors_take_every_row(spec: AttentionSpec) -> None:
    """Both selectors take as many keys as a row has tokens, and the keys' widths."""
    value, importance = spec.value_selector, spec.importance_selector
    assert (value.max_n, value.lanes, value.key_bits) == (spec.max_tokens, spec.lanes, 13)
    assert (importance.max_n, importance.lanes) == (spec.max_tokens, spec.lanes)
    assert importance.key_bits == 48
    assert importance.largest
    assert not value.largest
    assert {value.architecture, importance.architecture} == {spec.topk}


def test_derived_of_the_default() -> None:
    """The default spec has the numbers of docs/engines/attention.md."""
    spec = AttentionSpec()
    assert (spec.lanes, spec.rows, spec.score_tree, spec.lane_tree) == (8, 128, 3, 2)
    assert (spec.score_bits, spec.sum_bits, spec.acc_bits) == (30, 35, 41)
    assert AttentionSpec(pool="split").lanes == 4


def test_pow_is_the_rounded_power() -> None:
    """POW[f] is the integer nearest to 2**(24 - f/256), by exact integer powers."""
    table = pow_table()
    assert len(table) == 256
    for f, value in enumerate(table):
        power = 2 ** (256 * 24 - f)  # of 256 factors
        assert (2 * value - 1) ** 256 < power * 2**256 < (2 * value + 1) ** 256
    assert table[0] == 1 << 24
    assert all(a > b for a, b in itertools.pairwise(table))


def test_log_is_the_rounded_logarithm() -> None:
    """LOG[m] is the integer nearest to 256 * log2(1 + (m + 1/2)/1024), by exact powers."""
    table = log_table()
    assert len(table) == 1024
    for m, value in enumerate(table):
        # |256 log2 x - value| < 1/2 iff 2**(value - 1/2) < x**256 < 2**(value + 1/2); squared.
        x = (2 * m + 1 + 2048) ** 512
        scale = 2048**512
        assert (scale << 2 * value) < 2 * x
        assert x < (scale << 2 * value) * 2
    assert table == sorted(table)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "both"}, r"^attention: pool must be one of 'shared', 'split', not 'both'$"),
        ({"topk": "sort"}, r"^attention: topk must be one of 'radix', 'quick_select', not 'sort'$"),
        (
            {"head_dim": 24},
            (
                r"^attention: head_dim must be a power of two in 8\.\.128, not 24; "
                r"the nearest legal value is 16$"
            ),
        ),
        (
            {"multipliers": 2048},
            (
                r"^attention: multipliers must be a power of two in 64\.\.1024, not 2048; "
                r"the nearest legal value is 1024$"
            ),
        ),
        (
            {"pool": "split", "multipliers": 64},
            (
                r"^attention: multipliers must be a power of two in 128\.\.2048, not 64; "
                r"the nearest legal value is 128$"
            ),
        ),
        (
            {"max_tokens": 8},
            (
                r"^attention: max_tokens must be a power of two in 16\.\.4096, not 8; "
                r"the nearest legal value is 16$"
            ),
        ),
        (
            {"max_tokens": 16, "max_heads": 17},
            r"^attention: max_heads must be in 1\.\.16, not 17; the nearest legal value is 16$",
        ),
        (
            {"fetch_beats": 1},
            (
                r"^attention: fetch_beats must be a power of two in 2\.\.64, not 1; "
                r"the nearest legal value is 2$"
            ),
        ),
    ],
)
def test_illegal_values_are_named(fields: dict[str, object], message: str) -> None:
    """A wrong field raises one line that says what is legal."""
    with pytest.raises(ValueError, match=message):
        AttentionSpec(**fields)  # pyright: ignore[reportArgumentType]
