# SPDX-License-Identifier: Apache-2.0
"""Specification of the W4A8 array: parameters, checks, derived widths, closed-form latency.

The contract that this object stands for is `docs/engines/w4a8.md`; section numbers
below refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cosil.engines.common import FIXED_EPILOGUE_LATENCY, EngineSpec, ceil_div, pow2_at_least

EPILOGUE_LATENCY = {"fp16": 24, "fixed": FIXED_EPILOGUE_LATENCY}
"""Cycles from the issue of a drain step to its result at the output register (section 5.4)."""


@dataclass(frozen=True, slots=True)
class W4A8Spec(EngineSpec):
    """One W4A8 array.

    Parameters
    ----------
    array_rows, array_cols : int
        R and C, 1..64. A weight-stationary array has 1, 2, 4 or a multiple of 8 rows.
    dataflow : {"os", "ws"}
        Output-stationary or weight-stationary.
    scales : {"channel", "group"}
        Weight scale datapath: one scale per output channel in the epilogue, or group scales that
        turn int4 into int8 before the multiply.
    weight_encoding : {"twos", "offset"}
        Code of a stored nibble. Empty: ``twos`` for channel, ``offset`` for group, as in QQQ.
    epilogue : {"fp16", "fixed"}
        float16 output with IEEE float32 products, or integer multiplier and shift.
    epilogue_lanes : int
        Columns drained per cycle, 1..C; 0 means C.
    max_k : int
        Largest K; fixes the accumulator width so that it cannot overflow.
    acc_rows : int
        Rows accumulated at once by a weight-stationary array, a power of two.
    prefetch_chunks : int
        Operand buffer depth in chunks (os) or k-tiles (ws), a power of two, at least 2.
    double_buffer : bool
        Overlap consecutive tiles.
    """

    ENGINE: ClassVar = "w4a8"

    array_rows: int = 16
    array_cols: int = 16
    dataflow: Literal["os", "ws"] = "os"
    scales: Literal["channel", "group"] = "channel"
    weight_encoding: Literal["", "twos", "offset"] = ""
    epilogue: Literal["fp16", "fixed"] = "fp16"
    epilogue_lanes: int = 0
    max_k: int = 16384
    acc_rows: int = 512
    prefetch_chunks: int = 4
    double_buffer: bool = True

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            self._check_choice(name, legal)
        if self.weight_encoding == "":
            object.__setattr__(
                self, "weight_encoding", "twos" if self.scales == "channel" else "offset"
            )
        self._check_integers(*_INTEGERS)
        self._check_bools("double_buffer")
        self._check_range("array_rows", 1, 64)
        self._check_range("array_cols", 1, 64)
        if self.epilogue_lanes == 0:
            object.__setattr__(self, "epilogue_lanes", self.array_cols)
        self._check_range("epilogue_lanes", 1, self.array_cols)
        self._check_range("max_k", 1, 65536)
        self._check_power_of_two("acc_rows", 16, 8192)
        self._check_power_of_two("prefetch_chunks", 2, 64)
        if self.dataflow == "ws" and self.array_rows not in _WS_ROWS:
            nearest = min(_WS_ROWS, key=lambda rows: (abs(rows - self.array_rows), rows))
            raise ValueError(
                "w4a8: array_rows of a ws array must be 1, 2, 4 or a multiple of 8, "
                f"not {self.array_rows!r}; the nearest legal value is {nearest}"
            )

    # -- derived quantities ------------------------------------------------------------------

    @property
    def pairs(self) -> int:
        """Column pairs P; the two columns of a pair share an activation register."""
        return ceil_div(self.array_cols, 2)

    @property
    def requant_stages(self) -> int:
        """Q, pipeline stages of the group requantiser."""
        return 2 if self.scales == "group" else 0

    @property
    def chunk(self) -> int:
        """Codes of one row in a fetched chunk (os: T; ws: R)."""
        if self.dataflow == "ws":
            return self.array_rows
        return 8 * ceil_div(2 * max(self.array_rows, self.array_cols), 8)

    @property
    def product_max(self) -> int:
        """Largest magnitude of one product."""
        return 1 << (10 if self.scales == "channel" else 14)

    @property
    def acc_bits(self) -> int:
        """Signed accumulator width; |sum| <= max_k * product_max < 2**(acc_bits - 1)."""
        bits = (self.max_k * self.product_max).bit_length() + 1
        assert self.max_k * self.product_max <= (1 << (bits - 1)) - 1
        return bits

    @property
    def period_min(self) -> int:
        """Least number of cycles from a tile's (os) or pass's (ws) first wave to the next one's."""
        if self.dataflow == "os":
            steps = ceil_div(self.array_cols, self.epilogue_lanes)
            return max(self.array_rows, self.array_cols, self.array_rows * steps)
        return max(self.array_rows + self.requant_stages, self.array_cols, 3)

    @property
    def drain_latency(self) -> int:
        """DR, cycles from the last wave of a tile (os) or row (ws) to its first drain step."""
        if self.dataflow == "os":
            return 6 + self.requant_stages + 2 * (self.array_rows - 1) + self.pairs - 1
        return 5 + self.array_rows + self.pairs - 1

    @property
    def epilogue_latency(self) -> int:
        """EPI, cycles from a drain step to its visible result."""
        return EPILOGUE_LATENCY[self.epilogue]

    @property
    def result_rows(self) -> int:
        """Words in each column's result memory."""
        if self.dataflow == "ws":
            return self.acc_rows * (2 if self.double_buffer else 1)
        if not self.double_buffer:
            return self.array_rows
        overlap = 3 + ceil_div(self.drain_latency, self.period_min)
        return pow2_at_least(self.array_rows * overlap)

    @property
    def a_beat_bytes(self) -> int:
        """Bytes of one beat of the activation stream."""
        return self.chunk if self.dataflow == "os" else max(4, self.array_rows)

    @property
    def w_beat_bytes(self) -> int:
        """Bytes of one beat of the weight stream."""
        return (self.chunk if self.dataflow == "os" else max(8, self.array_rows)) // 2

    @property
    def e_bits(self) -> int:
        """Bits of one column's epilogue parameters: float32 scale, or bias | mult | shift."""
        return 32 if self.epilogue == "fp16" else 64

    # -- closed form ---------------------------------------------------------------------------

    def latency(self, m: int, n: int, k: int, memory_latency: int = 2) -> int:
        """Return the cycles of a product of shape (m, n, k) without stalls (section 5.5).

        Exact, that is equal to the simulator's and the hardware's count, for ``double_buffer``,
        ``prefetch_chunks`` of at least 4, scale groups of at least `chunk` codes, and a memory
        latency of at most max(R, C) + 1; for ``ws`` also at most 8 R - 2, and a tile row that is
        drained in one step (C or n at most `epilogue_lanes`).

        Parameters
        ----------
        m, n, k : int
            Shape of the product, each at least 1, k at most `max_k`.
        memory_latency : int
            Cycles from a request to its response, at least 1.

        Raises
        ------
        ValueError
            If the shape is impossible or the closed form does not hold; `sim.w4a8.run` counts then.
        """
        self._check_closed_form(m, n, k, memory_latency)
        if self.dataflow == "os":
            last_launch, drain_steps = self._os_launches(m, n, k)
        else:
            last_launch, drain_steps = self._ws_launches(m, n, k), 1
        return (
            last_launch + memory_latency + self.drain_latency + drain_steps + self.epilogue_latency
        )

    def _os_launches(self, m: int, n: int, k: int) -> tuple[int, int]:
        """Return the cycle of the last wave, less the memory latency, and the last tile's steps."""
        rows, cols = self.array_rows, self.array_cols
        row_tiles, col_tiles = ceil_div(m, rows), ceil_div(n, cols)
        first_chunk = max(min(rows, m), min(cols, n))
        tiles_before = row_tiles * col_tiles - 1
        last_launch = first_chunk + 1 + tiles_before * max(k, self.period_min) + k - 1
        last_rows, last_cols = m - (row_tiles - 1) * rows, n - (col_tiles - 1) * cols
        return last_launch, last_rows * ceil_div(last_cols, self.epilogue_lanes)

    def _ws_launches(self, m: int, n: int, k: int) -> int:
        """Return the cycle of the last wave, less the memory latency."""
        rows, cols, period = self.array_rows, self.array_cols, self.period_min
        chunks = ceil_div(m, self.acc_rows)
        passes = ceil_div(n, cols) * ceil_div(k, rows)  # of a chunk of rows
        full_rows, last_rows = min(self.acc_rows, m), m - (chunks - 1) * self.acc_rows
        first_wave = min(cols, n) + 1 + rows + self.requant_stages
        last_pass = (chunks - 1) * passes * max(full_rows, period)
        last_pass += (passes - 1) * max(last_rows, period)
        # A last chunk of one or two rows meets the 3-cycle rule for last waves.
        late = max(0, full_rows + 3 - last_rows - max(full_rows, period)) if chunks > 1 else 0
        if last_rows == 2 and passes > 1 and period > 3:
            late = 0
        return first_wave + last_pass + last_rows - 1 + late

    def _check_closed_form(self, m: int, n: int, k: int, memory_latency: int) -> None:
        for name, value, high in (("m", m, None), ("n", n, None), ("k", k, self.max_k)):
            if value < 1 or (high is not None and value > high):
                bound = "at least 1" if high is None else f"in 1..{high}"
                raise ValueError(f"w4a8: {name} must be {bound}, not {value!r}")
        longest = max(self.array_rows, self.array_cols) + 1
        if self.dataflow == "ws":
            longest = min(longest, 8 * self.array_rows - 2)
        if not 1 <= memory_latency <= longest:
            raise ValueError(
                f"w4a8: the closed form holds for memory_latency in 1..{longest}, "
                f"not {memory_latency!r}; use sim.w4a8.run"
            )
        if not self.double_buffer or self.prefetch_chunks < 4:
            raise ValueError(
                "w4a8: the closed form needs double_buffer and prefetch_chunks of at least 4, "
                f"not {self.double_buffer!r} and {self.prefetch_chunks!r}; use sim.w4a8.run"
            )
        if self.dataflow == "ws" and min(self.array_cols, n) > self.epilogue_lanes:
            raise ValueError(
                f"w4a8: the closed form of ws needs at least {min(self.array_cols, n)} "
                f"epilogue_lanes, not {self.epilogue_lanes!r}; use sim.w4a8.run"
            )


_CHOICES: dict[str, tuple[str, ...]] = {
    "dataflow": ("os", "ws"),
    "scales": ("channel", "group"),
    "weight_encoding": ("", "twos", "offset"),
    "epilogue": ("fp16", "fixed"),
}
_INTEGERS = (
    "array_rows", "array_cols", "epilogue_lanes", "max_k", "acc_rows", "prefetch_chunks",
)  # fmt: skip
_WS_ROWS = (1, 2, 4, *range(8, 65, 8))
