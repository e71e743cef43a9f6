# SPDX-License-Identifier: Apache-2.0
"""Specification of the sparse attention engine: parameters, checks, derived widths and tables.

The contract that this object stands for is `docs/engines/attention.md`; section numbers below
refer to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from cosil.engines.common import FIXED_EPILOGUE_LATENCY, EngineSpec, ceil_div
from cosil.engines.topk import TopkSpec

QUERY_BITS = 12
CODE_BITS = 8
"""Most bits of a stored code: the MSBs of a key, and a value."""

LSB_BITS = 4
"""Bits of a key's second plane; a whole key is msb * 16 + lsb."""

CODE_WIDTHS = (4, 6, 8)
"""What msb_bits and value_bits of a row may be."""

DISTANCE_BITS = 13
"""Bits of a distance t, UQ5.8 in units of log2."""

NO_WEIGHT = (1 << DISTANCE_BITS) - 1
"""The distance that stands for "no weight": its exponential and probability are 0."""

FRACTION_BITS = 8
"""Fraction bits of distances and of the logarithm."""

EXP_BITS = 24
"""The exponential of distance 0 is 2**24."""

LOG_INDEX_BITS = 10
"""Bits below a sum's leading one that address the table of logarithms."""

LOG_BITS = 12
"""Bits of the logarithm L, UQ4.8, and of the thresholds of the LSB rule."""

PROBABILITY_BITS = 22
"""Fraction bits, and bits, of a probability; the largest is 1 - 2**-22."""

IMPORTANCE_BITS = 48
OUTPUT_BITS = 16
MULT_BITS = 16
SHIFT_MAX = 47
OUT_SHIFT_MAX = 63
SCORE_BANKS = 3
DISTANCE_BANKS = 2
CONTEXT_ROWS = 4
"""Rows that may be between their handover to weigh and their last value launch."""

EPILOGUE_LATENCY = FIXED_EPILOGUE_LATENCY
"""Cycles from the issue of an output step to its transfer at the earliest (section 5.5)."""


def pow_table() -> list[int]:
    """Return POW[f] = round(2**(24 - f/256)), f = 0..255, 25 bits each (section 1)."""
    return [round(2.0 ** (EXP_BITS - f / 256)) for f in range(1 << FRACTION_BITS)]


def log_table() -> list[int]:
    """Return LOG[m] = round(256 * log2(1 + (m + 1/2)/1024)), m = 0..1023, 9 bits each."""
    size = 1 << LOG_INDEX_BITS
    return [round(256 * math.log2(1 + (m + 0.5) / size)) for m in range(size)]


@dataclass(frozen=True, slots=True)
class AttentionSpec(EngineSpec):
    """One sparse attention engine.

    Parameters
    ----------
    head_dim : int
        D, codes of a query, key or value: 8, 16, 32, 64 or 128.
    multipliers : int
        M, a power of two, so that there are 1 to 16 lanes.
    pool : {"shared", "split"}
        Both products use all multipliers in turn, or each has half of them.
    max_tokens : int
        Most tokens of a pass, a power of two in max(lanes, 16)..4096.
    max_heads : int
        Most heads, 1..64, and not more than `max_tokens`.
    topk : {"radix", "quick_select"}
        Architecture of both selectors.
    fetch_beats : int
        F, beats of either memory port that may be underway or waiting, a power of two in 2..64.
    """

    ENGINE: ClassVar = "attention"

    head_dim: int = 64
    multipliers: int = 512
    pool: Literal["shared", "split"] = "shared"
    max_tokens: int = 1024
    max_heads: int = 16
    topk: Literal["radix", "quick_select"] = "radix"
    fetch_beats: int = 16

    def __post_init__(self) -> None:
        self._check_choice("pool", ("shared", "split"))
        self._check_choice("topk", ("radix", "quick_select"))
        self._check_integers(*_INTEGERS)
        self._check_power_of_two("head_dim", 8, 128)
        per_lane = self.head_dim * self._products
        self._check_power_of_two("multipliers", per_lane, LANES_MAX * per_lane)
        self._check_power_of_two("max_tokens", 16, 4096)
        self._check_range("max_heads", 1, min(64, self.max_tokens))
        self._check_power_of_two("fetch_beats", 2, 64)

    # -- derived quantities ------------------------------------------------------------------

    @property
    def _products(self) -> int:
        return 2 if self.pool == "split" else 1

    @property
    def lanes(self) -> int:
        """G, keys (or values) that one beat carries."""
        return self.multipliers // (self.head_dim * self._products)

    @property
    def rows(self) -> int:
        """Beats of the longest row of keys: words of each bank and of each lane's importance."""
        return self.max_tokens // self.lanes

    @property
    def id_bits(self) -> int:
        """Bits of a token's id and of a position in the list."""
        return self.max_tokens.bit_length() - 1

    @property
    def score_bits(self) -> int:
        """Bits of a signed score; |sum| <= D * 2**11 * 2**11 < 2**(score_bits - 1)."""
        bits = 24 + self.head_dim.bit_length() - 1
        assert self.head_dim << (2 * QUERY_BITS - 2) < 1 << (bits - 1)
        return bits

    @property
    def difference_bits(self) -> int:
        """Bits of max s - s_i, unsigned; two scores differ by less than 2**score_bits."""
        return self.score_bits

    @property
    def distance_product_bits(self) -> int:
        """Bits of (max s - s_i) * mult + half, unsigned."""
        bits = self.difference_bits + MULT_BITS + 1
        largest = ((1 << self.difference_bits) - 1) * ((1 << MULT_BITS) - 1)
        assert largest + (1 << (SHIFT_MAX - 1)) < 1 << max(bits, SHIFT_MAX)
        return max(bits, SHIFT_MAX)

    @property
    def sum_bits(self) -> int:
        """Bits of S; every exponential is at most 2**24."""
        bits = EXP_BITS + 1 + self.id_bits
        assert self.max_tokens << EXP_BITS < 1 << bits
        return bits

    @property
    def acc_bits(self) -> int:
        """Bits of an output's signed accumulator; |p * v| < 2**29, at most max_tokens of them."""
        bits = 31 + self.id_bits
        largest = self.max_tokens * ((1 << PROBABILITY_BITS) - 1) << (CODE_BITS - 1)
        assert largest < 1 << (bits - 1)
        return bits

    @property
    def score_tree(self) -> int:
        """T_q, registers of the adder tree over a key's D products (two levels each)."""
        return ceil_div(self.head_dim.bit_length() - 1, 2)

    @property
    def lane_tree(self) -> int:
        """T_g, registers of an adder tree over the lanes (two levels each), at least one."""
        return max(1, ceil_div(self.lanes.bit_length() - 1, 2))

    @property
    def out_lanes(self) -> int:
        """Columns of an output beat."""
        return min(8, self.head_dim)

    @property
    def out_beats(self) -> int:
        """Output beats of a row."""
        return self.head_dim // self.out_lanes

    @property
    def value_selector(self) -> TopkSpec:
        """The selector that keeps the values of smallest distance."""
        return TopkSpec(
            self.topk,
            lanes=self.lanes,
            key_bits=DISTANCE_BITS,
            largest=False,
            max_n=self.max_tokens,
            digit_bits=7,
            buffers=3,
        )

    @property
    def importance_selector(self) -> TopkSpec:
        """The selector that keeps the tokens, or heads, of largest importance."""
        return TopkSpec(
            self.topk,
            lanes=self.lanes,
            key_bits=IMPORTANCE_BITS,
            max_n=self.max_tokens,
            digit_bits=6,
            buffers=1,
        )


LANES_MAX = 16
_INTEGERS = ("head_dim", "multipliers", "max_tokens", "max_heads", "fetch_beats")
