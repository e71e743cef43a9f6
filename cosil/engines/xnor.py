# SPDX-License-Identifier: Apache-2.0
"""Specification of the XNOR array: parameters, checks, derived sizes, closed-form cycles.

The contract that this object stands for is `docs/engines/xnor.md`; section numbers below refer to
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cosil.engines.common import EngineSpec, ceil_div
from cosil.packed.ops import XNOR_INPUTS_MAX

COUNT_LATENCY = 3
"""Cycles from the issue of a vector's last step, besides the tree's, until its sum s is visible:
operands, accumulator, sum (section 5)."""

EPILOGUE_LATENCY = {"threshold": 2, "fixed": 6}
"""Cycles from the sum to the output register: compare and OR, or the stages of
`rtl.lib.fixed_point`."""


@dataclass(frozen=True, slots=True)
class XnorSpec(EngineSpec):
    """One XNOR array, folded over outputs (pe) and inputs (simd) as FINN folds.

    Parameters
    ----------
    pe : int
        P, outputs computed at once, 1..128.
    simd : int
        Inputs of an output taken at once, 1..512.
    weights : {"binary", "ternary"}
        Whether a weight has a non-zero bit besides its sign.
    epilogue : {"threshold", "fixed"}
        Output bits, or multiplier and shift to int8 and int16.
    max_inputs : int
        Largest K, `simd`..32767.
    max_outputs : int
        Largest n of a job, `pe`..16384.
    border_classes : int
        Most rows of base values of a job, 1..32.
    """

    ENGINE: ClassVar = "xnor"

    pe: int = 16
    simd: int = 64
    weights: Literal["binary", "ternary"] = "binary"
    epilogue: Literal["threshold", "fixed"] = "threshold"
    max_inputs: int = 4608
    max_outputs: int = 512
    border_classes: int = 9

    def __post_init__(self) -> None:
        self._check_choice("weights", ("binary", "ternary"))
        self._check_choice("epilogue", tuple(EPILOGUE_LATENCY))
        self._check_integers("pe", "simd", "max_inputs", "max_outputs", "border_classes")
        self._check_range("pe", 1, 128)
        self._check_range("simd", 1, 512)
        self._check_range("max_inputs", self.simd, XNOR_INPUTS_MAX)
        self._check_range("max_outputs", self.pe, 16384)
        self._check_range("border_classes", 1, 32)

    # -- derived quantities ------------------------------------------------------------------

    @property
    def weight_planes(self) -> int:
        """Bits of a weight: sign, and non-zero where weights are ternary."""
        return 2 if self.weights == "ternary" else 1

    @property
    def output_folds_max(self) -> int:
        """Output folds NF of the largest n: words of the column memory."""
        return self.output_folds(self.max_outputs)

    @property
    def input_folds_max(self) -> int:
        """Input folds SF of the largest K: words of the input buffer."""
        return self.input_folds(self.max_inputs)

    @property
    def weight_depth(self) -> int:
        """Tiles of P x simd weights that the weight memory holds."""
        return self.output_folds_max * self.input_folds_max

    @property
    def base_depth(self) -> int:
        """Words of P base values that the base memory holds."""
        return self.border_classes * self.output_folds_max

    @property
    def mismatch_bits(self) -> int:
        """Width of the mismatch counter, unsigned."""
        return self.max_inputs.bit_length()

    @property
    def sum_bits(self) -> int:
        """Signed width of s = base - 2 mm, with base in 0..2K and mm in 0..K."""
        return (2 * self.max_inputs).bit_length() + 1

    @property
    def tree_stages(self) -> int:
        """D, register stages of the tree that counts the mismatches of a tile."""
        return max(1, ceil_div((self.simd - 1).bit_length(), 3))

    @property
    def pipeline_latency(self) -> int:
        """Cycles from the issue of a vector's last step to its beat at the output register."""
        return COUNT_LATENCY + self.tree_stages + EPILOGUE_LATENCY[self.epilogue]

    # -- closed forms --------------------------------------------------------------------------

    def output_folds(self, n: int) -> int:
        """Return NF, the folds of n outputs."""
        return ceil_div(n, self.pe)

    def input_folds(self, k: int) -> int:
        """Return SF, the folds of k inputs."""
        return ceil_div(k, self.simd)

    def load_beats(
        self,
        k: int,
        n: int,
        classes: int = 1,
        *,
        load_weights: bool = True,
        load_base: bool = True,
        load_columns: bool = True,
    ) -> dict[str, int]:
        """Return the beats of i_w, i_c and i_e of a job, by the letter of the stream."""
        folds = self.output_folds(n)
        return {
            "w": folds * self.input_folds(k) if load_weights else 0,
            "c": classes * folds if load_base else 0,
            "e": folds if load_columns else 0,
        }

    def interval(self, k: int, n: int) -> int:
        """Return II, the cycles from vector to vector without stalls: NF.SF (section 5).

        Parameters
        ----------
        k : int
            Inputs, 1..max_inputs.
        n : int
            Outputs, 1..max_outputs.

        Raises
        ------
        ValueError
            If no job has that shape.
        """
        self._check_shape(1, k, n, 1)
        return self.output_folds(n) * self.input_folds(k)

    def latency(
        self,
        m: int,
        k: int,
        n: int,
        classes: int = 1,
        *,
        load_weights: bool = True,
        load_base: bool = True,
        load_columns: bool = True,
    ) -> int:
        """Return the cycles of a job without stalls, exactly (section 5); pooling changes nothing.

        Parameters
        ----------
        m : int
            Vectors, at least 1.
        k, n : int
            As for `interval`.
        classes : int
            Rows of base values, 1..border_classes.
        load_weights, load_base, load_columns : bool
            What the job loads.

        Raises
        ------
        ValueError
            If no job has that shape.
        """
        self._check_shape(m, k, n, classes)
        beats = self.load_beats(
            k,
            n,
            classes,
            load_weights=load_weights,
            load_base=load_base,
            load_columns=load_columns,
        )
        # A beat of x is transferred in cycle 1 at the earliest, and usable in the next.
        first_step = max(max(beats.values()) + 1, 2)
        last_step = first_step + m * self.interval(k, n) - 1
        return last_step + self.pipeline_latency + 1

    def _check_shape(self, m: int, k: int, n: int, classes: int) -> None:
        shape = (("m", m, None), ("k", k, self.max_inputs), ("n", n, self.max_outputs),
                 ("classes", classes, self.border_classes))  # fmt: skip
        for name, value, high in shape:
            if value < 1 or (high is not None and value > high):
                bound = "at least 1" if high is None else f"in 1..{high}"
                raise ValueError(f"xnor: {name} must be {bound}, not {value!r}")
