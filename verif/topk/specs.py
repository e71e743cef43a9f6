# SPDX-License-Identifier: Apache-2.0
"""Engines that the tests build: every axis of the spec, on as few and small models as will do."""

from __future__ import annotations

from cosil.engines.topk import TopkSpec

SMALL = {
    "radix": TopkSpec(lanes=8, max_n=100),
    "radix-digits": TopkSpec(
        lanes=4, key_bits=13, signed=True, max_n=67, digit_bits=4, buffers=2
    ),
    "radix-bit": TopkSpec(lanes=1, key_bits=1, largest=False, max_n=19, buffers=1),
    "quick": TopkSpec("quick_select", lanes=8, key_bits=8, max_n=96),
    "quick-signed": TopkSpec(
        "quick_select", lanes=4, key_bits=10, signed=True, largest=False, max_n=61, buffers=1,
        seed=0xDEADBEEF,
    ),
    "quick-lane": TopkSpec("quick_select", lanes=1, key_bits=3, max_n=23, buffers=2, seed=7),
}  # fmt: skip
"""Six models for `make test`."""

LARGE = {
    "radix-default": TopkSpec(),
    "quick-default": TopkSpec("quick_select"),
    "radix-scores": TopkSpec(key_bits=13, signed=True, digit_bits=7),
    "radix-importance": TopkSpec(key_bits=48, buffers=1),
    "radix-wide": TopkSpec(lanes=64, key_bits=7, digit_bits=8, largest=False, max_n=200),
    "quick-wide": TopkSpec("quick_select", lanes=32, key_bits=48, signed=True, max_n=300),
    "radix-pair": TopkSpec(lanes=2, key_bits=9, digit_bits=1, max_n=2, buffers=2),
    "quick-pair": TopkSpec("quick_select", lanes=2, key_bits=1, max_n=65, buffers=2),
}
"""More, for `make test-all`; with the sizes that the sparse-attention engine uses."""
