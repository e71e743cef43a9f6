# SPDX-License-Identifier: Apache-2.0
"""Top-k engine in Amaranth (docs/engines/topk.md)."""

from rtl.topk.top import Topk

__all__ = ["Topk"]
