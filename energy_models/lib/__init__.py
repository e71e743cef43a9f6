# SPDX-License-Identifier: Apache-2.0
"""What the energy models of several engines share."""
