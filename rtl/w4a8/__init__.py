# SPDX-License-Identifier: Apache-2.0
"""W4A8 systolic array in Amaranth (docs/engines/w4a8.md)."""

from rtl.w4a8.top import W4A8

__all__ = ["W4A8"]
