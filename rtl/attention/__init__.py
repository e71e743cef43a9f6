# SPDX-License-Identifier: Apache-2.0
"""Sparse attention engine in Amaranth (docs/engines/attention.md)."""

from rtl.attention.top import Attention

__all__ = ["Attention"]
