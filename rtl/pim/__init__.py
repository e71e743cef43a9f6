# SPDX-License-Identifier: Apache-2.0
"""PIM engine in Amaranth (docs/engines/pim.md)."""

from rtl.pim.top import Pim

__all__ = ["Pim"]
