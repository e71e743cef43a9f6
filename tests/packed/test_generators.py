# SPDX-License-Identifier: Apache-2.0
"""Generators against published vectors and against the algebra that they claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from cosil.packed.generators import LFSR32_MASK, lfsr32_leap, lfsr32_rows, lfsr32_step

STATES = st.integers(1, 2**32 - 1)


def applied(rows: tuple[int, ...], state: int) -> int:
    return sum(((row & state).bit_count() & 1) << i for i, row in enumerate(rows))


def test_steps_are_the_published_ones() -> None:
    """Six steps from seed 1 are the vectors that the reference note gives for this mask."""
    state = 1
    found = [state := lfsr32_step(state) for _ in range(6)]
    assert found == [0x80200003, 0xC0300002, 0x60180001, 0xB02C0003, 0xD8360002, 0x6C1B0001]


@given(STATES)
def test_a_leap_is_32_steps_in_every_form(state: int) -> None:
    """Steps, leap, and the matrix that hardware gets, agree."""
    expected = state
    for _ in range(32):
        expected = lfsr32_step(expected)
    assert expected == lfsr32_leap(state) == applied(lfsr32_rows(), state)
    assert applied(lfsr32_rows(0), state) == state


def test_period_is_that_of_all_states() -> None:
    """The step's matrix has order 2**32 - 1, so that every state but 0 occurs."""
    order = 2**32 - 1
    assert LFSR32_MASK >> 31 == 1
    identity = lfsr32_rows(0)
    assert lfsr32_rows(order) == identity
    for prime in (3, 5, 17, 257, 65537):
        assert order % prime == 0
        assert lfsr32_rows(order // prime) != identity


def test_kernels_draw_the_same() -> None:
    """A compiled leap gives the interpreted one's draws, also where bit 31 is set."""
    compiled = njit(lfsr32_leap)
    for state in (1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF):
        assert compiled(state) == lfsr32_leap(state)


def test_negative_steps_are_refused() -> None:
    """The matrix is of so many steps forward."""
    with pytest.raises(ValueError, match=r"^generators: steps must be at least 0, not -1$"):
        lfsr32_rows(-1)
