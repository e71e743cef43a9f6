# SPDX-License-Identifier: Apache-2.0
"""Specification of the top-k engine: parameters, checks, derived widths, closed-form cycles.

The contract that this object stands for is `docs/engines/topk.md`; section numbers below refer to
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from cosil.engines.common import EngineSpec, ceil_div, pow2_at_least

LOAD_LATENCY = {"radix": 3, "quick_select": 1}
"""Cycles from the transfer of a job's last row until its load is complete (section 4.1)."""

PASS_LATENCY = {"radix": 4, "quick_select": 3}
"""Cycles of a pass beyond one for each row that it reads (sections 4.2 and 4.3)."""

FILTER_LATENCY = 6
"""Cycles from the issue of a row to its items at the output register (section 4.4)."""


@dataclass(frozen=True, slots=True)
class Course:
    """What a job's keys make of its cycles, as `sim.topk` tells it.

    Attributes
    ----------
    passes : sequence of int
        Keys that each pass reads, none for the digit that load counts.
    last_row, last_row_items : int, optional
        The row that holds the last kept key, and how many of its keys are kept; without them the
        most cycles that the shape allows.
    """

    passes: Sequence[int] = ()
    last_row: int | None = None
    last_row_items: int | None = None


_UNKNOWN = Course()


@dataclass(frozen=True, slots=True)
class TopkSpec(EngineSpec):
    """One top-k engine.

    Parameters
    ----------
    architecture : {"radix", "quick_select"}
        Radix select, most significant digit first, or quick-select as SpAtten publishes it.
    lanes : int
        P, keys of a row, a power of two in 1..64.
    key_bits : int
        w, 1..48.
    signed : bool
        Keys are two's complement.
    largest : bool
        The larger key is the better one.
    max_n : int
        Most keys of a job, P..65536.
    digit_bits : int
        Most bits of a radix digit, 1..8.
    buffers : int
        Banks, each for the keys of one job, 1..3.
    seed : int
        State of quick-select's generator after reset, 1..2**32 - 1.
    """

    ENGINE: ClassVar = "topk"

    architecture: Literal["radix", "quick_select"] = "radix"
    lanes: int = 16
    key_bits: int = 12
    signed: bool = False
    largest: bool = True
    max_n: int = 1024
    digit_bits: int = 6
    buffers: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        self._check_choice("architecture", LOAD_LATENCY)
        self._check_bools("signed", "largest")
        self._check_integers(*_INTEGERS)
        self._check_power_of_two("lanes", 1, 64)
        self._check_range("key_bits", 1, 48)
        self._check_range("max_n", self.lanes, 65536)
        self._check_range("digit_bits", 1, 8)
        self._check_range("buffers", 1, 3)
        self._check_range("seed", 1, (1 << 32) - 1)

    # -- derived quantities ------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """B, rows of the largest job."""
        return ceil_div(self.max_n, self.lanes)

    @property
    def memory_depth(self) -> int:
        """Words of a bank, of the survivor memory, and of each FIFO: a power of two, at least B."""
        return pow2_at_least(self.rows)

    @property
    def index_bits(self) -> int:
        """Bits of an item's index."""
        return max(1, (self.max_n - 1).bit_length())

    @property
    def count_bits(self) -> int:
        """Bits of a number of keys, 0..max_n."""
        return self.max_n.bit_length()

    @property
    def digits(self) -> int:
        """D, digits of a key."""
        return ceil_div(self.key_bits, self.digit_bits)

    @property
    def digit_widths(self) -> tuple[int, ...]:
        """Bits of each digit, most significant digit first; they sum to `key_bits`."""
        narrow, wider = divmod(self.key_bits, self.digits)
        return (narrow + 1,) * wider + (narrow,) * (self.digits - wider)

    @property
    def digit_shifts(self) -> tuple[int, ...]:
        """Position of each digit's lowest bit in the order code."""
        shifts: list[int] = []
        below = self.key_bits
        for width in self.digit_widths:
            below -= width
            shifts.append(below)
        return tuple(shifts)

    @property
    def code_mask(self) -> int:
        """Mask that turns a key's w bits into its order code by exclusive or (section 1)."""
        top = 1 << (self.key_bits - 1)
        return (top if self.signed else 0) ^ (0 if self.largest else 2 * top - 1)

    # -- closed forms --------------------------------------------------------------------------

    def select_cycles(self, passes: Sequence[int]) -> int:
        """Return the cycles from the last row's transfer until the cut is decided (section 4).

        Parameters
        ----------
        passes : sequence of int
            As in `Course`.
        """
        longer = PASS_LATENCY[self.architecture]
        load = LOAD_LATENCY[self.architecture]
        return load + 1 + sum(ceil_div(keys, self.lanes) + longer for keys in passes)

    def select_bound(self, n: int) -> int:
        """Return the most cycles that `select_cycles` can be for n keys, whatever they are.

        For ``quick_select`` that is a pass for every key: each removes its pivot only.
        """
        self._check_shape(n, 0)
        if self.architecture == "radix":
            return self.select_cycles([n] * (self.digits - 1))
        return self.select_cycles(range(n, 0, -1))

    def latency(self, n: int, k: int, course: Course = _UNKNOWN) -> int:
        """Return the cycles of one job without stalls, from its transfer to its last output.

        Parameters
        ----------
        n, k : int
            Keys, 1..max_n, and how many are wanted, at least 0.
        course : Course
            What the keys make of it.

        Raises
        ------
        ValueError
            If no job has that shape.
        """
        row_transfers = ceil_div(n, self.lanes)
        # The job's transfer is cycle 0, so that the last row's is cycle `row_transfers`.
        decided = row_transfers + self.select_cycles(course.passes)
        return decided + self._filter_cycles(n, k, course)

    def interval(self, n: int, k: int, course: Course = _UNKNOWN) -> Fraction:
        """Return the mean cycles from job to job in a long run of such jobs without stalls.

        The slowest stage's period, or, with fewer than three banks, a job's residence in its bank
        over the number of banks. Parameters and errors are those of `latency`.
        """
        load = ceil_div(n, self.lanes) + LOAD_LATENCY[self.architecture] + 1
        select = self.select_cycles(course.passes) - LOAD_LATENCY[self.architecture] + 1
        filter_ = self._filter_cycles(n, k, course)
        residence = self.latency(n, k, course)
        return max(Fraction(load), Fraction(select), Fraction(filter_),
                   Fraction(residence, self.buffers))  # fmt: skip

    def _filter_cycles(self, n: int, k: int, course: Course) -> int:
        """Return the cycles from the decision to the last output, that cycle included."""
        self._check_shape(n, k)
        kept = min(k, n)
        if kept == 0:
            return FILTER_LATENCY + 2
        row = ceil_div(n, self.lanes) - 1 if course.last_row is None else course.last_row
        possible = min(kept, n - row * self.lanes, self.lanes)
        items = possible if course.last_row_items is None else course.last_row_items
        if not (0 <= row and 1 <= items <= possible):
            raise ValueError(
                f"topk: the last kept of {n} keys must lie in a row that holds it, "
                f"not {items!r} items in row {row!r}"
            )
        # A row that fills a beat and leaves the last items needs one more beat for them.
        one_more = 0 < kept % self.lanes < items
        return FILTER_LATENCY + 2 + row + one_more

    def _check_shape(self, n: int, k: int) -> None:
        if not 1 <= n <= self.max_n:
            raise ValueError(f"topk: n must be in 1..{self.max_n}, not {n!r}")
        if k < 0:
            raise ValueError(f"topk: k must be at least 0, not {k!r}")


_INTEGERS = ("lanes", "key_bits", "max_n", "digit_bits", "buffers", "seed")
