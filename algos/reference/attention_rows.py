# SPDX-License-Identifier: Apache-2.0
"""Rows of the sparse attention engine in exact integers, many at once.

docs/engines/attention.md, section 1, line by line. A group is what shares keys and values: one head
of one sequence. Matrix products run in float64 under asserted bounds that make them exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algos.reference.w4a8 import EXACT_FLOAT64, magnitude, rne_shift
from cosil.engines.attention import (
    CODE_BITS,
    EXP_BITS,
    FRACTION_BITS,
    IMPORTANCE_BITS,
    LOG_INDEX_BITS,
    LSB_BITS,
    NO_WEIGHT,
    OUTPUT_BITS,
    PROBABILITY_BITS,
    QUERY_BITS,
    log_table,
    pow_table,
)

POW = torch.tensor(pow_table())
LOG = torch.tensor(log_table())
FRACTION = (1 << FRACTION_BITS) - 1
HIDDEN = -(1 << 62)
"""Score of a key that a row does not see."""

HIDDEN_KEY = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What a row command says besides addresses and counts; one number a group.

    Attributes
    ----------
    mult, shift, out_mult, out_shift : int64[G]
        Of the distance (words 8) and of the output (word 10).
    lsb_low, lsb_high : int
        The LSB rule.
    """

    mult: Tensor
    shift: Tensor
    out_mult: Tensor
    out_shift: Tensor
    lsb_low: int
    lsb_high: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What rows give.

    Attributes
    ----------
    output : int64[G, Q, D]
        Output codes o, 16 bits.
    probability : int64[G, Q, T]
        p of the final pass, Q0.22; 0 where the row does not see the key.
    logarithm : int64[G, Q]
        L of the first pass, which the LSB rule reads.
    redo : bool[G, Q]
        Whether the row fetched its LSBs.
    kept : bool[G, Q, T]
        Keys whose values the row read.
    """

    output: Tensor
    probability: Tensor
    logarithm: Tensor
    redo: Tensor
    kept: Tensor


def rows(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, values: Tensor, factors: Factors
) -> Rows:
    """Compute rows.

    Parameters
    ----------
    query : int64[G, Q, D]
        Codes of 12 bits.
    key : int64[G, T, D]
        Whole codes msb * 16 + lsb, in the order of the list.
    value : int64[G, T, D]
        Codes of at most 8 bits.
    visible : bool[G, Q, T]
        Keys of each row, at least one: the first n of the list.
    values : int64[G, Q]
        Values to keep, 0 or more.
    factors : Factors
        The rest of the command.

    Returns
    -------
    Rows
    """
    assert query.shape[-1] << (2 * QUERY_BITS - 2) <= EXACT_FLOAT64
    assert magnitude(query) <= 1 << (QUERY_BITS - 1)
    assert magnitude(key) <= 1 << (CODE_BITS + LSB_BITS - 1)
    first = _softmax(_scores(query, key >> LSB_BITS << LSB_BITS), visible, factors)
    redo = (first[2] >= factors.lsb_low) & (first[2] <= factors.lsb_high)
    distance, probability = first[:2]
    if bool(redo.any()):
        whole = _softmax(_scores(query, key), visible, factors)
        distance = torch.where(redo[..., None], whole[0], distance)
        probability = torch.where(redo[..., None], whole[1], probability)
    kept = select(distance, visible, values)
    assert key.shape[-2] << (PROBABILITY_BITS + CODE_BITS - 1) <= EXACT_FLOAT64
    assert magnitude(value) <= 1 << (CODE_BITS - 1)
    acc = ((probability * kept).double() @ value.double()).long()
    scaled = rne_shift(acc * factors.out_mult[:, None, None], factors.out_shift[:, None, None])
    limit = 1 << (OUTPUT_BITS - 1)
    return Rows(scaled.clamp(-limit, limit - 1), probability, first[2], redo, kept)


def select(distance: Tensor, visible: Tensor, values: Tensor) -> Tensor:
    """Return the `values` visible positions of smallest distance, ties in list order, as a mask."""
    if bool((values >= visible.sum(-1)).all()):
        return visible
    positions = torch.arange(visible.shape[-1], dtype=torch.int32)
    # Distance, then position: no two keys are equal, and 13 + 17 bits fit int32.
    assert visible.shape[-1] <= 1 << 17
    keys = (distance.to(torch.int32) << 17) + positions
    order = torch.where(visible, keys, HIDDEN_KEY).sort(dim=-1).values
    last = (values[..., None] - 1).clamp(min=0, max=visible.shape[-1] - 1)
    worst = torch.where(values[..., None] > 0, order.gather(-1, last), -1)
    return visible & (keys <= worst)


def best(importance: Tensor, k: int, recent: int = 0) -> Tensor:
    """Return the k largest of int64[..., T], ties to the smaller number, int64[..., k] increasing.

    Token and head pruning. The last `recent` count as the largest there is.
    """
    importance = importance.clone()
    importance[..., importance.shape[-1] - recent :] = (1 << IMPORTANCE_BITS) - 1
    order = torch.sort(importance, dim=-1, descending=True, stable=True).indices
    return torch.sort(order[..., :k], dim=-1).values


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return (query.double() @ key.double().transpose(-1, -2)).long()


def _softmax(scores: Tensor, visible: Tensor, factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Return distances t, probabilities p and logarithms L."""
    shown = torch.where(visible, scores, HIDDEN)
    largest = shown.amax(-1, keepdim=True)
    mult, shift = factors.mult[:, None, None], factors.shift[:, None, None]
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0)
    product = torch.where(visible, largest - scores, 0) * mult
    distance = ((product + half) >> shift).clamp(max=NO_WEIGHT)
    weighs = visible & (distance < NO_WEIGHT)
    octave = distance >> FRACTION_BITS
    exponential = torch.where(weighs, POW[distance & FRACTION] >> octave, 0)
    total = exponential.sum(-1)
    leading = torch.frexp(total.double()).exponent.long() - 1
    below = (total >> (leading - LOG_INDEX_BITS)) & ((1 << LOG_INDEX_BITS) - 1)
    logarithm = ((leading - EXP_BITS) << FRACTION_BITS) + LOG[below]
    u = distance + logarithm[..., None]
    r = EXP_BITS - PROBABILITY_BITS + (u >> FRACTION_BITS)
    rounded = (POW[u & FRACTION] + (1 << (r - 1))) >> r
    limit = (1 << PROBABILITY_BITS) - 1
    return distance, torch.where(weighs, rounded.clamp(max=limit), 0), logarithm
