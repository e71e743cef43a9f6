# SPDX-License-Identifier: Apache-2.0
"""Engines that the tests build: every axis of the spec, on as few and small models as will do."""

from __future__ import annotations

from cosil.engines.attention import AttentionSpec

SMALL = {
    "one-lane": AttentionSpec(
        head_dim=16, multipliers=16, max_tokens=16, max_heads=4, topk="quick_select", fetch_beats=2
    ),
    "split": AttentionSpec(
        head_dim=8, multipliers=32, pool="split", max_tokens=16, max_heads=3, fetch_beats=4
    ),
}  # fmt: skip
"""Two models for `make test`: an engine takes several times as long to build as a selector."""

LARGE = {
    "shared": AttentionSpec(head_dim=8, multipliers=32, max_tokens=32, max_heads=5, fetch_beats=8),
    "split-quick": AttentionSpec(
        head_dim=8, multipliers=64, pool="split", max_tokens=64, max_heads=8, topk="quick_select",
        fetch_beats=2,
    ),
    "sixteen-lanes": AttentionSpec(
        head_dim=8, multipliers=128, max_tokens=64, max_heads=1, fetch_beats=16
    ),
    "stories": AttentionSpec(head_dim=8, multipliers=64, max_tokens=256, max_heads=8),
    "topics": AttentionSpec(head_dim=32, multipliers=128, max_tokens=128, max_heads=4),
}  # fmt: skip
"""More, for `make test-all`: more lanes, and the sizes of two trained networks."""
