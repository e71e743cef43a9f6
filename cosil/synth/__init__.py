# SPDX-License-Identifier: Apache-2.0
"""Generated Verilog, packaged for other tools, and what it takes in cells and megahertz."""
