# SPDX-License-Identifier: Apache-2.0
"""XNOR array in Amaranth (docs/engines/xnor.md)."""

from rtl.xnor.top import Xnor

__all__ = ["Xnor"]
