# SPDX-License-Identifier: Apache-2.0
"""The top-k reference against plain Python and against torch's own top-k."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algos.reference.topk import reference
from cosil.engines.topk import TopkSpec


@given(
    st.booleans(),
    st.booleans(),
    st.integers(1, 48),
    st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=70),
    st.integers(0, 80),
)
def test_ranks_are_those_of_a_sort_by_value_then_index(
    signed: bool, largest: bool, key_bits: int, raw: list[int], k: int
) -> None:
    """The kept are the first of Python's sort by (value, index), in input order."""
    spec = TopkSpec(signed=signed, largest=largest, key_bits=key_bits)
    # Cut to few bits, keys tie.
    low = -(1 << (key_bits - 1)) if signed else 0
    keys = [low + (value & ((1 << key_bits) - 1)) for value in raw]
    values, indices = reference(spec, torch.tensor(keys), k)
    ranked = sorted(range(len(keys)), key=lambda i: (-keys[i] if largest else keys[i], i))
    expected = sorted(ranked[:k])
    assert expected == indices.tolist()
    assert [keys[i] for i in expected] == values.tolist()


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60), st.data())
def test_values_are_those_of_torch_topk(keys: list[int], data: st.DataObject) -> None:
    """As a multiset the kept values are torch.topk's, whichever tied keys that one takes."""
    k = data.draw(st.integers(0, len(keys)))
    largest = data.draw(st.booleans())
    spec = TopkSpec(signed=True, largest=largest)
    values, _ = reference(spec, torch.tensor(keys), k)
    best = torch.topk(torch.tensor(keys), k, largest=largest).values
    assert sorted(best.tolist()) == sorted(values.tolist())


def test_the_papers_example() -> None:
    """SpAtten, figure 9: the three best of 0.6, 0.1, 0.5, 1.2, 0.6 are 0.6, 1.2, 0.6."""
    values, indices = reference(TopkSpec(), torch.tensor([6, 1, 5, 12, 6]), 3)
    assert values.tolist() == [6, 12, 6]
    assert indices.tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    ("keys", "k", "error", "message"),
    [
        (torch.tensor([4096]), 1, ValueError, "topk: keys must be in 0..4095, not 4096"),
        (torch.tensor([-1]), 1, ValueError, "topk: keys must be in 0..4095, not -1"),
        (torch.zeros(1025, dtype=torch.int64), 1, ValueError,
         "topk: n must be in 1..1024, not 1025"),
        (torch.zeros(0, dtype=torch.int64), 1, ValueError, "topk: n must be in 1..1024, not 0"),
        (torch.tensor([1]), -1, ValueError, "topk: k must be at least 0, not -1"),
        (torch.tensor([1.0]), 1, TypeError,
         "topk: keys must be a one-dimensional int64 tensor, not 1-dimensional torch.float32"),
    ],
)  # fmt: skip
def test_refusals(keys: torch.Tensor, k: int, error: type[Exception], message: str) -> None:
    """What the engine does not take is refused with one exact sentence."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        reference(TopkSpec(), keys, k)
