# SPDX-License-Identifier: Apache-2.0
"""Arrays that the tests build: every axis of the spec, on as few and small models as will do."""

from __future__ import annotations

from cosil.engines.xnor import XnorSpec

SMALL = {
    # Two words of inputs; neither the largest K nor the largest n fills its last fold.
    "binary": XnorSpec(
        pe=4, simd=10, weights="binary", epilogue="threshold", max_inputs=73, max_outputs=14,
        border_classes=9,
    ),
    # One fold of outputs, so that nothing is taken again; a tree of one stage; no border.
    "ternary": XnorSpec(
        pe=5, simd=3, weights="ternary", epilogue="threshold", max_inputs=32, max_outputs=5,
        border_classes=1,
    ),
    # One fold of inputs, so that a fold ends in every cycle.
    "ternary-fixed": XnorSpec(
        pe=3, simd=27, weights="ternary", epilogue="fixed", max_inputs=27, max_outputs=10,
        border_classes=9,
    ),
}  # fmt: skip
"""Three models for `make test`."""

LARGE = {
    # One input of one output a cycle.
    "bit": XnorSpec(
        pe=1, simd=1, epilogue="threshold", max_inputs=40, max_outputs=3, border_classes=2
    ),
    "binary-fixed": XnorSpec(
        pe=2, simd=16, epilogue="fixed", max_inputs=200, max_outputs=7, border_classes=32
    ),
    # One fold of either, and memories of one word.
    "binary-whole": XnorSpec(
        pe=8, simd=65, epilogue="threshold", max_inputs=65, max_outputs=8, border_classes=1
    ),
    "fixed-tall": XnorSpec(
        pe=7, simd=8, weights="ternary", epilogue="fixed", max_inputs=600, max_outputs=7,
        border_classes=4,
    ),
    "ternary-wide": XnorSpec(
        pe=16, simd=144, weights="ternary", max_inputs=1152, max_outputs=48, border_classes=9
    ),
}  # fmt: skip
"""More, for `make test-all`."""
