# SPDX-License-Identifier: Apache-2.0
"""Generators against published vectors and against the algebra that they claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from cosil.packed.generators import (
    LFSR32_MASK,
    fmix32,
    lfsr32_leap,
    lfsr32_rows,
    lfsr32_step,
    stream_state,
    xorshift32_rows,
    xorshift32_step,
)

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
    """A compiled leap or step gives the interpreted one's draws, also where bit 31 is set."""
    for draw in (lfsr32_leap, xorshift32_step):
        compiled = njit(draw)
        for state in (1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF):
            assert compiled(state) == draw(state)


def test_xorshift_is_the_published_one() -> None:
    """From the seed of Marsaglia's paper the first draw is the one that implementations give."""
    assert xorshift32_step(2463534242) == 723471715
    state = 1
    found = [state := xorshift32_step(state) for _ in range(5)]
    assert found == [270369, 67634689, 2647435461, 307599695, 2398689233]


@given(STATES, st.integers(0, 70))
def test_xorshift_jumps_are_its_steps(state: int, steps: int) -> None:
    """The matrix of any number of steps agrees with so many steps."""
    expected = state
    for _ in range(steps):
        expected = xorshift32_step(expected)
    assert expected == applied(xorshift32_rows(steps), state)


def test_xorshift_has_full_period() -> None:
    """The step's matrix has order 2**32 - 1."""
    order = 2**32 - 1
    identity = xorshift32_rows(0)
    assert xorshift32_rows(order) == identity
    for prime in (3, 5, 17, 257, 65537):
        assert xorshift32_rows(order // prime) != identity


def test_fmix_is_the_published_one() -> None:
    """MurmurHash3 of no bytes is fmix32 of the seed; its vectors for seeds 1 and 2**32 - 1."""
    assert fmix32(0) == 0
    assert fmix32(1) == 0x514E28B7
    assert fmix32(0xFFFFFFFF) == 0x81F16F39


@given(st.integers(-(2**40), 2**40))
def test_stream_states_are_states(number: int) -> None:
    """A stream's first state is never 0 and depends on its number modulo 2**32."""
    assert stream_state(number) == stream_state(number % 2**32)
    assert 0 < stream_state(number) < 2**32
    if number % 2**32:
        assert stream_state(number) == fmix32(number % 2**32)


def test_stream_zero_begins_at_one() -> None:
    """The one number that the finaliser maps to 0 gets the state 1."""
    assert stream_state(0) == stream_state(2**32) == 1


def test_negative_steps_are_refused() -> None:
    """The matrix is of so many steps forward."""
    with pytest.raises(ValueError, match=r"^generators: steps must be at least 0, not -1$"):
        lfsr32_rows(-1)
