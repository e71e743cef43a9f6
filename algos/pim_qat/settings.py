# SPDX-License-Identifier: Apache-2.0
"""Settings of PIM-QAT: the macro, the chip's errors, what the training does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cosil.engines.pim import PimSpec
from cosil.packed.decomposition import DECOMPOSITIONS, Decomposition

_CHOICES: dict[str, tuple[Any, ...]] = {
    "decomposition": DECOMPOSITIONS,
    "grid": ("B", "A", "search"),
}
_LEAST = {
    "steps": 0, "batch": 2, "start_samples": 1, "shift": 0, "seed": 0, "chip_seed": 0,
    "decay": 0.0, "gain_sigma": 0.0, "offset_sigma": 0.0, "inl_peak": 0.0, "noise_sigma": 0.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PimQatSettings:
    """Hyper-parameters.

    Parameters
    ----------
    decomposition, rows, columns, mux, weight_bits, activation_bits, slice_bits, adc_bits
        Of the macro, as of `PimSpec`. A convolution puts as many whole input channels on the rows
        as fit: its row group has floor(rows / (kh * kw)) channels.
    grid : {"B", "A", "search"}
        The ADC's grid: the full scale, an LSB of `grid_lsb` units from `grid_offset` on, or grid A
        with both chosen for each layer on the calibration data.
    grid_lsb, grid_offset : int
        k and l of grid A.
    gain_sigma, offset_sigma, inl_peak : float
        Errors of the chip's columns (`cosil.lowering.pim_transfer.synthetic`): deviation of the
        gain; deviation of the offset and largest integral non-linearity, in LSB of the ADC.
    noise_sigma : float
        Deviation of the noise of a conversion, LSB; 0 is without noise.
    noise_bits : int
        Logarithm of the noise table's length.
    chip_seed : int
        Of the errors and of the noise generators.
    pim_training : bool
        Arrays in the forward pass of the training; false is conventional quantised training.
    backward_rescale : bool
        Multiply the gradient of an array by xi.
    forward_rescale : bool
        Multiply the output of an array by eta.
    bn_calibration : bool
        Measure the norms' statistics again through the arrays of the chip, after the training.
    error_training : bool
        The chip's errors and noise in the training too; false trains for an ideal ADC, and so once
        for all chips.
    train_adc_bits : int
        Adjusted precision: ADC bits of the training; 0 is `adc_bits`.
    steps, batch : int
        Updates, and images in each.
    rate, decay : float
        Largest learning rate, and weight decay of the weights.
    shift : int
        Images are moved by up to so many pixels.
    flip : bool
        Half of the batches are mirrored.
    start_samples : int
        Images, at most, that steps, clips, norms and grids start from.
    seed : int
        Of batches and noise in the training.
    """

    decomposition: Decomposition = "bit_serial"
    rows: int = 128
    columns: int = 256
    mux: int = 8
    weight_bits: int = 4
    activation_bits: int = 4
    slice_bits: int = 1
    adc_bits: int = 7
    grid: Literal["B", "A", "search"] = "B"
    grid_lsb: int = 1
    grid_offset: int = 0
    gain_sigma: float = 0.0
    offset_sigma: float = 0.0
    inl_peak: float = 0.0
    noise_sigma: float = 0.0
    noise_bits: int = 8
    chip_seed: int = 0
    pim_training: bool = True
    backward_rescale: bool = True
    forward_rescale: bool = True
    bn_calibration: bool = True
    error_training: bool = False
    train_adc_bits: int = 0
    steps: int = 150
    batch: int = 64
    rate: float = 0.05
    decay: float = 1e-4
    shift: int = 1
    flip: bool = False
    start_samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            value = getattr(self, name)
            if value not in legal:
                known = ", ".join(map(repr, legal))
                raise ValueError(f"pim_qat: {name} must be one of {known}, not {value!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"pim_qat: {name} must be at least {least}, not {value!r}")
        if not self.rate > 0:
            raise ValueError(f"pim_qat: rate must be positive, not {self.rate!r}")
        if self.train_adc_bits and not 2 <= self.train_adc_bits <= 10:
            raise ValueError(
                f"pim_qat: train_adc_bits must be 0 or 2..10, not {self.train_adc_bits!r}"
            )
        self.spec()

    def spec(self) -> PimSpec:
        """Return a macro with these parameters; raises ValueError where there can be none."""
        return PimSpec(
            decomposition=self.decomposition, rows=self.rows, columns=self.columns,
            weight_bits=self.weight_bits, activation_bits=self.activation_bits,
            slice_bits=self.slice_bits, adc_bits=self.adc_bits, mux=self.mux,
            noise_bits=self.noise_bits,
        )  # fmt: skip

    @property
    def has_errors(self) -> bool:
        """Whether the chip's columns have errors."""
        return bool(self.gain_sigma or self.offset_sigma or self.inl_peak)
