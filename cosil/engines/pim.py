# SPDX-License-Identifier: Apache-2.0
"""Specification of the PIM macro: parameters, checks, derived widths, closed-form cycles.

The contract that this object stands for is `docs/engines/pim.md`; section numbers below refer to
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cosil.engines.common import (
    FIXED_EPILOGUE_LATENCY,
    EngineSpec,
    ceil_div,
    pow2_at_least,
)
from cosil.packed import decomposition as decompose
from cosil.packed.decomposition import DECOMPOSITIONS, GROUPS_MAX, VALUES_MAX, Decomposition

CONVERT_LATENCY = 4
"""Cycles from the last one of a conversion until the accumulators hold it: table and noise, code,
signed and shifted, added (section 5)."""


@dataclass(frozen=True, slots=True)
class PimSpec(EngineSpec):
    """One PIM macro with its digital periphery.

    Parameters
    ----------
    decomposition : {"bit_serial", "differential", "native"}
        How a weight is spread over columns.
    rows : int
        N, rows of the array, 1..1024.
    columns : int
        C, physical columns, 1..4096, at least `planes`.
    groups : int
        Most row groups of a job, 1..256.
    weight_bits : int
        bw, 2..8.
    activation_bits : int
        ba, 1..8.
    slice_bits : int
        m, bits of a slice, which are the DAC's; divides `activation_bits`.
    adc_bits : int
        b, 2..10.
    mux : int
        M, columns that share an ADC; divides `columns`, and is a multiple or a divisor of `planes`.
    row_cycles : int
        t_row, cycles that rows are driven before the columns are sampled, 1..255.
    conversion_cycles : int
        t_conv, cycles of a conversion, 1..255: 1 for a flash ADC, b or b + 1 for a SAR.
    double_buffer : bool
        Two sample-and-hold banks: rows are driven while the step before is converted.
    noise_bits : int
        0: no noise hardware; else 2..10, logarithm of the noise table's length.
    epilogue_lanes : int
        E, outputs of a beat, 1..`outputs`; 0, the default, becomes ceil(`outputs` / `mux`).
    """

    ENGINE: ClassVar = "pim"

    decomposition: Decomposition = "bit_serial"
    rows: int = 128
    columns: int = 256
    groups: int = 8
    weight_bits: int = 4
    activation_bits: int = 4
    slice_bits: int = 1
    adc_bits: int = 7
    mux: int = 8
    row_cycles: int = 1
    conversion_cycles: int = 1
    double_buffer: bool = True
    noise_bits: int = 8
    epilogue_lanes: int = 0

    def __post_init__(self) -> None:
        self._check_choice("decomposition", DECOMPOSITIONS)
        self._check_bools("double_buffer")
        self._check_integers(*_INTEGERS)
        for name, low, high in _RANGES:
            self._check_range(name, low, high)
        if self.activation_bits % self.slice_bits:
            self._fail(
                f"slice_bits must divide activation_bits = {self.activation_bits}, "
                f"not {self.slice_bits!r}"
            )
        self._check_range("columns", self.planes, 4096)
        if self.columns % self.mux:
            self._fail(f"mux must divide columns = {self.columns}, not {self.mux!r}")
        if self.mux % self.planes and self.planes % self.mux:
            self._fail(
                f"mux must be a multiple or a divisor of the {self.planes} columns of an output, "
                f"not {self.mux!r}"
            )
        if self.entries > VALUES_MAX:
            self._fail(
                f"a column must have at most {VALUES_MAX} values, not {self.entries}; "
                "lower rows, slice_bits or weight_bits"
            )
        if self.noise_bits:
            self._check_range("noise_bits", 2, 10)
        if self.epilogue_lanes == 0:
            object.__setattr__(self, "epilogue_lanes", ceil_div(self.outputs, self.mux))
        self._check_range("epilogue_lanes", 1, self.outputs)

    def _fail(self, detail: str) -> None:
        raise ValueError(f"{self.ENGINE}: {detail}")

    # -- derived quantities ------------------------------------------------------------------

    @property
    def planes(self) -> int:
        """P, columns of an output."""
        return decompose.planes(self.decomposition, self.weight_bits)

    @property
    def cell_bits(self) -> int:
        """Q, bits of a cell."""
        return decompose.cell_bits(self.decomposition, self.weight_bits)

    @property
    def bit_planes(self) -> int:
        """Bits that an output holds in a row, P.Q."""
        return self.planes * self.cell_bits

    @property
    def plane_weights(self) -> tuple[int, ...]:
        """Factor of each of an output's P columns."""
        return decompose.plane_weights(self.decomposition, self.weight_bits)

    @property
    def slice_levels(self) -> int:
        """D, values of a slice."""
        return 1 << self.slice_bits

    @property
    def slices(self) -> int:
        """S, slices of an activation; slice 0 is the most significant one."""
        return self.activation_bits // self.slice_bits

    @property
    def outputs(self) -> int:
        """O, outputs of a job at most; columns from O.P on are unused."""
        return self.columns // self.planes

    @property
    def adcs(self) -> int:
        """A, ADCs; column c is position c mod M of ADC c div M."""
        return self.columns // self.mux

    @property
    def value_min(self) -> int:
        """v_min, least value of a column of N rows."""
        return self._values[0]

    @property
    def value_max(self) -> int:
        """v_max, largest value of a column of N rows."""
        return self._values[1]

    @property
    def entries(self) -> int:
        """V, entries of a column's transfer table: values v_min..v_max."""
        return self.value_max - self.value_min + 1

    @property
    def code_min(self) -> int:
        """Least code of an ADC."""
        return decompose.code_range(self.decomposition, self.adc_bits)[0]

    @property
    def code_max(self) -> int:
        """Largest code of an ADC."""
        return decompose.code_range(self.decomposition, self.adc_bits)[1]

    @property
    def noise_entries(self) -> int:
        """Entries of the noise table; 0 without noise hardware."""
        return 1 << self.noise_bits if self.noise_bits else 0

    @property
    def row_words(self) -> int:
        """64-bit words of a column's N rows."""
        return ceil_div(self.rows, 64)

    @property
    def convert_cycles(self) -> int:
        """M.t_conv, cycles in which a step is converted."""
        return self.mux * self.conversion_cycles

    @property
    def period(self) -> int:
        """T, cycles from a step to the next one in a long run without stalls."""
        if self.double_buffer:
            return max(self.row_cycles, self.convert_cycles)
        return self.row_cycles + self.convert_cycles

    @property
    def output_steps(self) -> int:
        """Output steps of a vector of O outputs, ceil(O / E)."""
        return ceil_div(self.outputs, self.epilogue_lanes)

    @property
    def result_depth(self) -> int:
        """Vectors that the result store holds: outputs of one leave while others accumulate."""
        busy = ceil_div(CONVERT_LATENCY + self.output_steps, self.slices * self.period)
        return pow2_at_least(max(2, 1 + busy))

    @property
    def acc_bits(self) -> int:
        """Signed accumulator width, proved for `groups` groups of the largest code."""
        weight = 1 << (self.weight_bits - 1) if self.decomposition == "bit_serial" else 1
        slices = ((1 << self.activation_bits) - 1) // (self.slice_levels - 1)
        return (self.groups * self.code_max * weight * slices).bit_length() + 1

    @property
    def _values(self) -> tuple[int, int]:
        return decompose.value_range(
            self.decomposition, self.weight_bits, self.slice_bits, self.rows
        )

    # -- closed forms --------------------------------------------------------------------------

    def row_groups(self, k: int, rows: int | None = None) -> int:
        """Return G, row groups of k inputs in groups of `rows` (default N)."""
        return ceil_div(k, self.rows if rows is None else rows)

    def steps(self, k: int, rows: int | None = None) -> int:
        """Return the steps of a vector, G.S."""
        return self.row_groups(k, rows) * self.slices

    def load_beats(
        self,
        k: int,
        n: int,
        rows: int | None = None,
        *,
        load_weights: bool = True,
        load_transfer: bool = True,
        load_noise: bool = True,
    ) -> dict[str, int]:
        """Return the beats of i_w, i_t, i_n and i_e of a job, by the letter of the stream.

        `load_noise` has no effect without noise hardware. Parameters as for `latency`.
        """
        rows = self.rows if rows is None else rows
        words = n * self.bit_planes * self.row_groups(k, rows) * ceil_div(rows, 64)
        noise = self.noise_entries + self.adcs if self.noise_bits else 0
        return {
            "w": words if load_weights else 0,
            "t": self.mux * self.entries if load_transfer else 0,
            "n": noise if load_noise else 0,
            "e": ceil_div(n, self.epilogue_lanes),
        }

    def interval(self, k: int, n: int, rows: int | None = None) -> int:
        """Return II, the cycles from vector to vector in a long job without stalls (section 5).

        Parameters
        ----------
        k : int
            Inputs, 1..rows.groups.
        n : int
            Outputs, 1..O.
        rows : int, optional
            Rows of a group, 1..N; N if left out.

        Raises
        ------
        ValueError
            If no job has that shape, or its outputs leave more slowly than it converts.
        """
        rows = self.rows if rows is None else rows
        self._check_shape(1, k, n, rows)
        cycles = self.steps(k, rows) * self.period
        outputs = ceil_div(n, self.epilogue_lanes)
        if outputs > cycles:
            self._fail(
                f"the closed form holds where the {outputs} output steps of a vector take at most "
                f"the {cycles} cycles of its conversions; use sim.pim.run, or more epilogue_lanes"
            )
        return cycles

    def latency(
        self,
        m: int,
        k: int,
        n: int,
        rows: int | None = None,
        *,
        load_weights: bool = True,
        load_transfer: bool = True,
        load_noise: bool = True,
    ) -> int:
        """Return the cycles of a job without stalls, exactly (section 5).

        Parameters
        ----------
        m : int
            Vectors, at least 1.
        k, n, rows : int
            As for `interval`.
        load_weights, load_transfer, load_noise : bool
            What the job loads besides its column parameters.

        Raises
        ------
        ValueError
            As `interval`.
        """
        rows = self.rows if rows is None else rows
        self._check_shape(m, k, n, rows)
        self.interval(k, n, rows)
        load = max(
            self.load_beats(
                k,
                n,
                rows,
                load_weights=load_weights,
                load_transfer=load_transfer,
                load_noise=load_noise,
            ).values()
        )
        # The first sample is visible in cycle load + t_row + 2; cycles count from 0, and what is
        # written in one is readable in the next.
        last_step = load + self.row_cycles + 2 + (m * self.steps(k, rows) - 1) * self.period
        last_conversion = last_step + self.convert_cycles - 1
        written = last_conversion + CONVERT_LATENCY
        return written + ceil_div(n, self.epilogue_lanes) + FIXED_EPILOGUE_LATENCY + 1

    def _check_shape(self, m: int, k: int, n: int, rows: int) -> None:
        shape = (("m", m, None), ("rows", rows, self.rows), ("k", k, rows * self.groups),
                 ("n", n, self.outputs))  # fmt: skip
        for name, value, high in shape:
            if value < 1 or (high is not None and value > high):
                bound = "at least 1" if high is None else f"in 1..{high}"
                self._fail(f"{name} must be {bound}, not {value!r}")


_RANGES = (
    ("rows", 1, 1024),
    ("columns", 1, 4096),
    ("groups", 1, GROUPS_MAX),
    ("weight_bits", 2, 8),
    ("activation_bits", 1, 8),
    ("slice_bits", 1, 8),
    ("adc_bits", 2, 10),
    ("mux", 1, 4096),
    ("row_cycles", 1, 255),
    ("conversion_cycles", 1, 255),
    ("noise_bits", 0, 10),
)
_INTEGERS = (*(name for name, _, _ in _RANGES), "epilogue_lanes")
