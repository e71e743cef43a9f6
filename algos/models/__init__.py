# SPDX-License-Identifier: Apache-2.0
"""Networks, their data and their metrics; `algos.models.registry.load_model` finds them by name."""
