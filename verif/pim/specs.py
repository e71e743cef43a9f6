# SPDX-License-Identifier: Apache-2.0
"""Macros that the tests build: every axis of the spec, on as few and small models as will do."""

from __future__ import annotations

from cosil.engines.pim import PimSpec

SMALL = {
    # Two words of rows; outputs share an ADC (M >= P); two banks, conversion longer than rows.
    "serial-shared": PimSpec(
        "bit_serial", rows=70, columns=12, groups=3, weight_bits=3, activation_bits=3, adc_bits=5,
        mux=6, row_cycles=2, noise_bits=4, epilogue_lanes=3,
    ),
    # An output's planes lie on several ADCs (M < P), two columns are unused; one bank, long rows.
    "serial-spread": PimSpec(
        "bit_serial", rows=9, columns=10, groups=4, slice_bits=2, adc_bits=4, mux=2, row_cycles=6,
        conversion_cycles=2, double_buffer=False, noise_bits=0,
    ),
    # Rows are driven for longer than a SAR converter takes; two banks.
    "differential": PimSpec(
        "differential", rows=13, columns=8, groups=2, activation_bits=3, adc_bits=3, mux=4,
        row_cycles=20, conversion_cycles=3, noise_bits=0,
    ),
    # A step a cycle and an ADC a column, so that outputs leave more slowly than vectors come.
    "native": PimSpec(
        "native", rows=5, columns=5, groups=2, weight_bits=3, activation_bits=2, slice_bits=2,
        adc_bits=4, mux=1, noise_bits=3, epilogue_lanes=2,
    ),
    # One bank, conversion longer than rows.
    "native-single": PimSpec(
        "native", rows=6, columns=6, groups=5, weight_bits=2, adc_bits=6, mux=3, row_cycles=2,
        double_buffer=False, noise_bits=2, epilogue_lanes=1,
    ),
}  # fmt: skip
"""Five models for `make test`."""

LARGE = {
    "differential-spread": PimSpec(
        "differential", rows=64, columns=32, groups=4, weight_bits=5, adc_bits=8, mux=1,
        row_cycles=3, conversion_cycles=8, epilogue_lanes=3,
    ),
    "differential-single": PimSpec(
        "differential", rows=10, columns=24, activation_bits=8, slice_bits=4, weight_bits=2,
        adc_bits=9, mux=12, row_cycles=60, double_buffer=False, noise_bits=10,
    ),
    "serial-tall": PimSpec(
        "bit_serial", rows=144, columns=64, groups=3, adc_bits=7, mux=8, conversion_cycles=8
    ),
    "serial-wide": PimSpec(
        "bit_serial", rows=32, columns=66, groups=2, weight_bits=8, activation_bits=8, adc_bits=10,
        mux=2, row_cycles=2, noise_bits=6, epilogue_lanes=1,
    ),
    "serial-bit": PimSpec(
        "bit_serial", rows=1, columns=2, groups=1, weight_bits=2, activation_bits=1, adc_bits=2,
        mux=1, noise_bits=2,
    ),
    "native-eight": PimSpec(
        "native", rows=3, columns=8, groups=16, weight_bits=8, activation_bits=4, adc_bits=10,
        mux=2, row_cycles=7, noise_bits=0,
    ),
}  # fmt: skip
"""More, for `make test-all`."""
