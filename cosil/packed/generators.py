# SPDX-License-Identifier: Apache-2.0
"""Random generators whose draws every face of an engine reproduces.

A generator is a pure function from state to state on plain integers, so that it is the same in
Python, in a Numba kernel (where it is compiled into its caller) and, through its GF(2) matrix, in
hardware. A state fits 32 bits and is kept in a wider integer. A name here, the seed, and the order
of the draws, which the engine's page states, fix every value.

Consecutive states of a shift register share all bits but one. A *leap* takes as many steps as a
state has bits, so that a draw shares none with the draw before. Consecutive states of xorshift32
are unlike each other, so that each is a draw.
"""

from __future__ import annotations

from collections.abc import Callable

LFSR32_MASK = 0x80200003
"""Galois LFSR, right shift: taps of a maximal sequence, period 2**32 - 1."""

LFSR32_BITS = 32
"""Bits of a state, and steps of a leap."""

WORD = 0xFFFFFFFF
"""A 32-bit state with all bits set."""


def lfsr32_step(state: int) -> int:
    """Return the next state of the Galois LFSR: shift right, add the mask if a 1 falls out.

    Parameters
    ----------
    state : int
        1..2**32 - 1; 0 stays 0.
    """
    return (state >> 1) ^ (LFSR32_MASK * (state & 1))


def lfsr32_leap(state: int) -> int:
    """Return the state after 32 steps, which is one draw; 1..2**32 - 1."""
    for _ in range(LFSR32_BITS):
        state = (state >> 1) ^ (LFSR32_MASK * (state & 1))
    return state


def lfsr32_rows(steps: int = LFSR32_BITS) -> tuple[int, ...]:
    """Return the GF(2) matrix of a number of steps, as hardware needs it.

    Returns
    -------
    tuple of int
        Row i is the mask of the state bits whose exclusive or is bit i of the later state.

    Raises
    ------
    ValueError
        If `steps` is negative.
    """
    return _rows_of_steps(lfsr32_step, steps)


def xorshift32_step(state: int) -> int:
    """Return the next state of Marsaglia's xorshift with shifts 13, 17 and 5, which is one draw.

    Parameters
    ----------
    state : int
        1..2**32 - 1; 0 stays 0. The period is 2**32 - 1.

    References
    ----------
    Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (14), 2003.
    """
    state ^= (state << 13) & WORD
    state ^= state >> 17
    return state ^ ((state << 5) & WORD)


def xorshift32_rows(steps: int) -> tuple[int, ...]:
    """Return the GF(2) matrix of a number of steps, in the form of `lfsr32_rows`."""
    return _rows_of_steps(xorshift32_step, steps)


def fmix32(word: int) -> int:
    """Return the finaliser of MurmurHash3: a bijection of 0..2**32 - 1 that mixes all bits.

    References
    ----------
    Appleby, MurmurHash3, function ``fmix32``; placed in the public domain.
    """
    word ^= word >> 16
    word = (word * 0x85EBCA6B) & WORD
    word ^= word >> 13
    word = (word * 0xC2B2AE35) & WORD
    return word ^ (word >> 16)


def stream_state(number: int) -> int:
    """Return the first state of stream `number`, taken modulo 2**32: fmix32, but 1 for 0."""
    return fmix32(number & WORD) or 1


def _rows_of_steps(step: Callable[[int], int], steps: int) -> tuple[int, ...]:
    if steps < 0:
        raise ValueError(f"generators: steps must be at least 0, not {steps!r}")
    result = tuple(1 << i for i in range(LFSR32_BITS))
    # A step is linear: what it makes of a unit vector is a column of its matrix.
    power = _rows_of_columns([step(1 << j) for j in range(LFSR32_BITS)])
    while steps:
        if steps & 1:
            result = _product(power, result)
        power = _product(power, power)
        steps >>= 1
    return result


def _rows_of_columns(columns: list[int]) -> tuple[int, ...]:
    return tuple(
        sum((column >> i & 1) << j for j, column in enumerate(columns)) for i in range(len(columns))
    )


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the rows of A.B: the sum of those rows of B that a row of A selects."""
    rows: list[int] = []
    for selected in a:
        total = 0
        for j, row in enumerate(b):
            if selected >> j & 1:
                total ^= row
        rows.append(total)
    return tuple(rows)
