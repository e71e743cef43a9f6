# SPDX-License-Identifier: Apache-2.0
"""Machines: an engine, an ideal memory and a vector unit, and whole packed networks on them."""
